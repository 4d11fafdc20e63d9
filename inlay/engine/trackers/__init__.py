"""Where records of a run go. Names are imported on first use, so that a config file loads at once.

``RunInfo`` and the interface are in ``base``; ``Guarded`` in ``guard`` stands before every tracker
of a run.
"""

from __future__ import annotations

from typing import Any

_HOMES = {
    "RunInfo": "base",
    "Tracker": "base",
    "Visualizer": "base",
    "LocalVisBackend": "local",
    "TensorboardVisBackend": "tensorboard",
    "WandbVisBackend": "wandb",
    "TrackioVisBackend": "trackio",
    "Guarded": "guard",
}
__all__ = [
    "Guarded",
    "LocalVisBackend",
    "RunInfo",
    "TensorboardVisBackend",
    "Tracker",
    "TrackioVisBackend",
    "Visualizer",
    "WandbVisBackend",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'inlay.engine.trackers' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"inlay.engine.trackers.{_HOMES[name]}"), name)
