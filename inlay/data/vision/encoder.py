"""What an image processor must know of a vision encoder: its view, its patch size."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inlay.core.errors import ConfigError
from inlay.data.vision.resize import View


def encoder_view(visual_encoder: str | Path) -> tuple[View, int]:
    """Return the view that an encoder expects, and the side of its patches in px.

    Args:
        visual_encoder: folder or hub name of a vision model of transformers (CLIP, SigLIP,
            SigLIP2 of fixed resolution, DINOv2, ViT ...), with its ``preprocessor_config.json``;
            of a CLIP-like pair its vision half counts.

    Raises:
        ConfigError: no image processor or config there, views of varying size, no patches.
    """
    from transformers import AutoConfig, AutoImageProcessor

    name = str(visual_encoder)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        processor: Any = AutoImageProcessor.from_pretrained(
            name, backend="pil", trust_remote_code=False
        )
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(
            f"visual_encoder '{name}' must be a folder or hub name with a config.json and a"
            f" preprocessor_config.json: {error}"
        ) from None
    config = getattr(config, "vision_config", config)
    patch_size = getattr(config, "patch_size", None)
    if not isinstance(patch_size, int):
        raise ConfigError(
            f"visual_encoder '{name}' ({config.model_type}) has no square patches (patch_size"
            f" {patch_size!r}): use a vision transformer such as CLIP, SigLIP or DINOv2"
        )
    return View.of(processor), patch_size


def tokens_per_view(height: int, width: int, patch_size: int, pixel_shuffle_factor: int) -> int:
    """Return how many tokens one view becomes: its patches, divided by the factor squared.

    Raises:
        ConfigError: the rows or columns of patches do not divide by ``pixel_shuffle_factor``.
    """
    rows, columns = height // patch_size, width // patch_size
    factor = pixel_shuffle_factor
    if factor < 1 or rows % factor or columns % factor or not rows * columns:
        fits = [f for f in range(1, 17) if rows % f == 0 and columns % f == 0 and f <= rows]
        raise ConfigError(
            f"pixel_shuffle_factor {factor} does not divide {rows}x{columns} patches"
            f" ({height}x{width} px by {patch_size} px); possible: {fits}"
        )
    return (rows // factor) * (columns // factor)
