"""One install from desired state to confirmed generation, and every way back from the middle of it."""
