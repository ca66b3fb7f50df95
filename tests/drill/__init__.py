"""The drill: the rig is hurt in every way that we know, and the wire says whether it ended safe."""
