"""Which words of an answer deserve a mask: a trained judge (F-LMM, arXiv 2406.05821)."""

from __future__ import annotations

from itertools import groupby

import torch
import torch.nn.functional as F
from torch import nn

THRESHOLD = 0.3
"""Score from which a token is a keyword."""

Span = tuple[int, int]
"""First token of a phrase, and the one behind its last."""


class KeywordSelector(nn.Module):
    """A linear layer and a sigmoid over the hidden state of each token.

    Args:
        hidden_size: width of the language model.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(hidden_size, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return each token's logit, float32 ``[T]``, of hidden states ``[T, D]``."""
        return self.linear(hidden.to(self.linear.weight.dtype))[..., 0].float()

    def loss(self, logits: torch.Tensor, keywords: torch.Tensor) -> torch.Tensor:
        """Return the binary cross entropy, a mean over the tokens; ``keywords`` bool ``[T]``."""
        total = F.binary_cross_entropy_with_logits(logits, keywords.float(), reduction="sum")
        return total / max(keywords.numel(), 1)

    @torch.no_grad()
    def select(self, hidden: torch.Tensor, threshold: float = THRESHOLD) -> list[Span]:
        """Return the phrases among tokens with hidden states ``[T, D]``, in order."""
        return spans(self(hidden), threshold)


def spans(logits: torch.Tensor, threshold: float = THRESHOLD) -> list[Span]:
    """Join neighbouring tokens whose score exceeds ``threshold`` (0 to 1) to phrases.

    Args:
        logits: ``[T]``.
    """
    chosen = (logits.float().sigmoid() > threshold).tolist()
    found, start = [], 0
    for is_keyword, run in groupby(chosen):
        stop = start + len(list(run))
        if is_keyword:
            found.append((start, stop))
        start = stop
    return found
