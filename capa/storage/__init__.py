"""Bundles: recording, sealing, verifying."""
