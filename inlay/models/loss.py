"""Cross entropy of the trained tokens of a flat row: shared by every model that writes text."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from inlay.core.types import IGNORE_INDEX, StepOutput


def next_token_loss(
    logits_at: Callable[[torch.Tensor], torch.Tensor],
    labels: torch.Tensor,
    trained_positions: torch.Tensor | None = None,
) -> StepOutput:
    """Return the cross entropy, in nats, summed over the trained tokens.

    Args:
        logits_at: runs the model and returns its logits ``[K, vocabulary]`` at the positions
            int64 ``[K]`` that it is given; called once.
        labels: int64 ``[1, N]``, ``IGNORE_INDEX`` where untrained, not shifted.
        trained_positions: int64 ``[K]``, positions whose next token has a label; None finds them,
            which on a GPU waits for the device.
    """
    targets = labels[0, 1:]
    trained = trained_positions
    if trained is None:
        trained = (targets != IGNORE_INDEX).nonzero(as_tuple=True)[0]
    # Position t predicts token t + 1. Logits are computed at trained positions only; a batch
    # without any (a stand-in) still runs the whole model, so that ranks stay in step.
    logits = logits_at(trained if len(trained) else trained.new_zeros(1))
    if not len(trained):
        return StepOutput(logits.float().sum() * 0.0, 0)
    loss_sum = F.cross_entropy(logits.float(), targets[trained], reduction="sum")
    return StepOutput(loss_sum, len(trained))
