"""The three acts of `inlay demo`."""
