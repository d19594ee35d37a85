"""Other methods beside CycleINR, in one run: no part of the package (see docs/peers.md)."""
