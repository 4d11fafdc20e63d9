"""``inlay ground``: masks for phrases, in one picture."""

from __future__ import annotations

import argparse

NAME = "ground"
HELP = "point at phrases in a picture: a mask, a score and a box for each"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("image", metavar="IMAGE", help="picture: file or http(s) address")
    add("phrases", nargs="+", metavar="PHRASE", help="what to point at: 'the red circle'")
    add("--model", metavar="DIR", help="folder or hub name (default: a tiny one that ships)")
    add("--checkpoint", metavar="PATH", help="of a grounding run (iter_N), or F-LMM's .pth")
    add("--config", metavar="CONFIG", help="of the checkpoint, where it carries none")
    add("--training-free", action="store_true", help="point with the model's own attention heads")
    add("--torch-dtype", choices=("fp16", "bf16", "fp32", "auto"), default="auto")
    add("--out", metavar="FILE", help="overlay (default: <picture>_grounded.png, right here)")
    add("--json", metavar="FILE", help="masks as COCO run lengths; -: print them, all else stderr")


def run(args: argparse.Namespace) -> None:
    from inlay.app.ground import ground

    ground(
        args.image,
        args.phrases,
        model=args.model,
        checkpoint=args.checkpoint,
        config=args.config,
        training_free=args.training_free,
        dtype=args.torch_dtype,
        out=args.out,
        json_path=args.json,
    )
