"""``inlay log-dataset``: the data as the model reads it."""

from __future__ import annotations

import argparse

NAME = "log-dataset"
HELP = "samples decoded, trained tokens coloured, rows dropped by reason"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", help="config file, or the name of a recipe")
    add("-n", "--num", type=int, default=1, help="samples to show (default 1)")
    add(
        "--show",
        choices=("text", "masked_text", "input_ids", "labels", "all"),
        default="text",
        help="text: trained tokens coloured, in [[ ]] without colour; masked_text: only these",
    )
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override settings")


def run(args: argparse.Namespace) -> int:
    from inlay.app.log_dataset import log_dataset

    log_dataset(args.config, args.num, args.show, args.cfg_options)
    return 0
