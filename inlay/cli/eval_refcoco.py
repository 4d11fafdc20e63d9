"""``inlay eval_refcoco``: boxes that a model writes as text."""

from __future__ import annotations

import argparse

from inlay.cli.mmbench import (
    ANSWER_SETTINGS,
    MODEL_OPTIONS,
    add_habits,
    add_model_options,
    adopt_launcher,
    check_counts,
    open_answerer,
)

NAME = "eval_refcoco"
HELP = "ask a vision-language model for boxes of RefCOCO as text; share with IoU > 0.5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", help="folder or hub name of a model")
    add("--data-path", required=True, metavar="FILE.json", help="expressions with their boxes")
    add("--image-folder", metavar="DIR", help="default data/llava_data/llava_images")
    add("--work-dir", metavar="DIR", help="default ./work_dirs/<name of the data>")
    add("--limit", type=int, metavar="N", help="the first N expressions only")
    add_model_options(parser)
    add("--max-new-tokens", type=int, default=100, help="longest answer (default 100)")
    add_habits(parser)
    add("--json", action="store_true", help="print the scores as JSON, all else on stderr")


def run(args: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from inlay.app.evaluate.items import own_device, processes
    from inlay.app.evaluate.text_boxes import evaluate_boxes, load_boxes
    from inlay.cli.chat import named_template

    check_counts(args)
    adopt_launcher(args)
    template = named_template(args.prompt_template)
    task = load_boxes(args.data_path, args.image_folder, args.limit, args.max_new_tokens)
    with processes():
        own_device()
        result = evaluate_boxes(
            task,
            args.data_path,
            open_answerer(args, template),
            {name: getattr(args, name) for name in ("model", *MODEL_OPTIONS)},
            {name: getattr(args, name) for name in (*ANSWER_SETTINGS, "limit")},
            args.work_dir,
            Console(stderr=args.json),
        )
    if args.json and result is not None:
        print(json.dumps(result.scores, ensure_ascii=False))
    return 0
