"""What a device is to the engine: adapters, links, twins, and how families are found."""
