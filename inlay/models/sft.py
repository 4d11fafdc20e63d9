"""Supervised fine-tuning of a causal language model on a flat row of documents."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from inlay.core.types import IGNORE_INDEX, StepOutput
from inlay.models.attention import NAME, document_mask
from inlay.models.lm import apply_lora


class SupervisedFinetune(nn.Module):
    """Wraps a language model: full fine-tuning, or LoRA on a plain or quantised model.

    Args:
        llm: a transformers causal language model. With ``lora`` it may be quantised (QLoRA).
        lora: a ``peft.LoraConfig``; None trains every weight.
        use_activation_checkpointing: recompute activations in backward: about a third more compute
            for memory that no longer grows with the number of layers.
    """

    def __init__(
        self, llm: Any, lora: Any = None, use_activation_checkpointing: bool = True
    ) -> None:
        super().__init__()
        llm.config.use_cache = False
        llm.set_attn_implementation(NAME)
        self.llm = apply_lora(llm, lora) if lora is not None else llm
        if use_activation_checkpointing:
            _recompute_activations(self.llm)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        position_ids: torch.Tensor,
        doc_starts: torch.Tensor,
        trained_positions: torch.Tensor | None = None,
        longest_document: int | None = None,
    ) -> StepOutput:
        """Return the cross entropy, in nats, summed over the trained tokens.

        Args:
            input_ids: int64 ``[1, N]``, documents one after another.
            labels: int64 ``[1, N]``, ``IGNORE_INDEX`` where untrained, not shifted.
            position_ids: int64 ``[1, N]``, restarting at 0 in every document.
            doc_starts: int32 ``[D + 1]`` cumulative document lengths.
            trained_positions: int64 ``[K]``, positions whose next token has a label; None finds
                them, which on a GPU waits for the device.
            longest_document: length of the longest document, in tokens; saves the same wait.
        """
        targets = labels[0, 1:]
        trained = trained_positions
        if trained is None:
            trained = (targets != IGNORE_INDEX).nonzero(as_tuple=True)[0]
        # Position t predicts token t + 1. Logits are computed at trained positions only; a batch
        # without any (a stand-in) still runs the whole model, so that ranks stay in step.
        keep = trained if len(trained) else trained.new_zeros(1)
        logits = self.llm(
            input_ids=input_ids,
            position_ids=position_ids,
            attention_mask=document_mask(doc_starts),
            use_cache=False,
            logits_to_keep=keep,
            longest_document=longest_document,
        ).logits[0]
        if not len(trained):
            return StepOutput(logits.float().sum() * 0.0, 0)
        loss_sum = F.cross_entropy(logits.float(), targets[trained], reduction="sum")
        return StepOutput(loss_sum, len(trained))

    @torch.no_grad()
    def generate(self, input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Generate with a cache, in eval mode, and leave the training mode as it was.

        Args:
            input_ids: int64 ``[1, N]`` prompt tokens.
            kwargs: passed on to transformers' ``generate``.

        Returns:
            int64 ``[1, N + M]``, prompt and answer.
        """
        was_training = self.training
        self.eval()
        try:
            ids = input_ids.to(self.device)
            return self.llm.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, **kwargs
            )
        finally:
            self.train(was_training)


def _recompute_activations(llm: Any) -> None:
    """Switch activation checkpointing on, by the name that this transformers release has for it."""
    name = "activation_checkpointing_enable"
    enable = getattr(llm, name if hasattr(llm, name) else "gradient_checkpointing_enable")
    enable({"use_reentrant": False})
