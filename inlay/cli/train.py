"""``inlay train``: run a config."""

from __future__ import annotations

import argparse
import signal
from typing import Any

from inlay.app.launch import add_launch_options, start

NAME = "train"
HELP = "train what a config file describes; resume, dry-run, several GPUs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("config", help="config file, or the name of a recipe")
    add("--work-dir", help="folder for checkpoints and logs (default: ./work_dirs/<config>)")
    add(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CHECKPOINT",
        help="continue from the newest valid checkpoint of the work dir, or from CHECKPOINT",
    )
    add("--seed", type=int, help="seed of data order, new weights and dropout")
    add(
        "--cfg-options",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="override settings, e.g. lr=1e-5 train_dataloader.num_workers=2",
    )
    add(
        "--allow-change",
        nargs="+",
        default=[],
        metavar="KEY",
        help="resume although KEY (data, template, effective_batch, ...) has changed",
    )
    add(
        "--track",
        type=lambda words: [word.strip() for word in words.split(",")],
        default=[],
        metavar="NAMES",
        help="also record the run with these trackers: wandb, wandb-offline, trackio, tensorboard "
        "(several with commas)",
    )
    add_launch_options(parser)
    one_of = parser.add_mutually_exclusive_group()
    one_of.add_argument(
        "--strategy",
        choices=("ddp", "fsdp"),
        help="how several devices share the run, in place of the config's strategy: each has all "
        "of the model (ddp, the default), or pieces of it (fsdp)",
    )
    one_of.add_argument(
        "--deepspeed",
        metavar="NAME|FILE",
        type=_deepspeed,
        dest="strategy",
        help="share the run with DeepSpeed: deepspeed_zero1, deepspeed_zero2, "
        "deepspeed_zero2_offload, deepspeed_zero3, deepspeed_zero3_offload, or a JSON file",
    )
    add(
        "--dry-run",
        action="store_true",
        help="build everything, make a few updates, print their time, the time of the whole run "
        "and peak memory, write nothing",
    )
    add("--updates", type=int, metavar="N", help="of a dry run: updates to make (default 4)")
    add("--json", action="store_true", help="of a dry run: print the result as JSON")


def _deepspeed(config: str) -> dict[str, str]:
    """A strategy, as a config names one."""
    return {"type": "inlay.engine.DeepSpeed", "config": config}


def run(args: argparse.Namespace) -> int:
    code = start(args)
    if code is not None:
        return code
    previous = signal.signal(signal.SIGTERM, _leave)
    try:
        return _dry_run(args) if args.dry_run else _train(args)
    finally:
        signal.signal(signal.SIGTERM, previous)


def _leave(number: int, _frame: Any) -> None:
    """Leave at once: until training catches signals itself, there is nothing to save."""
    raise SystemExit(128 + number)


def _train(args: argparse.Namespace) -> int:
    from inlay.app.train import TrainOptions, train

    options = TrainOptions(
        work_dir=args.work_dir,
        resume=args.resume,
        seed=args.seed,
        cfg_options=args.cfg_options,
        allow_change=args.allow_change,
        strategy=args.strategy,
        track=args.track,
    )
    return train(args.config, options)


def _dry_run(args: argparse.Namespace) -> int:
    import json

    from inlay.app.dry_run import UPDATES, dry_run
    from inlay.app.duration import describe_time
    from inlay.core import dist

    result = dry_run(
        args.config,
        args.cfg_options,
        args.seed,
        updates=args.updates or UPDATES,
        strategy=args.strategy,
    )
    if dist.rank() != 0:
        return 0
    if args.json:
        print(json.dumps(result))
        return 0
    masks = result.get("masks")
    learned = f", {masks} masks" if masks else f" ({result['trained_tokens']} trained)"
    print(
        f"first update: {result['tokens']} tokens{learned}, "
        f"loss {result['loss']:.4f}, grad_norm {result['grad_norm']:.4f}\n"
        f"{result['trainable']:,} trainable parameters\n"
        f"built in {result['build_s']:.1f} s, first update {result['first_update_s']:.2f} s, "
        f"then {result['update_s']:.2f} s each, peak memory {result['peak_mb']:.0f} MB\n"
        f"the whole run: {describe_time(result['time'])}. Nothing was written."
    )
    return 0
