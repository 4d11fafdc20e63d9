"""Rows for new tokens, and picture features in the place of image tokens."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from inlay.core.errors import ModelError

IMAGE_TOKENS = ("<image>", "<|image|>")
NEW_ROW_STD = 0.02


def image_token_id(tokenizer: Any) -> int | None:
    """Id of the token that picture features replace, or None where the tokenizer names none."""
    if getattr(tokenizer, "image_token_id", None) is not None:
        return int(tokenizer.image_token_id)
    vocabulary = tokenizer.get_vocab()
    return next((vocabulary[token] for token in IMAGE_TOKENS if token in vocabulary), None)


def positions_of(image_token: int | None, input_ids: torch.Tensor) -> torch.Tensor:
    """Return int64 ``[K]``, where the image tokens stand in a row of ids ``[1, N]``.

    Raises:
        ModelError: no image token is known.
    """
    if image_token is None:
        raise ModelError(
            "pictures without image_positions, and no image token is known: give the model a "
            "tokenizer that has one, or set model.image_token_id"
        )
    return input_ids[0].eq(image_token).nonzero(as_tuple=True)[0]


def grow_embedding(llm: Any, num_tokens: int, image_token: int | None) -> int:
    """Give every token of the tokenizer a row; new rows, input and output, are N(0, 0.02).

    An image token that comes last needs none, since features always take its place: the model
    keeps its size, and an adapter trained on it fits the base model.

    Args:
        llm: a transformers causal language model, not yet wrapped; tied heads stay tied.
        num_tokens: size of the tokenizer.

    Returns:
        Number of new rows.
    """
    needed = num_tokens - (image_token == num_tokens - 1)
    old = llm.get_input_embeddings().weight.shape[0]
    if needed <= old:
        return 0
    llm.resize_token_embeddings(needed, mean_resizing=False)
    head = llm.get_output_embeddings()
    rows = {id(m.weight): m.weight for m in (llm.get_input_embeddings(), head) if m is not None}
    with torch.no_grad():
        for weight in rows.values():
            nn.init.normal_(weight[old:], std=NEW_ROW_STD)
    return needed - old


def warn_of_untrained_rows(llm: Any, new_rows: int) -> None:
    """Say that new tokens keep random vectors where the embedding is frozen."""
    if new_rows and not llm.get_input_embeddings().weight.requires_grad:
        logging.getLogger(__name__).warning(
            "%d new tokens got random embeddings that are not trained: the language model is "
            "frozen. Train it, or list its embedding in the LoRA's modules_to_save.",
            new_rows,
        )


def merge_features(
    embeds: torch.Tensor, features: torch.Tensor, image_positions: torch.Tensor
) -> torch.Tensor:
    """Put picture features into a row of embeddings, in order of appearance.

    Args:
        embeds: ``[1, N, width]``.
        features: ``[pictures, tokens of each, width]``; cast to the dtype of ``embeds``.
        image_positions: int64 ``[K]`` positions in the row.

    Raises:
        ModelError: the pictures do not give exactly ``K`` features.
    """
    found, expected = features.shape[0] * features.shape[1], len(image_positions)
    if found != expected:
        raise ModelError(
            f"the row has {expected} image tokens, but its {len(features)} pictures give {found} "
            f"features ({features.shape[1]} each). Image processor and model must agree: check the "
            "visual encoder (picture and patch size) and pixel_shuffle_factor of both."
        )
    return embeds.index_copy(1, image_positions, features.flatten(0, 1)[None].to(embeds.dtype))
