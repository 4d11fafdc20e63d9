"""What grounding asks of a multimodal model: one small class for each kind of model."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn

from inlay.core.errors import ModelError
from inlay.models.grounding.capture import Grounded, Seen, capture
from inlay.models.grounding.recording import layers_with_rows

SAMPLED_VALUES = 64


class Adapter(nn.Module, ABC):
    """A frozen multimodal model, always in eval mode, that shows where its words look.

    A subclass says how the model runs (``run``) and how it writes (``generate``).

    Args:
        model: the whole model. Its weights are frozen here.
        decoder: its text model, one of transformers', with ``layers`` and a final ``norm``.
        image_token_id: the token that image features replace; None where only the data knows it.

    Attributes:
        num_layers, num_heads, hidden_size: of the decoder.
        num_map_layers: layers whose attention has rows, so that maps have ``num_map_layers *
            num_heads`` channels; all but those of linear attention and the like.

        levels_by_layer: maps of two levels stand side by side layer by layer, not one level's
            layers behind the other's: as published mask heads of some models have them.

    Raises:
        ModelError: the decoder has not got what the capture needs.
    """

    levels_by_layer = False

    def __init__(self, model: nn.Module, decoder: Any, *, image_token_id: int | None) -> None:
        super().__init__()
        if not (hasattr(decoder, "layers") and hasattr(decoder, "norm")):
            raise ModelError(
                f"{type(decoder).__name__} cannot be looked at: expected a text model with "
                "'layers' and a final 'norm', as transformers' Llama has them"
            )
        self.model = model.requires_grad_(False).eval()
        self.image_token_id = image_token_id
        self.num_layers = len(decoder.layers)
        self.num_map_layers = len(layers_with_rows(decoder))
        self.num_heads: int = decoder.config.num_attention_heads
        self.hidden_size: int = decoder.config.hidden_size

    @property
    @abstractmethod
    def decoder(self) -> Any:
        """The text model."""

    @abstractmethod
    def run(self, row: dict[str, Any]) -> None:
        """Run the model on a row up to its last hidden state: no logits are computed."""

    @abstractmethod
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        images: dict[str, torch.Tensor] | None = None,
        image_positions: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Generate with a cache: int64 ``[1, N + M]`` prompt and answer.

        Args: as of ``VisionFinetune.generate``.
        """

    @torch.no_grad()
    def look(self, row: dict[str, Any], grounded: Grounded) -> Seen:
        """Run the model on a row of documents and return what the grounded tokens look at.

        Args:
            row: ``input_ids`` and ``position_ids`` int64 ``[1, N]``, ``doc_starts`` int32
                ``[D + 1]``, ``longest_document``, ``images`` (see ``picture_row.Pictures``) and
                ``image_positions`` int64 ``[K]``.
            grounded: the tokens, with ``batch`` 0 and places in the row.

        Raises:
            ModelError: tokens, masks, image tokens and documents do not fit together.
        """
        with capture(self.decoder, grounded) as seen:
            self.run(row)
        return seen

    @property
    def device(self) -> torch.device:
        return self.decoder.get_input_embeddings().weight.device

    def train(self, mode: bool = True) -> Adapter:
        """Stay in eval mode: a frozen model has no dropout."""
        return super().train(False)

    def identity(self) -> str:
        """Fingerprint of the weights: names, shapes, dtypes and 64 values, evenly spread, of each.

        It tells models, fine-tunings, precisions and random seeds apart; a change of a few single
        weights by hand can escape it.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            if not isinstance(tensor, torch.Tensor):  # quantised modules keep settings there, too
                continue
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
            flat = tensor.detach().reshape(-1)
            step = max(1, flat.numel() // SAMPLED_VALUES)
            values = flat[::step][:SAMPLED_VALUES].cpu().contiguous()
            digest.update(values.view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()[:16]
