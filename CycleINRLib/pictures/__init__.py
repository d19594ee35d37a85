"""Floor 4: pictures of volumes and of training runs; matplotlib."""
