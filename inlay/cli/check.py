"""``inlay check``: everything that is wrong with a config, before anything is loaded."""

from __future__ import annotations

import argparse

NAME = "check"
ALIASES = ("check-custom-dataset",)
HELP = "check a config without loading weights; check-custom-dataset also reads its data"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help="a config file or the name of a recipe")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="override settings (lr=1e-5) or places (train_dataloader.num_workers=2)",
    )
    parser.add_argument("--json", action="store_true", help="print the problems as a JSON list")


def run(args: argparse.Namespace) -> int:
    import dataclasses
    import json

    from inlay.app.names import register_names
    from inlay.config.check import check_config, format_problems
    from inlay.config.load import load_config

    register_names()
    cfg = load_config(args.config, args.cfg_options)
    problems = check_config(cfg)
    if args.json:
        print(json.dumps([dataclasses.asdict(p) for p in problems], ensure_ascii=False, indent=2))
    else:
        print(f"{args.config}: {format_problems(problems)}")
    if any(p.severity == "error" for p in problems):
        return 1
    if args.command in ALIASES:
        from inlay.app.log_dataset import report_data

        report_data(cfg)
    return 0
