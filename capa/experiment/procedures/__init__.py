"""Procedures: the code that drives one run."""
