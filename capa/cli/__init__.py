"""The offline tool `capa`."""
