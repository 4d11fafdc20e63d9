"""What differs between the families of image-text-to-text models: one visible table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Family:
    """How a family takes a row of documents and their pictures.

    Attributes:
        packs: its language model keeps to the document borders that ``attention`` draws, so the
            whole row is one call. Else every document is a call of its own, which is always right:
            the library builds the masks (image tokens of Gemma 3 see each other both ways).
        mrope: positions have three axes, from the model's own ``get_rope_index``.
        batch_axis: pixels are ``[1, tiles, ...]`` instead of ``[tiles, ...]``.
        prefix_sees_itself: the prompt is attended to both ways (PaliGemma).
        tower: a vision model whose selected layer leaves weights unused.
    """

    packs: bool = False
    mrope: bool = False
    batch_axis: bool = False
    prefix_sees_itself: bool = False
    tower: str | None = None


QWEN = Family(packs=True, mrope=True)
IDEFICS = Family(packs=True, batch_axis=True)
FAMILIES = {
    "qwen2_vl": QWEN,
    "qwen2_5_vl": QWEN,
    "qwen3_vl": QWEN,
    "qwen3_vl_moe": QWEN,
    "smolvlm": IDEFICS,
    "idefics3": IDEFICS,
    "internvl": Family(packs=True),
    "llava": Family(packs=True, tower="vision_tower"),
    "llava_next": Family(packs=True, tower="vision_tower"),
    "llava_onevision": Family(packs=True, tower="vision_tower"),
    "deepseek_vl": Family(packs=True, tower="vision_model"),
    "deepseek_vl_hybrid": Family(packs=True, tower="vision_model"),
    "gemma3": Family(tower="vision_tower"),
    "paligemma": Family(prefix_sees_itself=True, tower="vision_tower"),
}


def family_of(config: Any) -> Family:
    """Return the family of a model's config; an unknown one takes one document at a time."""
    return FAMILIES.get(config.model_type, Family())
