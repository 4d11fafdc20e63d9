"""``inlay test``: judge a checkpoint on held-out data."""

from __future__ import annotations

import argparse

from inlay.app.launch import add_launch_options, start

NAME = "test"
HELP = "held-out loss and perplexity of a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", help="config file, or the name of a recipe")
    add("--checkpoint", help="checkpoint folder (default: the model as the config loads it)")
    add("--work-dir", help="folder for logs (default: ./work_dirs/<config>)")
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override settings")
    add_launch_options(parser)
    add("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    import json

    code = start(args)
    if code is not None:
        return code

    from inlay.app.test import test
    from inlay.core import dist

    metrics = test(args.config, args.checkpoint, args.work_dir, args.cfg_options)
    if dist.rank() != 0:
        return 0
    if args.json:
        print(json.dumps(metrics))
    else:
        print("  ".join(f"{k}: {v:.4f}" for k, v in metrics.items()))
    return 0
