"""The training engine. Names are imported on first use, so that a config file loads at once."""

from __future__ import annotations

from typing import Any

_HOMES = {
    "OptimWrapper": "inlay.engine.settings",
    "TrainLoop": "inlay.engine.settings",
    "LinearLR": "inlay.engine.schedule",
    "CosineAnnealingLR": "inlay.engine.schedule",
    "ConstantLR": "inlay.engine.schedule",
    "ExponentialLR": "inlay.engine.schedule",
    "MultiStepLR": "inlay.engine.schedule",
    "PolyLR": "inlay.engine.schedule",
    "StepLR": "inlay.engine.schedule",
    "WarmupCosineLR": "inlay.engine.schedule",
    "FunctionLR": "inlay.engine.schedule",
    "DeepSpeed": "inlay.engine.parallel.deepspeed_config",
    "Runner": "inlay.engine.runner",
    "DataParallel": "inlay.engine.parallel.ddp",
    "FullySharded": "inlay.engine.parallel.fsdp",
    "Visualizer": "inlay.engine.trackers",
    "LocalVisBackend": "inlay.engine.trackers",
    "TensorboardVisBackend": "inlay.engine.trackers",
    "WandbVisBackend": "inlay.engine.trackers",
    "TrackioVisBackend": "inlay.engine.trackers",
}
__all__ = [
    "ConstantLR",
    "CosineAnnealingLR",
    "DataParallel",
    "DeepSpeed",
    "ExponentialLR",
    "FullySharded",
    "FunctionLR",
    "LinearLR",
    "LocalVisBackend",
    "MultiStepLR",
    "OptimWrapper",
    "PolyLR",
    "Runner",
    "StepLR",
    "TensorboardVisBackend",
    "TrackioVisBackend",
    "TrainLoop",
    "Visualizer",
    "WandbVisBackend",
    "WarmupCosineLR",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'inlay.engine' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
