"""HPT (HyperGAI): LLaVA's parts, with a vision encoder that looks at larger pictures.

A published folder holds ``llm/``, ``visual_encoder/`` and ``projector/``, as XTuner exports them,
so HPT is a ``LLaVAModel`` but for the size of its pictures.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from inlay.core.errors import ModelError
from inlay.models.llava import LLaVAModel
from inlay.models.load_vlm import load_parts

PARTS = ("llm/*", "visual_encoder/*", "projector/*")
SELECT_LAYER = -2


def load_hpt(
    path: str,
    *,
    image_size: int | None = None,
    dtype: str | torch.dtype = "auto",
    bits: int | None = None,
    device: str | torch.device | None = None,
) -> LLaVAModel:
    """Load a published HPT (``HyperGAI/HPT``: Yi-6B-Chat and CLIP; 1.5 Air: Llama 3 and SigLIP).

    The layout of the folders and the sizes are those that the original code asks for. No published
    file was at hand: what their own ``config.json`` say was not checked.

    Args:
        path: folder or hub name.
        image_size: side of the pictures in px (F-LMM: 392 for HPT Air, 448 for 1.5 Air); None: that
            of the encoder.
        dtype, bits, device: as ``load_causal_lm`` takes them; ``bits`` is for the language model.

    Raises:
        ModelError: a part is missing or does not fit.
    """
    folder = _local(path)
    model = load_parts(
        folder,
        folder,
        visual_select_layer=SELECT_LAYER,
        dtype=dtype,
        bits=bits,
        device=device,
    )
    if image_size is not None:
        resize_positions(model.visual_encoder, image_size)
    return model


def _local(path: str) -> str:
    """The folder, fetched from the hub where ``path`` is none."""
    folder = path
    if not Path(path).is_dir():
        from huggingface_hub import snapshot_download

        try:
            folder = snapshot_download(path, allow_patterns=[*PARTS], ignore_patterns=["*.bin"])
        except (OSError, ValueError) as error:
            raise ModelError(f"'{path}' is neither a folder nor a hub name: {error}") from error
    for part in PARTS:
        if not (Path(folder) / part).parent.is_dir():
            raise ModelError(
                f"'{path}' is no HPT folder: it must hold llm/, visual_encoder/ and projector/, "
                f"found no {part.removesuffix('*')}"
            )
    return folder


def resize_positions(encoder: Any, image_size: int) -> None:
    """Stretch the position embedding of CLIP or SigLIP to pictures of another size, in place.

    Bicubic over the grid of patches, without aligning corners, in float32; a class token keeps its
    vector.

    Args:
        encoder: a transformers vision model with a learned vector for each patch.
        image_size: new side of the pictures, px.

    Raises:
        ModelError: the encoder has no such square grid of vectors.
    """
    embeddings: Any = getattr(getattr(encoder, "vision_model", encoder), "embeddings", None)
    positions: Any = getattr(embeddings, "position_embedding", None)
    config = encoder.config
    old, new = (size // config.patch_size for size in (config.image_size, image_size))
    first = len(positions.weight) - old**2 if isinstance(positions, nn.Embedding) else -1
    if first not in (0, 1):
        raise ModelError(
            f"{type(encoder).__name__} has no learned position for each of its {old} x {old} "
            "patches: only encoders such as CLIP and SigLIP can be stretched to another size"
        )
    weight = stretch(positions.weight, old, new, first)
    frozen = not positions.weight.requires_grad
    embeddings.position_embedding = nn.Embedding.from_pretrained(weight, freeze=frozen)
    embeddings.position_ids = torch.arange(len(weight), device=weight.device)[None]
    embeddings.num_patches, embeddings.num_positions = new**2, len(weight)
    embeddings.image_size = config.image_size = image_size


@torch.no_grad()
def stretch(weight: torch.Tensor, old: int, new: int, first: int) -> torch.Tensor:
    """Return ``[first + new * new, C]`` of positions ``[first + old * old, C]``, row by row."""
    grid = weight[first:].float().T.unflatten(1, (old, old))[None]
    large = F.interpolate(grid, size=(new, new), mode="bicubic")
    return torch.cat([weight[:first], large[0].flatten(1).T.to(weight.dtype)])
