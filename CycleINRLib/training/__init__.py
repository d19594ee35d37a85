"""Floor 3: from thin scans to weights."""
