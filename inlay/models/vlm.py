"""Fine-tuning of any image-text-to-text model of transformers on a flat row of documents."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from inlay.core.errors import ModelError
from inlay.core.types import StepOutput
from inlay.models.attention import NAME, document_mask
from inlay.models.embedding import positions_of
from inlay.models.families import family_of
from inlay.models.freeze import freeze_parts, part_of, spare
from inlay.models.lm import apply_lora, evaluating, recompute_activations, without_adapter
from inlay.models.loss import summed_loss, trained_tokens
from inlay.models.picture_row import Document, PictureRow
from inlay.models.vision import freeze_unused

TYPE_IDS = ("mm_token_type_ids", "token_type_ids")
"""Names by which models take a mask of their image tokens (1 image, 0 text)."""

MISMATCH = re.compile("do not match|doesn't match model|must match the size of tensor")
"""What models say of pictures that are not as their own image processor makes them."""


class VisionFinetune(nn.Module):
    """Wraps an image-text-to-text model: full fine-tuning, LoRA or QLoRA, parts frozen by name.

    Args:
        vlm: a model of ``AutoModelForImageTextToText``. With ``lora`` it may be quantised.
        lora: a ``peft.LoraConfig``; None trains every weight that is not frozen. Frozen parts get
            no adapters.
        freeze: ``"vision"``, ``"projector"``, ``"language"``, or module paths.
        use_activation_checkpointing: recompute activations in backward.

    Raises:
        ModelError: ``freeze`` or the LoRA names something that the model does not have.
    """

    def __init__(
        self,
        vlm: Any,
        lora: Any = None,
        freeze: Sequence[str] = (),
        use_activation_checkpointing: bool = True,
    ) -> None:
        super().__init__()
        config = vlm.config
        config.get_text_config().use_cache = False
        token = getattr(config, "image_token_id", None)
        self.image_token_id = getattr(config, "image_token_index", None) if token is None else token
        self.family = family_of(config)
        self._takes = set(inspect.signature(vlm.forward).parameters)
        if self.family.packs:
            vlm.set_attn_implementation({"text_config": NAME})
        frozen = freeze_parts(vlm, freeze)
        self.llm = vlm if lora is None else apply_lora(vlm, spare(lora, vlm, frozen))
        if self.family.tower:
            layer = getattr(config, "vision_feature_layer", None)
            freeze_unused(vlm.model.get_submodule(self.family.tower), layer)
        if use_activation_checkpointing:
            recompute_activations(self.llm)

    @property
    def base(self) -> Any:
        """The transformers model, adapters in place."""
        return without_adapter(self.llm)

    @property
    def decoder(self) -> Any:
        """The text model inside of it, without its head."""
        return self.base.get_decoder()

    @property
    def device(self) -> torch.device:
        return self.base.get_input_embeddings().weight.device

    def train(self, mode: bool = True) -> VisionFinetune:
        """Switch the mode; a vision tower without trained weights stays in eval mode."""
        super().train(mode)
        for name, module in self.base.model.named_children():
            weights = [p for n, p in module.named_parameters(name) if part_of(n) == "vision"]
            if weights and not any(p.requires_grad for p in weights):
                module.eval()
        return self

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        position_ids: torch.Tensor,
        doc_starts: torch.Tensor,
        trained_positions: torch.Tensor | None = None,
        longest_document: int | None = None,
        images: dict[str, torch.Tensor] | None = None,
        image_positions: torch.Tensor | None = None,
    ) -> StepOutput:
        """Return the cross entropy, in nats, summed over the trained tokens.

        Args:
            input_ids, labels, position_ids, doc_starts, trained_positions, longest_document: a row
                of documents, as ``SupervisedFinetune`` takes it.
            images: the row's pictures (see ``picture_row.Pictures``).
            image_positions: int64 ``[K]``, where their features go in the row.

        Raises:
            ModelError: pictures and image tokens do not match.
        """
        row = PictureRow(input_ids, doc_starts, images, image_positions)
        positions, targets = trained_tokens(labels, trained_positions)
        if self.family.packs:
            inputs = self._whole(row, position_ids, longest_document)
            logits_at = partial(self._logits, **inputs)
            return StepOutput(summed_loss(self.llm, logits_at, positions, targets), len(positions))
        return StepOutput(self._one_by_one(row, positions, targets), len(positions))

    def hidden(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        doc_starts: torch.Tensor,
        longest_document: int | None = None,
        images: dict[str, torch.Tensor] | None = None,
        image_positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the last hidden states ``[1, N, width]`` of a row, of a family that packs.

        Args: as of ``forward``. No logits are computed.
        """
        row = PictureRow(input_ids, doc_starts, images, image_positions)
        inputs = self._whole(row, position_ids, longest_document)
        return self._run(self.base.model, **inputs).last_hidden_state

    def hidden_alone(self, row: PictureRow, document: Document, prompt: int) -> torch.Tensor:
        """Return the last hidden states ``[1, n, width]`` of one document, of any family.

        Args:
            prompt: its tokens before the answer.
        """
        return self._run(self.base.model, **self._alone(row, document, prompt)).last_hidden_state

    def _whole(
        self, row: PictureRow, position_ids: torch.Tensor, longest_document: int | None
    ) -> dict[str, Any]:
        """What the model takes for the whole row."""
        mrope = self.family.mrope and row.pictures is not None
        return {
            "input_ids": row.input_ids,
            "position_ids": row.mrope(self.base.model) if mrope else position_ids,
            "attention_mask": document_mask(row.doc_starts),
            "longest_document": longest_document,
            **row.pixels(self.family, self.base.dtype),
        }

    def _alone(self, row: PictureRow, document: Document, prompt: int) -> dict[str, Any]:
        """What the model takes for one document; the library makes positions and masks."""
        tokens = slice(document.start, document.stop)
        return {
            "input_ids": row.input_ids[:, tokens],
            **row.pixels(self.family, self.base.dtype, document),
            **self._type_ids(row.is_image[:, tokens], prompt),
        }

    def _one_by_one(
        self, row: PictureRow, positions: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        """Every document as a call of its own; the loss of ``targets [K]`` at ``positions [K]``.

        One without trained tokens runs, too: its pictures keep the ranks in step.
        """
        losses: list[torch.Tensor] = []
        for document in row.documents():
            start, stop = document.start, document.stop
            inside = (positions >= start) & (positions < stop)
            keep = positions[inside] - start
            prompt = int(keep[0]) + 1 if len(keep) else stop - start
            logits_at = partial(self._logits, **self._alone(row, document, prompt))
            losses.append(summed_loss(self.llm, logits_at, keep, targets[inside]))
        return torch.stack(losses).sum()

    def _type_ids(self, is_image: torch.Tensor, prompt: int) -> dict[str, torch.Tensor]:
        """The masks that the model takes, int64 ``[1, N]``; ``prompt``: tokens of the prompt."""
        types = is_image.long()
        if self.family.prefix_sees_itself:
            types = (torch.arange(types.shape[1], device=types.device) >= prompt).long()[None]
        return {name: types for name in TYPE_IDS if name in self._takes}

    def _logits(self, logits_to_keep: torch.Tensor, **inputs: Any) -> torch.Tensor:
        """Run the model: logits ``[K, vocabulary]`` at the positions ``logits_to_keep``."""
        sparse = "logits_to_keep" in self._takes
        if sparse:
            inputs["logits_to_keep"] = logits_to_keep
        logits = self._run(self.llm, **inputs).logits[0]
        return logits if sparse else logits[logits_to_keep]

    def _run(self, model: Any, **inputs: Any) -> Any:
        """Run the model, or what of it is below the head."""
        try:
            return model(**inputs, use_cache=False)
        except (ValueError, RuntimeError) as error:
            if not MISMATCH.search(str(error)):
                raise
            raise ModelError(
                f"{error}. The row's image tokens are not those that its pictures need: is the "
                "image processor the model's own?"
            ) from error

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        images: dict[str, torch.Tensor] | None = None,
        image_positions: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Generate with a cache, in eval mode, and leave the training mode as it was.

        Args:
            input_ids: int64 ``[1, N]`` prompt tokens, image tokens among them.
            images, image_positions: as in ``forward``; without positions, where the ids equal
                ``image_token_id``.
            kwargs: passed on to transformers' ``generate``.

        Returns:
            int64 ``[1, N + M]``, prompt and answer.
        """
        if "generation_config" not in kwargs:  # it says itself
            kwargs["use_cache"] = True
        with evaluating(self):
            ids = input_ids.to(self.device)
            if images is not None:
                images = {name: value.to(self.device) for name, value in images.items()}
                if image_positions is None:
                    image_positions = positions_of(self.image_token_id, ids)
                image_positions = image_positions.to(self.device)
            starts = torch.tensor([0, ids.shape[1]], device=self.device)
            row = PictureRow(ids, starts, images, image_positions)
            return self.llm.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids) if attention_mask is None else attention_mask,
                **row.pixels(self.family, self.base.dtype),
                **self._type_ids(row.is_image, ids.shape[1]),
                **kwargs,
            )
