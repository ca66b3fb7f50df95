"""An example of a procedure with a custom method step."""
