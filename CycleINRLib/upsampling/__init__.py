"""Floor 3: the main job; a Volume in, a Volume and its report out."""
