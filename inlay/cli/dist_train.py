"""``inlay dist_train``: train on several GPUs of this machine, by XTuner's name."""

from __future__ import annotations

import argparse

from inlay.cli import train

NAME = "dist_train"
HELP = "train CONFIG in GPUS processes on this machine; the same as train --gpus"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    train.add_arguments(parser)
    parser.add_argument(
        "processes",
        nargs="?",
        type=int,
        metavar="GPUS",
        help="processes to start on this machine (default: NPROC_PER_NODE, or 1)",
    )


def run(args: argparse.Namespace) -> int:
    from inlay.core.errors import ConfigError

    if args.processes is not None:
        if args.processes < 1:
            raise ConfigError(f"GPUS must be 1 or more, got {args.processes}")
        args.gpus = args.processes
    return train.run(args)
