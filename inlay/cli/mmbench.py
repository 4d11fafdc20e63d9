"""``inlay mmbench``: MMBench from its public table."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from inlay.app.evaluate.answering import Answerer

NAME = "mmbench"
HELP = "ask a vision-language model MMBench; accuracy, and the file to submit"
MODEL_OPTIONS = ("adapter", "llava", "visual_encoder")
ANSWER_SETTINGS = ("visual_select_layer", "torch_dtype", "bits", "prompt_template", "stop_words")
"""Options that change answers, beside the model itself."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", help="folder or hub name of a model")
    add("--data-path", required=True, metavar="FILE.tsv", help="table of MMBench")
    add("--work-dir", metavar="DIR", help="default ./work_dirs/<name of the table>")
    add("--limit", type=int, metavar="N", help="the first N questions only, with all their copies")
    add_model_options(parser)
    add("--max-new-tokens", type=int, default=100, help="longest answer (default 100)")
    add_habits(parser)
    add("--json", action="store_true", help="print the scores as JSON, all else on stderr")


def add_habits(parser: argparse.ArgumentParser) -> None:
    """Add what XTuner's evaluations take beside, and what makes no difference here."""
    add = parser.add_argument_group(
        "taken as in XTuner, without effect on greedy answers"
    ).add_argument
    add("--seed", type=int, default=0, metavar="N")
    add("--bot-name", default="BOT", metavar="NAME")
    add("--launcher", choices=("none", "pytorch", "slurm", "mpi"), default="none")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add how a model is opened and asked, as ``inlay chat`` has it."""
    on_top = parser.add_mutually_exclusive_group()
    on_top.add_argument("--adapter", metavar="DIR", help="PEFT adapter (LoRA) to put on the model")
    on_top.add_argument("--llava", metavar="DIR", help="LLaVA parts that give the model eyes")
    add = parser.add_argument
    add("--visual-encoder", metavar="NAME", help="vision encoder, where --llava has none")
    add("--visual-select-layer", type=int, metavar="N", help="default: that of --llava, or -2")
    add("--torch-dtype", choices=("fp16", "bf16", "fp32", "auto"), default="auto")
    add("--bits", type=bits, choices=(4, 8, None), help="quantise with bitsandbytes")
    add("--offload-folder", metavar="DIR", help="folder for weights that do not fit in memory")
    add("--prompt-template", metavar="NAME", help="default: the tokenizer's own chat template")
    add("--stop-words", nargs="+", default=[], metavar="TEXT", help="texts that end an answer")


def bits(text: str) -> int | None:
    """Read ``--bits``: a number, or ``None``, as XTuner's help has it."""
    return None if text == "None" else int(text)


def open_answerer(args: argparse.Namespace, template: Any) -> Answerer:
    """Load the model that a command names."""
    from inlay.app.evaluate.answering import Answerer
    from inlay.app.open_model import open_model

    opened = open_model(
        args.model,
        adapter=args.adapter,
        llava=args.llava,
        visual_encoder=args.visual_encoder,
        visual_select_layer=args.visual_select_layer,
        dtype=args.torch_dtype,
        bits=args.bits,
        offload_folder=args.offload_folder,
    )
    return Answerer(opened, template or opened.template, args.stop_words)


def check_counts(args: argparse.Namespace) -> None:
    """Refuse counts that are not positive."""
    from inlay.core.errors import ConfigError

    for name in ("limit", "max_new_tokens", "batch_size"):
        value = getattr(args, name, None)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} must be 1 or more, got {value}")


def adopt_launcher(args: argparse.Namespace) -> None:
    """Be one of the processes that ``--launcher`` names."""
    import os

    from inlay.core import dist

    if args.launcher != "none":
        dist.adopt(args.launcher, None, os.environ)


def run(args: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from inlay.app.evaluate.items import own_device, processes
    from inlay.app.evaluate.run import load_task, mmbench
    from inlay.cli.chat import named_template

    check_counts(args)
    adopt_launcher(args)
    template = named_template(args.prompt_template)
    task = load_task("mmbench", args.data_path, None, args.limit, args.max_new_tokens)
    with processes():
        own_device()
        result = mmbench(
            task,
            args.data_path,
            open_answerer(args, template),
            {name: getattr(args, name) for name in ("model", *MODEL_OPTIONS)},
            {name: getattr(args, name) for name in ANSWER_SETTINGS},
            args.work_dir,
            Console(stderr=args.json),
        )
    if args.json and result is not None:
        print(json.dumps(result.scores, ensure_ascii=False))
    return 0
