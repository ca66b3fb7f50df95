"""The daemon: spool, signals, supervision, and the wiring of a rig."""
