"""How well the tiny VLM that ships with the package points, on combinations never shown.

Mean IoU over the phrases of captions: refined by the tiny SAM, which was trained on scenes of the
same kind, and coarse, from the mask head alone; over phrases on their own, as `inlay ground` has
them; beside these the same with a language model whose weights are drawn anew (it must fail: else
the head knows pictures, not words), and training-free pointing.

Run: ``python benchmarks/tiny_grounding.py [MODEL CHECKPOINT] [--count N]``, on a CPU.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from inlay.app.demo.point import ground, ground_alone
from inlay.app.grounder import OpenGrounder, open_grounder
from inlay.data.scenes.build import TEST_SPLITS, example
from inlay.evaluation.mask_metrics import ious, overlap

SEED = 4
Way = Callable[..., Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "paths", nargs="*", help="MODEL and CHECKPOINT; the shipped ones by default"
    )
    parser.add_argument("--count", type=int, default=100, help="scenes of each split (100)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    refined, coarse, drawn_anew = (open_grounder(*args.paths) for _ in range(3))
    assert coarse.model is not None
    coarse.model.refiner = None
    draw_anew(drawn_anew)
    free = open_grounder(*args.paths[:1], training_free=True)
    ways = {
        "mask head and SAM": (refined, ground),
        "each phrase on its own": (refined, ground_alone),
        "mask head alone": (coarse, ground),
        "language model drawn anew": (drawn_anew, ground),
        "training-free": (free, ground),
    }
    print(f"{args.count} scenes of each split, seed {SEED}: mean IoU, and the share above 0.5")
    for split in TEST_SPLITS:
        print(split)
        for name, (grounder, way) in ways.items():
            values = scores(grounder, way, split, args.count)
            print(f"  {name:<28} {values.mean():.3f}   {(values > 0.5).mean():6.1%}", flush=True)


def scores(grounder: OpenGrounder, way: Way, split: str, count: int) -> np.ndarray:
    """IoU of every phrase of a split's scenes."""
    scenes = [example(split, SEED, index) for index in range(count)]
    return np.concatenate([ious(*overlap(*way(grounder, scene))) for scene in scenes])


def draw_anew(grounder: OpenGrounder) -> None:
    """Replace the language model's weights by random ones of the same spread."""
    torch.manual_seed(0)
    for weight in grounder.lmm.decoder.parameters():
        weight.data = torch.randn_like(weight) * weight.std() + (weight.ndim == 1)


if __name__ == "__main__":
    main()
