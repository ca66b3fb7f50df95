"""Measurements of the daemon as its users meet it; `make bench` runs them all."""
