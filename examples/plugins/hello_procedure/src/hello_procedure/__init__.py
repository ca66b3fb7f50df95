"""An example of a procedure as a package of its own."""
