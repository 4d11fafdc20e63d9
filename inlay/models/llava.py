"""A language model that sees: vision encoder, projector, language model (arXiv 2304.08485)."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from inlay.core.types import StepOutput
from inlay.models.attention import NAME, document_mask
from inlay.models.embedding import (
    grow_embedding,
    image_token_id,
    merge_features,
    positions_of,
    warn_of_untrained_rows,
)
from inlay.models.lm import apply_lora, evaluating, recompute_activations, without_adapter
from inlay.models.loss import next_token_loss
from inlay.models.pretrained import load_matching, read_weights, refuse_unmatched
from inlay.models.projector import Projector, build_projector
from inlay.models.vision import features, freeze_unused


class LLaVAModel(nn.Module):
    """Any causal language model, any vision encoder, and a projector between them.

    The projector is always trained, in float32. A frozen encoder runs in eval mode and without
    gradients. Its weights that the selected layer does not depend on are never trained.

    Args:
        llm: a transformers causal language model. With ``freeze_llm`` or ``llm_lora`` it may be
            quantised.
        visual_encoder: a transformers vision model (see ``load_visual_encoder``).
        tokenizer: the language model's embedding grows to its size; new rows are N(0, 0.02).
        projector: ``"mlp"``, ``"linear"``, ``"pixel_shuffle"``, or a finished ``Projector``.
        projector_depth: linear layers of an ``"mlp"``.
        pixel_shuffle_factor: ``k``: blocks of ``k x k`` patches become one token.
        freeze_llm, freeze_visual_encoder: keep their weights; adapters on them are trained.
        visual_select_layer: which hidden state of the encoder; None for the last one, after the
            final norm.
        llm_lora, visual_encoder_lora: ``peft.LoraConfig``.
        pretrained_pth: trained weights of an earlier stage (see ``pretrained.read_weights``).
        use_activation_checkpointing: recompute activations of the parts that are trained.

    Raises:
        ModelError: weights of ``pretrained_pth`` that fit nothing, an unknown projector, or a LoRA
            target that does not exist.
    """

    def __init__(
        self,
        llm: Any,
        visual_encoder: Any,
        tokenizer: Any = None,
        *,
        projector: str | Projector = "mlp",
        projector_depth: int = 2,
        pixel_shuffle_factor: int = 1,
        freeze_llm: bool = False,
        freeze_visual_encoder: bool = False,
        visual_select_layer: int | None = -2,
        llm_lora: Any = None,
        visual_encoder_lora: Any = None,
        pretrained_pth: str | None = None,
        use_activation_checkpointing: bool = True,
    ) -> None:
        super().__init__()
        self.image_token_id = None if tokenizer is None else image_token_id(tokenizer)
        self.visual_select_layer = visual_select_layer
        llm.config.use_cache = False
        llm.set_attn_implementation(NAME)
        size = 0 if tokenizer is None else len(tokenizer)
        new_rows = grow_embedding(llm, size, self.image_token_id)
        self.llm = llm.requires_grad_(False) if freeze_llm else llm
        self.visual_encoder = visual_encoder
        if freeze_visual_encoder:
            self.visual_encoder.requires_grad_(False)
        if isinstance(projector, str):
            projector = build_projector(
                projector,
                visual_encoder.config.hidden_size,
                llm.config.get_text_config().hidden_size,
                depth=projector_depth,
                pixel_shuffle_factor=pixel_shuffle_factor,
                visual_select_layer=visual_select_layer,
            )
        self.projector = projector
        self._add_adapters(llm_lora, visual_encoder_lora, pretrained_pth)
        freeze_unused(self.visual_encoder, visual_select_layer)
        warn_of_untrained_rows(self.llm, new_rows)
        if use_activation_checkpointing:
            recompute_activations(self.llm)
            if any(p.requires_grad for p in self.visual_encoder.parameters()):
                recompute_activations(self.visual_encoder)

    def _add_adapters(self, llm_lora: Any, encoder_lora: Any, pretrained_pth: str | None) -> None:
        """Load the earlier stage and add LoRA: its weights may be of the parts with or without."""
        left = read_weights(pretrained_pth) if pretrained_pth else {}
        left = load_matching(self, left, str(pretrained_pth))
        if llm_lora is not None:
            self.llm = apply_lora(self.llm, llm_lora)
        if encoder_lora is not None:
            self.visual_encoder = apply_lora(self.visual_encoder, encoder_lora)
        left = load_matching(self, left, str(pretrained_pth))
        refuse_unmatched(self, left, str(pretrained_pth))

    @property
    def decoder(self) -> Any:
        """The text model inside of the language model, without its head."""
        return without_adapter(self.llm).get_decoder()

    @property
    def device(self) -> torch.device:
        return self.llm.get_input_embeddings().weight.device

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
            images: ``pixel_values`` float ``[pictures, 3, H, W]`` of the whole row; a tiled picture
                is several.
            image_positions: int64 ``[K]``, where their features go in the row.

        Raises:
            ModelError: pictures and image tokens do not match.
        """
        embeds = self.embed(input_ids, images, image_positions)
        inputs = self._inputs(embeds, position_ids, doc_starts, longest_document)

        def logits_at(positions: torch.Tensor) -> torch.Tensor:
            return self.llm(**inputs, logits_to_keep=positions).logits[0]

        return next_token_loss(self.llm, logits_at, labels, trained_positions)

    def hidden(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        doc_starts: torch.Tensor,
        longest_document: int | None = None,
        images: dict[str, torch.Tensor] | None = None,
        image_positions: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return the last hidden states ``[1, N, width]`` of a row.

        Args: as of ``forward``. No logits are computed.
        """
        embeds = self.embed(input_ids, images, image_positions)
        inputs = self._inputs(embeds, position_ids, doc_starts, longest_document)
        return self.decoder(**inputs).last_hidden_state

    def _inputs(
        self,
        embeds: torch.Tensor,
        position_ids: torch.Tensor,
        doc_starts: torch.Tensor,
        longest_document: int | None,
    ) -> dict[str, Any]:
        """What the language model takes for a row of embeddings ``[1, N, width]``."""
        return {
            "inputs_embeds": embeds,
            "position_ids": position_ids,
            "attention_mask": document_mask(doc_starts),
            "use_cache": False,
            "longest_document": longest_document,
        }

    def embed(
        self,
        input_ids: torch.Tensor,
        images: dict[str, torch.Tensor] | None,
        image_positions: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return embeddings ``[1, N, width]`` of ids ``[1, N]``, pictures in place."""
        embedding = self.llm.get_input_embeddings()
        if images is None:
            return embedding(input_ids)
        if image_positions is None:
            image_positions = positions_of(self.image_token_id, input_ids)
        # The image token may have no row: any other does, since features replace it.
        embeds = embedding(input_ids.index_fill(1, image_positions, 0))
        return merge_features(embeds, self.encode(images["pixel_values"]), image_positions)

    def encode(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the projected features ``[pictures, tokens, width]`` of ``[pictures, 3, H, W]``.

        Whether the encoder is frozen is asked each time: a learning rate of 0 freezes it late.
        """
        frozen = not any(p.requires_grad for p in self.visual_encoder.parameters())
        if frozen and self.visual_encoder.training:
            self.visual_encoder.eval()
        with torch.no_grad() if frozen else nullcontext():
            seen = features(self.visual_encoder, pixel_values, self.visual_select_layer)
        return self.projector(seen)

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

        It ends at the model's end-of-text token, or at ``eos_token_id``.

        Args:
            input_ids: int64 ``[1, N]`` prompt tokens, image tokens among them.
            images, image_positions: as in ``forward``; without positions, the features go where
                the ids equal ``image_token_id``.
            kwargs: passed on to transformers' ``generate``.

        Returns:
            int64 ``[1, N + M]``, prompt and answer.
        """
        if "generation_config" not in kwargs:  # it says itself
            kwargs["use_cache"] = True
        with evaluating(self):
            ids = input_ids.to(self.device)
            mask = torch.ones_like(ids) if attention_mask is None else attention_mask
            if images is None:
                return self.llm.generate(input_ids=ids, attention_mask=mask, **kwargs)
            images = {name: value.to(self.device) for name, value in images.items()}
            if image_positions is not None:
                image_positions = image_positions.to(self.device)
            embeds = self.embed(ids, images, image_positions)
            # The ids serve repetition penalties and the streamer; the first step uses the vectors.
            known = ids.clamp(max=self.llm.get_input_embeddings().weight.shape[0] - 1)
            out = self.llm.generate(
                input_ids=known, inputs_embeds=embeds, attention_mask=mask, **kwargs
            )
            return torch.cat([ids, out[:, ids.shape[1] :]], dim=1)
