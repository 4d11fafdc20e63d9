"""``inlay list-dataset-format``: names of the row formats."""

from __future__ import annotations

import argparse

NAME = "list-dataset-format"
HELP = "print the names of the data set formats"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(args: argparse.Namespace) -> None:
    from inlay.data.formats import FORMATS

    print("======================DATASET_FORMAT======================")
    for name in sorted(FORMATS):
        print(name)
    print("==========================================================")
