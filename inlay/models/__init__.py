"""Models to train. Names are imported on first use, so that a config file loads at once."""

from __future__ import annotations

from typing import Any

_HOMES = {
    "DeepSeekVLAdapter": "inlay.models.grounding.adapters.deepseek_vl",
    "FeatureCache": "inlay.models.grounding.cache",
    "FrozenGrounding": "inlay.models.grounding.model",
    "GenericAdapter": "inlay.models.grounding.adapters.generic",
    "HPTAdapter": "inlay.models.grounding.adapters.hpt",
    "KeywordSelector": "inlay.models.grounding.selector",
    "LLaVAAdapter": "inlay.models.grounding.adapters.llava",
    "LLaVAModel": "inlay.models.llava",
    "LLaVANextAdapter": "inlay.models.grounding.adapters.llava_next",
    "MGMAdapter": "inlay.models.grounding.adapters.mgm",
    "Sam2Refiner": "inlay.models.grounding.sam2",
    "SamRefiner": "inlay.models.grounding.sam",
    "SupervisedFinetune": "inlay.models.sft",
    "UNetHead": "inlay.models.grounding.mask_head",
    "VisionFinetune": "inlay.models.vlm",
    "load_visual_encoder": "inlay.models.vision",
}
__all__ = [
    "DeepSeekVLAdapter",
    "FeatureCache",
    "FrozenGrounding",
    "GenericAdapter",
    "HPTAdapter",
    "KeywordSelector",
    "LLaVAAdapter",
    "LLaVAModel",
    "LLaVANextAdapter",
    "MGMAdapter",
    "Sam2Refiner",
    "SamRefiner",
    "SupervisedFinetune",
    "UNetHead",
    "VisionFinetune",
    "load_visual_encoder",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'inlay.models' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
