"""``inlay check``: everything that is wrong with a config, before anything is loaded."""

from __future__ import annotations

import argparse

NAME = "check"
HELP = "check a config without loading weights; --explain tells what the original would have done"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", help="a config file or the name of a recipe")
    add(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="override settings (lr=1e-5) or places (train_dataloader.num_workers=2)",
    )
    add(
        "--explain",
        action="store_true",
        help="also tell what XTuner 0.1.x or F-LMM would have done with this config and Inlay does "
        "not: tokens lost, a dead warm-up, ...; counts the data, if they are here",
    )
    add(
        "--gpus",
        type=int,
        default=1,
        metavar="N",
        help="devices that --explain counts for (default 1)",
    )
    add(
        "--json",
        action="store_true",
        help="print JSON: a list of problems; with --explain, all of it",
    )


def run(args: argparse.Namespace) -> int:
    import dataclasses
    import json
    import os

    if args.explain:  # data are counted if they are here, and never fetched for it
        os.environ["HF_HUB_OFFLINE"] = "1"
    from inlay.app.check_run import check_run
    from inlay.app.names import register_names
    from inlay.config.check import format_problems
    from inlay.config.load import load_config

    register_names()
    cfg = load_config(args.config, args.cfg_options)
    problems = check_run(cfg)
    listed = [dataclasses.asdict(p) for p in problems]
    if not args.json:
        notes = [f"  note     {note}" for note in cfg.notes]
        print("\n".join([f"{args.config}: {format_problems(problems)}", *notes]))
    elif not args.explain:
        print(json.dumps(listed, ensure_ascii=False, indent=2))
    if args.explain:
        from inlay.app.originals.explain import as_json, describe, explain, read_data, written

        data = read_data(cfg)
        findings = explain(written(cfg), data, args.gpus)
        if args.json:
            found = {"problems": listed, "notes": cfg.notes}
            found["explain"] = as_json(findings, data, args.gpus)
            print(json.dumps(found, ensure_ascii=False, indent=2))
        else:
            print(f"\n{describe(findings, data, args.gpus)}")
    return int(any(p.severity == "error" for p in problems))
