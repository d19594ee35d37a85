"""Many scans upsampled alike: what is done, by whom, and what came of it (floor 4)."""
