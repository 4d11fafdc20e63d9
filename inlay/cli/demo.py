"""``inlay demo``: see the main job run, with nothing to download."""

from __future__ import annotations

import argparse

NAME = "demo"
HELP = "fine-tune a tiny real model on shipped conversations, in about a minute on a CPU"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", default="inlay_demo", help="new folder (default: inlay_demo)")


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from rich.console import Console

    from inlay.app.demo import demo

    return demo(Path(args.dir), Console(highlight=False))
