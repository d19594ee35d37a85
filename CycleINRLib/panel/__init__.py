"""Floor 1: what the panel says and shows; no Qt, no scene."""
