"""Rows to batches: formats, templates, tokens and loss masks, packing, loading.

Names are imported when they are first used, so that config files may import them at no cost.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inlay.data.chat import ChatEncoder
    from inlay.data.formats import FORMATS, detect_format
    from inlay.data.grounding.dataset import GroundingDataset
    from inlay.data.grounding.phrases import PhraseSet
    from inlay.data.grounding.png import PNG
    from inlay.data.grounding.refcoco import RefCOCO
    from inlay.data.grounding.sequence import SequenceBuilder
    from inlay.data.loader import WindowLoader
    from inlay.data.map_fns import MAP_FNS
    from inlay.data.sampler import LengthGroupedSampler
    from inlay.data.sft import ChatDataset
    from inlay.data.stream import StreamDataset, StreamLoader
    from inlay.data.templates import PROMPT_TEMPLATE, SYSTEM_TEMPLATE
    from inlay.data.vision.hf import HFImageProcessor
    from inlay.data.vision.mgm import MGMImageProcessor
    from inlay.data.vision.padded import PaddedImageProcessor
    from inlay.data.vision.padded_load import load_padded_processor
    from inlay.data.vision.square import SquareImageProcessor
    from inlay.data.vision.tiled import TiledImageProcessor

_HOMES = {
    "ChatDataset": "sft",
    "ChatEncoder": "chat",
    "FORMATS": "formats",
    "GroundingDataset": "grounding.dataset",
    "HFImageProcessor": "vision.hf",
    "LengthGroupedSampler": "sampler",
    "MAP_FNS": "map_fns",
    "MGMImageProcessor": "vision.mgm",
    "PNG": "grounding.png",
    "PROMPT_TEMPLATE": "templates",
    "PaddedImageProcessor": "vision.padded",
    "PhraseSet": "grounding.phrases",
    "RefCOCO": "grounding.refcoco",
    "SYSTEM_TEMPLATE": "templates",
    "SequenceBuilder": "grounding.sequence",
    "SquareImageProcessor": "vision.square",
    "StreamDataset": "stream",
    "StreamLoader": "stream",
    "TiledImageProcessor": "vision.tiled",
    "WindowLoader": "loader",
    "detect_format": "formats",
    "load_padded_processor": "vision.padded_load",
}

__all__ = [
    "FORMATS",
    "MAP_FNS",
    "PNG",
    "PROMPT_TEMPLATE",
    "SYSTEM_TEMPLATE",
    "ChatDataset",
    "ChatEncoder",
    "GroundingDataset",
    "HFImageProcessor",
    "LengthGroupedSampler",
    "MGMImageProcessor",
    "PaddedImageProcessor",
    "PhraseSet",
    "RefCOCO",
    "SequenceBuilder",
    "SquareImageProcessor",
    "StreamDataset",
    "StreamLoader",
    "TiledImageProcessor",
    "WindowLoader",
    "detect_format",
    "load_padded_processor",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name, "map_fns" if name.endswith("_map_fn") else None)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{home}"), name)
