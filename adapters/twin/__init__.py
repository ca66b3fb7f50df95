"""The simulator: plant physics, wire server, faults."""
