"""Memory: told before a run, measured by batch size, and what to do when it is short."""
