"""The padded view of a published model, from the JSON files of its folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from inlay.core.errors import ConfigError
from inlay.data.vision.common import read_json_of
from inlay.data.vision.padded import PaddedImageProcessor

_PATCH = re.compile(r"patch(\d+)")
_HALF = (0.5, 0.5, 0.5)
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def load_padded_processor(
    pretrained_model_name_or_path: str,
    tokenizer: Any,
    *,
    subfolder: str | None = None,
    image_size: int | None = None,
    image_token: str = "<image>",
) -> PaddedImageProcessor:
    """Return the processor that F-LMM shows a model pictures with (arXiv 2406.05821).

    Args:
        pretrained_model_name_or_path: folder or hub name of a DeepSeek-VL (the authors' layout or
            that of transformers), or of a CLIP or SigLIP.
        tokenizer: of the language model.
        subfolder: where the files lie in it.
        image_size: side of the view in px; None: that of the files.
        image_token: text of the token that features replace.

    Raises:
        ConfigError: the files do not say how large pictures and patches are.
    """
    path, folder = pretrained_model_name_or_path, f"{subfolder}/" if subfolder else ""
    config = read_json_of(path, f"{folder}config.json") or {}
    prepared = read_json_of(path, f"{folder}preprocessor_config.json") or {}
    vision = _dict(config, "vision_config") or config
    is_deepseek = "cls" in vision or str(config.get("model_type")).startswith("deepseek_vl")
    found = _deepseek(config, vision, prepared) if is_deepseek else _encoder(vision, prepared)
    if image_size is not None:
        found["image_size"] = image_size
    for key in ("image_size", "patch_size", "high_resolution"):
        if not isinstance(found.get(key, 1), int):
            raise ConfigError(
                f"'{path}' does not say its {key}: it must hold the config.json of a DeepSeek-VL, "
                "a CLIP or a SigLIP"
            )
    return PaddedImageProcessor(tokenizer, image_token=image_token, **found)


def _encoder(vision: Mapping[str, Any], prepared: Mapping[str, Any]) -> dict[str, Any]:
    """A vision encoder on its own."""
    is_clip = str(vision.get("model_type", "")).startswith("clip")
    return {
        "image_size": vision.get("image_size"),
        "patch_size": vision.get("patch_size"),
        "image_mean": prepared.get("image_mean") or (_CLIP_MEAN if is_clip else _HALF),
        "image_std": prepared.get("image_std") or (_CLIP_STD if is_clip else _HALF),
        "min_size": 1,
    }


def _deepseek(
    config: Mapping[str, Any], vision: Mapping[str, Any], prepared: Mapping[str, Any]
) -> dict[str, Any]:
    """DeepSeek-VL: one view, or the hybrid encoder's small and large ones."""
    params = _dict(vision, "params")
    low = _dict(params, "low_res_cfg") or params or vision
    high = _dict(params, "high_res_cfg") or _dict(config, "high_res_vision_config")
    is_hybrid = bool(high) or "Hybrid" in str(vision.get("cls"))
    patch = low.get("patch_size") or _patch_of(str(low.get("model_name", "")))
    found: dict[str, Any] = {
        "image_size": low.get("image_size"),
        "patch_size": patch,
        "image_mean": low.get("pixel_mean") or (None if is_hybrid else prepared.get("image_mean")),
        "image_std": low.get("pixel_std") or (None if is_hybrid else prepared.get("image_std")),
        "min_size": int(prepared.get("min_size", 14)),
    }
    found |= {key: found[key] or _HALF for key in ("image_mean", "image_std")}
    if is_hybrid:
        found["high_resolution"] = high.get("image_size") or prepared.get("image_size")
        mean = high.get("pixel_mean") or prepared.get("high_res_image_mean") or _CLIP_MEAN
        std = high.get("pixel_std") or prepared.get("high_res_image_std") or _CLIP_STD
        found |= {"high_res_mean": mean, "high_res_std": std}
    return found


def _patch_of(name: str) -> int:
    found = _PATCH.search(name)
    return int(found[1]) if found else 16


def _dict(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = values.get(key)
    return value if isinstance(value, dict) else {}
