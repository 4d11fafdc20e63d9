"""Mask losses and metrics, pixel by pixel from their definitions."""

from __future__ import annotations

import math

import pytest
import torch

from inlay.models.grounding.losses import mask_losses


def by_hand(logits: torch.Tensor, masks: torch.Tensor) -> dict[str, float]:
    sums = dict.fromkeys(("mask", "dice", "accuracy", "aiou"), 0.0)
    for xs, gs in zip(logits.flatten(1).tolist(), masks.flatten(1).tolist(), strict=True):
        ps = [1 / (1 + math.exp(-x)) for x in xs]
        pairs = list(zip(ps, gs, strict=True))
        sums["mask"] -= sum(math.log(p if g else 1 - p) for p, g in pairs) / len(pairs)
        both = sum(p * g for p, g in pairs)
        sums["dice"] += 1 - (2 * both + 1) / (sum(ps) + sum(gs) + 1)
        sums["accuracy"] += sum((p > 0.5) == bool(g) for p, g in pairs) / len(pairs)
        hit = sum(p > 0.5 and g for p, g in pairs)
        union = sum(p > 0.5 or bool(g) for p, g in pairs)
        sums["aiou"] += hit / union if union else 1.0
    return {name: value / len(logits) for name, value in sums.items()}


def values(logits: torch.Tensor, masks: torch.Tensor) -> dict[str, float]:
    found = mask_losses(logits, masks)
    return {name: getattr(found, name).item() for name in ("mask", "dice", "accuracy", "aiou")}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bool])
def test_losses_are_their_definitions(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits, masks = torch.randn(4, 7, 9) * 3, torch.rand(4, 7, 9) > 0.6
    masks[1] = False  # an empty mask
    logits[2] = -4.0  # an empty prediction
    masks[3], logits[3] = False, -4.0  # both
    assert values(logits, masks.to(dtype)) == pytest.approx(by_hand(logits, masks), abs=1e-6)


def test_a_perfect_and_an_empty_prediction() -> None:
    mask = torch.zeros(1, 8, 8)
    mask[:, 2:6, 2:6] = 1
    perfect = values((mask * 2 - 1) * 50, mask)
    assert perfect == pytest.approx({"mask": 0, "dice": 0, "accuracy": 1, "aiou": 1}, abs=1e-6)
    empty = values(torch.full_like(mask, -50.0), mask)
    assert empty == pytest.approx({"mask": 12.5, "dice": 1 - 1 / 17, "accuracy": 0.75, "aiou": 0})
    nothing = values(torch.full_like(mask, -50.0), mask * 0)
    assert nothing == pytest.approx({"mask": 0, "dice": 0, "accuracy": 1, "aiou": 1}, abs=1e-6)


def test_gradients_flow_from_the_losses_alone_and_in_float32() -> None:
    torch.manual_seed(0)
    logits = (torch.randn(2, 300, 300) * 2).bfloat16().requires_grad_()
    masks = torch.rand(2, 300, 300) > 0.5
    found = mask_losses(logits, masks)
    assert {t.dtype for t in (found.mask, found.dice, found.accuracy, found.aiou)} == {
        torch.float32
    }
    assert found.dice.item() == pytest.approx(
        by_hand(logits.detach().float(), masks)["dice"], abs=1e-5
    )
    assert not (found.accuracy.requires_grad or found.aiou.requires_grad)
    (found.mask + found.dice).backward()
    assert logits.grad is not None and logits.grad.isfinite().all() and logits.grad.abs().sum() > 0


def test_no_masks_and_other_shapes() -> None:
    logits = torch.zeros(0, 4, 4, requires_grad=True)
    none = mask_losses(logits, torch.zeros(0, 4, 4))
    assert none.mask == 0 and none.dice == 0 and none.mask.requires_grad
    with pytest.raises(ValueError, match=r"\[2, 4, 4\] and masks are \[2, 4, 5\]"):
        mask_losses(torch.zeros(2, 4, 4), torch.zeros(2, 4, 5))
