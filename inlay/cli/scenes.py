"""``inlay scenes``: the data and the backbones of the tiny vision-language model."""

from __future__ import annotations

import argparse

NAME = "scenes"
HELP = "draw pictures of shapes with captions, questions and masks, to train a tiny VLM on"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("out_dir", help="new folder for rows, pictures and random backbones")
    add("--count", type=int, default=48_000, metavar="N", help="training rows (default 48000)")
    add("--seed", type=int, default=0, metavar="S", help="another seed, other scenes (default 0)")


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from inlay.app.scenes import make_scenes

    for path in make_scenes(Path(args.out_dir), args.count, args.seed):
        print(f"Wrote {path}")
    options = f"data_root={args.out_dir}"
    print(f"Train: inlay train tiny_vlm_full_scenes_e10 --cfg-options {options}")
    return 0
