"""``inlay list-cfg``: names of the recipes."""

from __future__ import annotations

import argparse

NAME = "list-cfg"
HELP = "print the names of the recipes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-p", "--pattern", help="part of the name, upper or lower case")


def run(args: argparse.Namespace) -> None:
    from inlay.config.source import recipes

    print("==========================CONFIGS===========================")
    if args.pattern is not None:
        print(f"PATTERN: {args.pattern}")
        print("-------------------------------")
    for name in recipes():
        if args.pattern is None or args.pattern.lower() in name.lower():
            print(name)
    print("=============================================================")
