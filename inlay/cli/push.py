"""``inlay push``: upload an export to the Hugging Face hub."""

from __future__ import annotations

import argparse

NAME = "push"
HELP = "upload an export to the Hugging Face hub, private unless --public"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", help="folder written by `inlay convert`, or work_dirs/x/hub")
    add("repo", help="name or owner/name; created where it is missing")
    add("--public", action="store_true", help="everybody may see it (default: private)")


def run(args: argparse.Namespace) -> int:
    from inlay.app.export.push import push

    print(push(args.folder, args.repo, args.public))
    return 0
