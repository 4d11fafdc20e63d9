"""``inlay check-custom-dataset``: a few rows of the data through every stage of training."""

from __future__ import annotations

import argparse

NAME = "check-custom-dataset"
HELP = "which format fits the data; ten random rows through every stage, then all rows counted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", help="config file, or the name of a recipe")
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override settings")


def run(args: argparse.Namespace) -> None:
    from inlay.app.check_custom_dataset import check_custom_dataset

    check_custom_dataset(args.config, args.cfg_options)
