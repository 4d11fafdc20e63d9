"""Losses and metrics of predicted masks (F-LMM, arXiv 2406.05821)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F


@dataclass(frozen=True, slots=True)
class MaskLosses:
    """Float32 scalars, each a mean over the masks of one sample.

    Attributes:
        mask: binary cross entropy, a mean over pixels (nats).
        dice: ``1 - (2 sum(p g) + 1) / (sum(p) + sum(g) + 1)``, p the probability, g the truth.
        accuracy: share of pixels on the right side of 0.5; no gradient.
        aiou: intersection over union at 0.5; 1 where both are empty; no gradient.
    """

    mask: torch.Tensor
    dice: torch.Tensor
    accuracy: torch.Tensor
    aiou: torch.Tensor


def mask_losses(logits: torch.Tensor, masks: torch.Tensor) -> MaskLosses:
    """Return losses and metrics of a sample's masks, computed in float32.

    Args:
        logits: ``[M, H, W]``.
        masks: ``[M, H, W]``, 0 or 1, any dtype. No masks at all give zeros.

    Raises:
        ValueError: the shapes differ.
    """
    if logits.shape != masks.shape:
        raise ValueError(f"logits are {list(logits.shape)} and masks are {list(masks.shape)}")
    x, g = logits.flatten(1).float(), masks.flatten(1).float()
    p = x.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(x, g, reduction="none").mean(1)
    dice = 1 - (2 * (p * g).sum(1) + 1) / (p.sum(1) + g.sum(1) + 1)
    with torch.no_grad():
        found, true = x > 0, g > 0.5
        accuracy = (found == true).float().mean(1)
        union = (found | true).sum(1)
        iou = (found & true).sum(1) / union.clamp(min=1)
        iou = torch.where(union == 0, 1.0, iou)
    count = max(len(x), 1)
    return MaskLosses(*(each.sum() / count for each in (cross_entropy, dice, accuracy, iou)))
