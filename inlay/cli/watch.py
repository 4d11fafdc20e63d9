"""``inlay watch``: how runs are doing."""

from __future__ import annotations

import argparse

NAME = "watch"
HELP = "show how runs are doing, live in the terminal, from their work dirs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("work_dirs", nargs="+", metavar="WORK_DIR", help="of Inlay, XTuner or mmengine")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--once", action="store_true", help="print the view once")
    how.add_argument("--json", action="store_true", help="print one JSON document, for scripts")
    add("--interval", type=float, default=2.0, metavar="S", help="seconds (default 2)")


def run(args: argparse.Namespace) -> int:
    import sys

    from inlay.app.runs.watch import as_json, once, watch
    from inlay.core.errors import InlayError

    if not args.interval > 0:
        raise InlayError(f"--interval must be more than 0 seconds, got {args.interval:g}")
    # Names of folders and what a log holds may be anything.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    if args.json:
        import json

        print(json.dumps(as_json(args.work_dirs), indent=1, ensure_ascii=False))
    elif args.once or not sys.stdout.isatty():
        once(args.work_dirs)
    else:
        watch(args.work_dirs, args.interval)
    return 0
