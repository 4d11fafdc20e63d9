"""Models to train. Names are imported on first use, so that a config file loads at once."""

from __future__ import annotations

from typing import Any

_HOMES = {
    "LLaVAModel": "inlay.models.llava",
    "SupervisedFinetune": "inlay.models.sft",
    "VisionFinetune": "inlay.models.vlm",
    "load_visual_encoder": "inlay.models.vision",
}
__all__ = ["LLaVAModel", "SupervisedFinetune", "VisionFinetune", "load_visual_encoder"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'inlay.models' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
