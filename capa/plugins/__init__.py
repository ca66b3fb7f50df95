"""Plug-in discovery."""
