"""SAM 2 as a refiner against a loop over masks and transformers' own forward."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_sam import SIDE, WIDTH, tiny_sam, tiny_sam2
from torch import Tensor

from inlay.core.errors import ModelError
from inlay.models.grounding.sam2 import Sam2Refiner

SIZES = [(120, 80), (60, 150)]  # width, height
INNER = [(64, 96), (96, 38)]  # height, width of the pictures
LENGTHS = [3, 1, 5]


@pytest.fixture(scope="module")
def sam() -> Any:
    return tiny_sam2()


def refiner_of(sam: Any, **settings: Any) -> Sam2Refiner:
    return Sam2Refiner(sam=copy.deepcopy(sam), **settings).eval()


def inputs() -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Pictures, coarse masks (two and one) and words."""
    generator = torch.Generator().manual_seed(3)
    pictures = [
        torch.randint(256, (3, *inner), dtype=torch.uint8, generator=generator) for inner in INNER
    ]
    logits = [2 * torch.randn(n, 7, 9, generator=generator) for n in (2, 1)]
    return pictures, logits, [torch.randn(n, WIDTH, generator=generator) for n in LENGTHS]


def one_mask(sam: Any, picture: Tensor, logits: Tensor, text: Tensor | None, size: Any) -> Tensor:
    """The reference: one mask, one call; the picture fills the square."""
    width, height = size
    mean = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
    std = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)
    square = F.interpolate(
        picture[None].float(), size=(SIDE, SIDE), mode="bilinear", antialias=True
    )
    prompt = F.interpolate(logits[None, None], size=(SIDE, SIDE), mode="bilinear")
    prompt = F.interpolate(prompt, size=(24, 24), mode="bilinear")
    odds = F.interpolate(logits.sigmoid()[None, None], size=(height, width), mode="bilinear")[0, 0]
    rows, columns = torch.nonzero(odds > 0.5, as_tuple=True)
    left, top = columns.min() * SIDE / width, rows.min() * SIDE / height
    right, bottom = (columns.max() + 1) * SIDE / width, (rows.max() + 1) * SIDE / height
    box = torch.stack([left, top, right, bottom]).view(1, 1, 4)
    pixels = (square - mean) / std
    if text is None:
        low = sam(
            pixel_values=pixels, input_boxes=box, input_masks=prompt, multimask_output=False
        ).pred_masks
    else:
        *fine, image = sam.get_image_embeddings(pixels)
        sparse, dense = sam.prompt_encoder(None, None, box, prompt)
        low = sam.mask_decoder(
            image_embeddings=image,
            image_positional_embeddings=sam.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=torch.cat([sparse, text[None, None]], dim=2),
            dense_prompt_embeddings=dense,
            multimask_output=False,
            high_resolution_features=fine,
        )[0]
    big = F.interpolate(low[0], size=(SIDE, SIDE), mode="bilinear")
    return F.interpolate(big, size=(height, width), mode="bilinear")[0, 0]


@pytest.mark.parametrize("use_text", [True, False])
def test_equals_the_loop_over_masks(sam: Any, use_text: bool) -> None:
    pictures, logits, words = inputs()
    text = words if use_text else None
    refiner = refiner_of(sam, use_text=use_text)
    reference = copy.deepcopy(sam)
    reference.mask_decoder.dynamic_multimask_via_stability = False  # mask token 0, always
    owners = [0, 0, 1]
    with torch.no_grad():
        fine = [m for part in refiner(refiner.embed(pictures), logits, text, SIZES) for m in part]
        for mask, coarse, own, i in zip(fine, torch.cat(logits), words, owners, strict=True):
            other = one_mask(reference, pictures[i], coarse, own if use_text else None, SIZES[i])
            torch.testing.assert_close(mask, other, rtol=0, atol=1e-5 * other.abs().max().item())


def test_several_candidates_and_training_draw_from_the_same_tokens(sam: Any) -> None:
    pictures, logits, words = inputs()
    refiner = refiner_of(sam)
    embeddings = refiner.embed(pictures)
    with torch.no_grad():
        evaluated = refiner(embeddings, logits, words, SIZES)
        trained = refiner.train()(embeddings, logits, words, SIZES)
        chosen = refiner_of(sam, multimask_output=True)(embeddings, logits, words, SIZES)
    for a, b, c in zip(evaluated, trained, chosen, strict=True):
        assert torch.equal(a, b)
        assert a.shape == c.shape and not torch.allclose(a, c)


def test_gradient_reaches_everything_but_the_encoder(sam: Any) -> None:
    pictures, logits, words = inputs()
    refiner = refiner_of(sam).train()
    for tensor in (*logits, *words):
        tensor.requires_grad_()
    embeddings = refiner.embed(pictures)
    assert {name: tuple(t.shape) for name, t in embeddings[0].items()} == {
        "image": (WIDTH, 6, 6),
        "finer": (WIDTH // 4, 12, 12),
        "finest": (WIDTH // 8, 24, 24),
    }
    assert not any(t.requires_grad for t in embeddings[0].values())
    fine = refiner(embeddings, logits, words, SIZES)
    sum(part.square().mean() for part in fine).backward()
    assert all(t.grad.abs().sum() > 0 for t in (*logits, *words))
    trained = {name for name, p in refiner.named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in trained} == {"prompt_encoder", "mask_decoder"}
    assert not any("conv_s" in name for name in trained)
    assert all(p.grad is not None for p in refiner.parameters() if p.requires_grad)


def test_identity_covers_the_thinning_of_features(sam: Any) -> None:
    refiner = refiner_of(sam)
    identity = refiner.identity()
    with torch.no_grad():
        refiner.sam.mask_decoder.conv_s0.bias.add_(1)
    assert refiner.identity() != identity


def test_loads_a_folder_and_refuses_sam_1(sam: Any, tmp_path: Path) -> None:
    sam.save_pretrained(tmp_path / "two")
    refiner = Sam2Refiner.from_pretrained(str(tmp_path / "two"), multimask_output=True)
    assert refiner.multimask_output
    assert refiner.identity() == refiner_of(sam).identity()
    tiny_sam().save_pretrained(tmp_path / "one")
    with pytest.raises(ModelError, match="holds a 'sam' model; expected 'sam2'"):
        Sam2Refiner.from_pretrained(str(tmp_path / "one"))
