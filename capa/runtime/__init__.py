"""The engine: rig, gate, conductor, safe state."""
