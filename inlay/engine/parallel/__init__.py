"""Strategies: who owns synchronisation, backward, loss scale, clipping and the optimizer step."""
