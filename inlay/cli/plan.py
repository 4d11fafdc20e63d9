"""``inlay plan``: a run in numbers before it starts."""

from __future__ import annotations

import argparse

NAME = "plan"
HELP = "samples, iterations, updates, checkpoints, memory and learning rate of a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", help="config file, or the name of a recipe")
    add("--gpus", type=int, default=1, metavar="N", help="devices to plan for (default 1)")
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override settings")
    add("--time", action="store_true", help="make a few updates and estimate the run's duration")
    add("--json", action="store_true", help="print the plan as JSON")


def run(args: argparse.Namespace) -> int:
    import json

    from inlay.app.plan import describe, make_plan
    from inlay.app.train import checked_config

    plan = make_plan(checked_config(args.config, args.cfg_options), args.gpus)
    if args.time:
        from inlay.app.dry_run import dry_run

        plan["time"] = dry_run(args.config, args.cfg_options, devices=args.gpus)["time"]
    print(json.dumps(plan) if args.json else describe(plan))
    return 0
