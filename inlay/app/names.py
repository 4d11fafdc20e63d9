"""The names that a config may write as ``type="Name"``."""

from __future__ import annotations

import inlay.data
import inlay.engine
import inlay.engine.hooks
import inlay.models
from inlay.config.registry import register

OPTIMIZERS = ("Adam", "AdamW", "Adafactor", "Adagrad", "Adamax", "NAdam", "RAdam", "RMSprop", "SGD")


def register_names() -> None:
    """Register every public class of ours, and torch's optimizers; nothing is imported for it."""
    for module in (inlay.engine.hooks, inlay.engine, inlay.models, inlay.data):
        for name in module.__all__:
            register(name, f"{module.__name__}.{name}")
    for name in OPTIMIZERS:
        register(name, f"torch.optim.{name}")
