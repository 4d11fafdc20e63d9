"""The names of SAM's weights: segment-anything's own, and those of transformers' ``SamModel``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

T = TypeVar("T")

SHARED = "shared_image_embedding.positional_embedding"
ALIAS = "prompt_encoder.shared_embedding.positional_embedding"
"""One tensor that transformers knows by two names."""

_MLP = {"layers.0.": "proj_in.", "layers.1.": "layers.0.", "layers.2.": "proj_out."}

BEGINNINGS = {
    "image_encoder.patch_embed.proj.": "vision_encoder.patch_embed.projection.",
    "image_encoder.pos_embed": "vision_encoder.pos_embed",
    **{
        f"image_encoder.blocks.#.{theirs}.": f"vision_encoder.layers.#.{ours}."
        for theirs, ours in (
            ("norm1", "layer_norm1"),
            ("norm2", "layer_norm2"),
            ("attn", "attn"),
            ("mlp", "mlp"),
        )
    },
    "image_encoder.neck.0.": "vision_encoder.neck.conv1.",
    "image_encoder.neck.1.": "vision_encoder.neck.layer_norm1.",
    "image_encoder.neck.2.": "vision_encoder.neck.conv2.",
    "image_encoder.neck.3.": "vision_encoder.neck.layer_norm2.",
    "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": SHARED,
    "prompt_encoder.point_embeddings.#.": "prompt_encoder.point_embed.#.",
    "prompt_encoder.not_a_point_embed.": "prompt_encoder.not_a_point_embed.",
    "prompt_encoder.no_mask_embed.": "prompt_encoder.no_mask_embed.",
    "prompt_encoder.mask_downscaling.0.": "prompt_encoder.mask_embed.conv1.",
    "prompt_encoder.mask_downscaling.1.": "prompt_encoder.mask_embed.layer_norm1.",
    "prompt_encoder.mask_downscaling.3.": "prompt_encoder.mask_embed.conv2.",
    "prompt_encoder.mask_downscaling.4.": "prompt_encoder.mask_embed.layer_norm2.",
    "prompt_encoder.mask_downscaling.6.": "prompt_encoder.mask_embed.conv3.",
    "mask_decoder.iou_token.": "mask_decoder.iou_token.",
    "mask_decoder.mask_tokens.": "mask_decoder.mask_tokens.",
    "mask_decoder.output_upscaling.0.": "mask_decoder.upscale_conv1.",
    "mask_decoder.output_upscaling.1.": "mask_decoder.upscale_layer_norm.",
    "mask_decoder.output_upscaling.3.": "mask_decoder.upscale_conv2.",
    **{
        f"mask_decoder.{mlp}.{theirs}": f"mask_decoder.{mlp}.{ours}"
        for mlp in ("output_hypernetworks_mlps.#", "iou_prediction_head")
        for theirs, ours in _MLP.items()
    },
    **{
        f"mask_decoder.transformer.layers.#.norm{i}.": (
            f"mask_decoder.transformer.layers.#.layer_norm{i}."
        )
        for i in range(1, 5)
    },
    **{
        f"mask_decoder.transformer.layers.#.{part}.": f"mask_decoder.transformer.layers.#.{part}."
        for part in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token", "mlp")
    },
    "mask_decoder.transformer.final_attn_token_to_image.": (
        "mask_decoder.transformer.final_attn_token_to_image."
    ),
    "mask_decoder.transformer.norm_final_attn.": "mask_decoder.transformer.layer_norm_final_attn.",
}
"""How names begin in segment-anything and in transformers; # is a number. The same for vit_b, vit_l
and vit_h. Shapes are the same on both sides."""


def to_hf(state: Mapping[str, T]) -> dict[str, T]:
    """Return weights of segment-anything (any of its three parts) by the names of ``SamModel``.

    Raises:
        KeyError: a name that segment-anything does not have.
    """
    renamed = _rename(state, BEGINNINGS)
    if SHARED in renamed:
        renamed[ALIAS] = renamed[SHARED]
    return renamed


def from_hf(state: Mapping[str, T]) -> dict[str, T]:
    """Return weights of a ``SamModel`` by the names of segment-anything.

    Raises:
        KeyError: a name that ``SamModel`` does not have.
    """
    state = {name: tensor for name, tensor in state.items() if name != ALIAS}
    return _rename(state, {new: old for old, new in BEGINNINGS.items()})


def _rename(state: Mapping[str, T], beginnings: Mapping[str, str]) -> dict[str, T]:
    patterns = [
        (re.compile(re.escape(old).replace(r"\#", r"(\d+)")), new)
        for old, new in beginnings.items()
    ]
    renamed = {}
    for name, tensor in state.items():
        for pattern, new in patterns:
            if match := pattern.match(name):
                number = match[1] if match.groups() else ""
                renamed[new.replace("#", number) + name[match.end() :]] = tensor
                break
        else:
            raise KeyError(name)
    return renamed
