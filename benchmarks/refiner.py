"""Refining the masks of several pictures in one call of SAM's decoder, on one thread.

Against one mask at a time, as F-LMM does it. The decoder has SAM's own size (4.06 M parameters, a
grid of 64 x 64), the weights are random; picture embeddings are given. Forward and backward. The
results of both must be the same.

    python benchmarks/refiner.py
"""

from __future__ import annotations

import argparse

import torch
from _ratio import best_in_turns, cpu_seconds, header, row
from transformers import SamConfig, SamModel

from inlay.models.grounding.sam import SamRefiner

SIZES = [(640, 480), (480, 640)]
MASKS = 3
"""Of each picture."""


def refiner() -> SamRefiner:
    """Return SAM with one layer of encoder, which is not run here."""
    torch.manual_seed(0)
    vision = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    return SamRefiner(sam=SamModel(SamConfig(vision_config=vision))).train()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = refiner()
    embeddings = [{"image": torch.randn(256, 64, 64)} for _ in SIZES]
    logits = [torch.randn(MASKS, 24, 24, requires_grad=True) for _ in SIZES]
    text = [torch.randn(1 + number, 256) for number in range(MASKS * len(SIZES))]

    def together() -> list[torch.Tensor]:
        return model(embeddings, logits, text, SIZES)

    def one_by_one() -> list[torch.Tensor]:
        found, words = [], iter(text)
        for embedding, masks, size in zip(embeddings, logits, SIZES, strict=True):
            fine = [model([embedding], [m[None]], [next(words)], [size])[0] for m in masks]
            found.append(torch.cat(fine))
        return found

    with torch.no_grad():
        # What surrounds a mask prompt is the lowest logit of its picture: give all masks the same.
        for masks in logits:
            masks.clamp_(min=-1.0)
        error = max(
            (a - b).abs().max().item() / b.abs().max().item()
            for a, b in zip(together(), one_by_one(), strict=True)
        )
    if error > 1e-5:
        raise RuntimeError(f"the masks differ by {error:.1e}")

    def measure(refine) -> float:
        return cpu_seconds(lambda: sum(m.square().mean() for m in refine()).backward())

    ours, peer = best_in_turns(
        [lambda: measure(together), lambda: measure(one_by_one)], args.repeats
    )
    header()
    row(f"CPU s a step, {MASKS * len(SIZES)} masks, peer: one at a time", ours, peer, "<= 1.05")


if __name__ == "__main__":
    main()
