"""Floor 4: every method on scans whose truth is known."""
