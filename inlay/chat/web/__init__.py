"""The chat as a page: one model, many visitors."""
