"""Floor 3: what the product does; Volumes in, Volumes out, no image files."""
