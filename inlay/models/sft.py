"""Supervised fine-tuning of a causal language model on a flat row of documents."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from inlay.core.types import StepOutput
from inlay.models.attention import NAME, document_mask
from inlay.models.lm import apply_lora, evaluating, recompute_activations
from inlay.models.loss import next_token_loss


class SupervisedFinetune(nn.Module):
    """Wraps a language model: full fine-tuning, or LoRA on a plain or quantised model.

    Args:
        llm: a transformers causal language model. With ``lora`` it may be quantised (QLoRA).
        lora: a ``peft.LoraConfig``; None trains every weight.
        use_activation_checkpointing: recompute activations in backward: about a third more compute,
            and of each layer only its input is kept. On, as in XTuner.
    """

    def __init__(
        self, llm: Any, lora: Any = None, use_activation_checkpointing: bool = True
    ) -> None:
        super().__init__()
        llm.config.use_cache = False
        llm.set_attn_implementation(NAME)
        self.llm = apply_lora(llm, lora) if lora is not None else llm
        if use_activation_checkpointing:
            recompute_activations(self.llm)

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

        def logits_at(positions: torch.Tensor) -> torch.Tensor:
            return self.llm(
                input_ids=input_ids,
                position_ids=position_ids,
                attention_mask=document_mask(doc_starts),
                use_cache=False,
                logits_to_keep=positions,
                longest_document=longest_document,
            ).logits[0]

        return next_token_loss(self.llm, logits_at, labels, trained_positions)

    @torch.no_grad()
    def generate(self, input_ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Generate with a cache, in eval mode, and leave the training mode as it was.

        Args:
            input_ids: int64 ``[1, N]`` prompt tokens.
            kwargs: passed on to transformers' ``generate``.

        Returns:
            int64 ``[1, N + M]``, prompt and answer.
        """
        with evaluating(self):
            ids = input_ids.to(self.device)
            return self.llm.generate(
                input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True, **kwargs
            )
