"""Floor 1: volumes, their places, slice profiles and measures; numpy and scipy only."""
