"""MGM as one model that takes a flat row of documents."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from inlay.models.attention import NAME
from inlay.models.llava import LLaVAModel
from inlay.models.mgm.vision import MGMVision
from inlay.models.projector import Projector


class MGMModel(LLaVAModel):
    """A language model that sees through ``MGMVision`` (arXiv 2403.18814), frozen.

    Args:
        llm: a transformers causal language model (Gemma, Llama).
        visual_encoder: both towers.
        projector: from CLIP's width to the language model's.
    """

    def __init__(self, *, llm: Any, visual_encoder: MGMVision, projector: Projector) -> None:
        nn.Module.__init__(self)  # LLaVAModel's own sets a model up for training
        llm.config.use_cache = False
        llm.set_attn_implementation(NAME)
        self.image_token_id = None
        self.llm, self.visual_encoder, self.projector = llm, visual_encoder, projector
        self.requires_grad_(False).eval()

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the projected features ``[pictures, tokens, width]`` of ``[pictures, 3, S, S]``.

        Gemma scales what enters its first layer, pictures included. Where transformers does that
        in the embedding of the words, the features need it, too.
        """
        seen = self.projector(self.visual_encoder(pixel_values))
        scale = getattr(self.llm.get_input_embeddings(), "embed_scale", 1.0)
        return seen * torch.as_tensor(scale, dtype=seen.dtype)
