"""Floor 4: one job in a process of its own, both sides of it (design section 4.4)."""
