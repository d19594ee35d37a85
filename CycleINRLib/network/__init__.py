"""Floor 2: the network, its weights and its device; torch, and no image format."""
