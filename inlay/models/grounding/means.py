"""What is logged of a batch of masks."""

from __future__ import annotations

from torch import Tensor

from inlay.models.grounding.losses import mask_losses


class MaskMeans:
    """Means over masks of losses and measures, which come as means over a sample's masks."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._masks: dict[str, int] = {}

    def judge(self, prefix: str, logits: Tensor, masks: Tensor) -> Tensor:
        """Take in a sample's masks; return their loss, summed over masks."""
        found = mask_losses(logits, masks.to(logits.device))
        values = {"loss_mask": found.mask, "loss_dice": found.dice}
        values |= {"accuracy": found.accuracy, "aiou": found.aiou}
        for name, value in values.items():
            self.add(prefix + name, value, len(masks))
        return (found.mask + found.dice) * len(masks)

    def add(self, name: str, value: Tensor, num_masks: int) -> None:
        """Take in a mean over a sample of so many masks."""
        self._sums[name] = self._sums.get(name, 0.0) + value.detach() * num_masks
        self._masks[name] = self._masks.get(name, 0) + num_masks

    def result(self) -> dict[str, Tensor]:
        """Return the means over all masks by name."""
        return {name: total / max(self._masks[name], 1) for name, total in self._sums.items()}
