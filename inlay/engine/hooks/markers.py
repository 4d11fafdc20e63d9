"""Entries of ``default_hooks`` whose work the engine does itself.

The originals need these two hooks; configs list them, and leaving one out changed the run. Here the
loop sets the learning rate and the loader orders every epoch, so they only mark their place.
"""

from __future__ import annotations

from inlay.engine.hooks.base import Hook


class ParamSchedulerHook(Hook):
    """Marks that ``param_scheduler`` is in force; the loop reads the rate at every update."""

    priority = "LOW"


class DistSamplerSeedHook(Hook):
    """Marks that every epoch has its own order; the loader derives it from seed and epoch."""
