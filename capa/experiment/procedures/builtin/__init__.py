"""The procedures that ship with capa."""
