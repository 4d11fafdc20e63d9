"""``inlay doctor``: look over the machine before a run."""

from __future__ import annotations

import argparse

NAME = "doctor"
HELP = "check machine, libraries, folders and GPU, and prove that packed samples stay apart"
COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "work_dir",
        nargs="?",
        default="work_dirs",
        metavar="WORK_DIR",
        help="folder of a run, which is not made (default: ./work_dirs)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.text import Text

    from inlay.app.doctor.examine import as_json, examine, has_failed, line, summary

    console = Console(stderr=args.json, highlight=False)
    findings, group = [], ""
    for finding in examine(args.work_dir):
        findings.append(finding)
        if finding.group != group:
            group = finding.group
            console.print(Text(group, "bold"))
        text = Text(f"  {line(finding)}")
        text.stylize(COLOURS[finding.status], 2, 6)
        console.print(text, soft_wrap=True)
    console.print(f"\n{summary(findings)}")
    if args.json:
        print(as_json(findings))
    return 1 if has_failed(findings) else 0
