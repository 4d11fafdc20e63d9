"""``inlay eval``: one form for all tasks."""

from __future__ import annotations

import argparse

from inlay.cli.mmbench import add_model_options, check_counts, open_answerer

NAME = "eval"
HELP = "ask a model the questions of tasks: vqa, mmbench, lmms:NAME"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("tasks", nargs="+", metavar="TASK", help="vqa, mmbench, lmms:NAME (and files, as --data)")
    add("--model", required=True, metavar="PATH", help="folder or hub name of a model")
    add("--data", nargs="+", default=[], metavar="FILE", help="data of the tasks, in their order")
    add("--image-folder", metavar="DIR", help="where pictures lie (default: beside the data)")
    add("--limit", type=int, metavar="N", help="the first N questions of each task only")
    add("--max-new-tokens", type=int, help="longest answer (default: what the task needs)")
    add("--out", metavar="FILE.json", help="write scores, and every question with its answer")
    add("--wrong", metavar="FILE.html", help="write a page of the wrong answers")
    add("--json", action="store_true", help="print the scores as JSON, all else on stderr")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from inlay.app.evaluate import evaluate, load_task, plan_tasks
    from inlay.cli.chat import named_template

    check_counts(args)
    template = named_template(args.prompt_template)
    tasks = {
        name: None if path is None else load_task(name, path, args.image_folder, args.limit)
        for name, path in plan_tasks(args.tasks, args.data).items()
    }
    scores = evaluate(
        tasks,
        open_answerer(args, template),
        limit=args.limit,
        max_new_tokens=args.max_new_tokens,
        out=args.out,
        page=args.wrong,
        console=Console(stderr=args.json),
    )
    if args.json:
        print(json.dumps(scores, ensure_ascii=False))
    return 0
