"""``inlay log-dataset``: the data as the model reads it."""

from __future__ import annotations

import argparse

NAME = "log-dataset"
HELP = "samples decoded, trained tokens coloured, rows dropped by reason"
IN_A_FILE = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", help="config file, or the name of a recipe")
    add("-n", "--num", type=int, help=f"samples to show (default 1; {IN_A_FILE} in a file)")
    add(
        "--show",
        choices=("text", "masked_text", "input_ids", "labels", "all"),
        default="text",
        help="text: trained tokens coloured, in [[ ]] without colour; masked_text: only these",
    )
    add("--contact-sheet", metavar="FILE.png", help="write their pictures with captions")
    add("--html", metavar="FILE.html", help="write a page with pictures and every token")
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override settings")


def run(args: argparse.Namespace) -> int:
    from inlay.app.log_dataset import log_dataset

    to_file = args.contact_sheet is not None or args.html is not None
    count = args.num if args.num is not None else IN_A_FILE if to_file else 1
    log_dataset(args.config, count, args.show, args.cfg_options, args.contact_sheet, args.html)
    return 0
