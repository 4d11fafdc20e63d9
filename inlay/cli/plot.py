"""``inlay plot``: compare runs in a picture."""

from __future__ import annotations

import argparse

NAME = "plot"
HELP = "draw losses, rates and evaluation results of runs in one picture, from their work dirs"
AXES = ("iter", "update", "tokens", "samples", "time")
SMOOTH = 0.9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("work_dirs", nargs="+", metavar="WORK_DIR", help="of Inlay, XTuner or mmengine")
    add("-o", "--out", required=True, metavar="FILE", help="picture: .png, .svg, .pdf")
    add(
        "--keys",
        nargs="+",
        default=[],
        metavar="NAME",
        help="of what was logged, a panel each (default: loss, lr, and evaluations)",
    )
    add("--x", choices=AXES, default="iter", help="what the x axis counts (default iter)")
    add(
        "--smooth",
        nargs="?",
        type=float,
        const=SMOOTH,
        default=0.0,
        metavar="W",
        help=f"draw an exponential mean; W, below 1, is the weight of the past (default {SMOOTH})",
    )


def run(args: argparse.Namespace) -> int:
    import sys

    from inlay.app.runs.plot import plot
    from inlay.core.errors import InlayError

    if not 0 <= args.smooth < 1:
        raise InlayError(f"--smooth must be 0 or more and below 1, got {args.smooth:g}")
    for note in plot(args.work_dirs, args.out, args.keys, args.x, args.smooth):
        print(f"note: {note}", file=sys.stderr)
    print(args.out)
    return 0
