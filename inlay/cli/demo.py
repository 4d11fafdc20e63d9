"""``inlay demo``: see the main job run, with nothing to download."""

from __future__ import annotations

import argparse

NAME = "demo"
HELP = "fine-tune two tiny models on a CPU in about two minutes: one chats, one sees"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dir", default="inlay_demo", help="new folder (default: inlay_demo)")


def run(args: argparse.Namespace) -> int:
    from pathlib import Path

    from rich.console import Console

    from inlay.app.demo.run import demo

    return demo(Path(args.dir), Console(highlight=False))
