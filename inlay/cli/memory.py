"""``inlay memory``: what a run's batch size costs."""

from __future__ import annotations

import argparse

NAME = "memory"
HELP = "measure a run's peak memory by batch size, two real updates each"
SIZES = (1, 2, 4, 8, 16, 32, 64)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", help="config file, or the name of a recipe")
    add(
        "--batch-sizes",
        nargs="+",
        type=int,
        default=list(SIZES),
        metavar="N",
        help=f"samples (or packs) per device, smallest first until one does not fit "
        f"(default {' '.join(map(str, SIZES))})",
    )
    add("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="override settings")
    add("--json", action="store_true", help="print the rows as JSON")


def run(args: argparse.Namespace) -> int:
    import json
    import sys
    from dataclasses import asdict

    from inlay.app.memory.by_batch import measure, table
    from inlay.core.errors import ConfigError

    if any(size < 1 for size in args.batch_sizes):
        raise ConfigError(f"--batch-sizes must be 1 or more, got {min(args.batch_sizes)}")
    rows = []
    for row in measure(args.config, args.batch_sizes, args.cfg_options):
        rows.append(row)
        print(f"batch size {row.batch_size} measured", file=sys.stderr)
    print(json.dumps([asdict(row) for row in rows]) if args.json else table(rows))
    return 0
