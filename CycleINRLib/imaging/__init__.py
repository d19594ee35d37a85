"""Floor 1: volumes, their geometry, slice profiles and measures; numpy and scipy only."""
