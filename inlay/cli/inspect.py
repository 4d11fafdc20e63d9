"""``inlay inspect``: what a checkpoint holds."""

from __future__ import annotations

import argparse

NAME = "inspect"
HELP = "print what a checkpoint holds: kind, step, weights by module, optimizer, config, damage"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path",
        help="checkpoint of Inlay, .pth file or DeepSpeed folder of XTuner or F-LMM, Hugging Face "
        "model, PEFT adapter, LLaVA parts, or a work folder (its newest checkpoint)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from inlay.app.inspect import as_json, as_text, inspect

    report = inspect(args.path)
    print(as_json(report) if args.json else as_text(report))
    return 1 if report.damage else 0
