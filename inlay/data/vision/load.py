"""Image processors beside a model's weights: ``image_processor.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inlay.core.errors import ConfigError, did_you_mean
from inlay.core.io import write_json, write_text
from inlay.core.types import ImageProcessor
from inlay.data.vision.common import add_special_tokens, read_json_of
from inlay.data.vision.hf import HFImageProcessor
from inlay.data.vision.padded import PaddedImageProcessor
from inlay.data.vision.resize import BILINEAR, View
from inlay.data.vision.square import SquareImageProcessor
from inlay.data.vision.tiled import TiledImageProcessor

FILE = "image_processor.json"
"""Kind and settings of the image processor; no paths in it, so that the folder can be moved."""

_KINDS = {
    "square": SquareImageProcessor,
    "tiled": TiledImageProcessor,
    "padded": PaddedImageProcessor,
    "hf": HFImageProcessor,
}


def save_image_processor(processor: ImageProcessor, folder: str | Path) -> None:
    """Write ``image_processor.json`` to ``folder``; for an HF model also ``processor_config.json``.

    The tokenizer and its chat template are not written, nor is a user's ``image_transform``, which
    belongs to training.

    Raises:
        OSError: disk full, no permission.
    """
    kind = next((name for name, cls in _KINDS.items() if type(processor) is cls), None)
    if kind is None:
        raise ConfigError(
            f"a {type(processor).__name__} cannot be saved: only {', '.join(_KINDS)} processors"
            " have a place in a model folder"
        )
    if isinstance(processor, HFImageProcessor):
        write_text(Path(folder) / "processor_config.json", processor.processor.to_json_string())
    write_json(Path(folder) / FILE, {"kind": kind, **processor.settings()})  # type: ignore[attr-defined]


def load_image_processor(folder: str | Path, tokenizer: Any) -> ImageProcessor:
    """Return the image processor of a model folder (or hub name).

    The first of: ``image_processor.json``; a ``config.json`` of nanoVLM's; the processor of an
    image-text-to-text model of transformers. ``tokenizer`` learns the special tokens it lacks.

    Raises:
        ConfigError: ``image_processor.json`` is not one of ours.
        ModelError: there is none of the three.
    """
    name = str(folder)
    stored = read_json_of(name, FILE)
    if stored is not None:
        return _from_settings(stored, folder, tokenizer)
    config = read_json_of(name, "config.json") or {}
    if "vit_model_type" in config:
        return from_nanovlm_config(config, tokenizer)
    return HFImageProcessor(folder, tokenizer)


def _from_settings(stored: dict[str, Any], folder: str | Path, tokenizer: Any) -> ImageProcessor:
    settings = {key: value for key, value in stored.items() if key != "kind"}
    kind = str(stored.get("kind"))
    try:
        if kind == "square":
            return SquareImageProcessor.from_settings(tokenizer, settings)
        if kind == "tiled":
            return TiledImageProcessor(tokenizer, **settings)
        if kind == "padded":
            return PaddedImageProcessor(tokenizer, **settings)
        if kind == "hf":
            return HFImageProcessor(folder, tokenizer, **settings)
    except (KeyError, TypeError) as error:
        raise ConfigError(f"{folder}/{FILE}: settings of kind '{kind}' expected: {error}") from None
    raise ConfigError(
        f"{folder}/{FILE}: kind must be one of {', '.join(_KINDS)}, found '{kind}'."
        + did_you_mean(kind, _KINDS)
    )


def from_nanovlm_config(config: dict[str, Any], tokenizer: Any) -> ImageProcessor:
    """Return the image processor of a published nanoVLM folder from its ``config.json``.

    Pixels stay in [0, 1]: these models were trained without normalisation. Checkpoints from before
    tiling (one view of ``vit_img_size``, no position tokens) get a square processor.

    Args:
        config: the ``VLMConfig`` as JSON.
        tokenizer: that of its language model; learns ``vlm_extra_tokens`` in their order.

    Raises:
        ConfigError: a value is missing, or the number of tokens a tile does not follow from sizes.
    """
    extra = config.get("vlm_extra_tokens") or {}
    image_token = extra.get("image_token", "<|image|>")
    add_special_tokens(tokenizer, list(extra.values()))
    try:
        side, tokens = config["vit_img_size"], config["mp_image_token_length"]
        if "r1c1" not in extra:
            view = View(height=side, width=side, resample=BILINEAR).settings()
            settings = {"view": view, "num_tokens": tokens, "pad_to_square": False}
            return SquareImageProcessor.from_settings(
                tokenizer, {**settings, "image_token": image_token}
            )
        processor = TiledImageProcessor(
            tokenizer,
            tile_size=side,
            patch_size=config["vit_patch_size"],
            pixel_shuffle_factor=config["mp_pixel_shuffle_factor"],
            max_image_size=config["max_img_size"],
            resize_to_max=config.get("resize_to_max_side_len", False),
            global_view="global_image_token" in extra,
            image_mean=None,
            image_std=None,
            image_token=image_token,
            global_token=extra.get("global_image_token", "<|global_image|>"),
        )
    except KeyError as error:
        raise ConfigError(f"nanoVLM's config.json lacks {error}") from None
    if processor.tokens_per_tile != tokens:
        raise ConfigError(
            f"nanoVLM's config.json: mp_image_token_length {tokens} does not follow from its sizes"
            f" ({processor.tokens_per_tile} tokens a tile)"
        )
    return processor
