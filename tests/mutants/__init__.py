"""The safety path broken by hand, one way at a time: each has to fail a test."""
