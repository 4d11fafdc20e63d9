"""``inlay eval``: one form for all tasks."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from inlay.cli.mmbench import MODEL_OPTIONS, add_model_options, check_counts, open_answerer

if TYPE_CHECKING:
    from inlay.app.evaluate_pointing import Pointing

NAME = "eval"
HELP = "evaluate a model: vqa, mmbench, refcoco, png, phrases, viscot, lmms:NAME"
OPTIONS = {
    "refcoco": {"protocols": "--protocol", "splits": "--split"},
    "viscot": {"version": "--cot"},
}
"""What single tasks have beside the options of all: parameter of ``load`` -> flag."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "tasks",
        nargs="+",
        metavar="TASK",
        help="vqa, mmbench, refcoco, png, phrases, viscot, lmms:NAME (and files, as --data)",
    )
    add("--model", required=True, metavar="PATH", help="folder or hub name of a model")
    add("--data", nargs="+", default=[], metavar="PATH", help="data of the tasks, in their order")
    add("--image-folder", metavar="DIR", help="where pictures lie (default: beside the data)")
    add("--limit", type=int, metavar="N", help="the first N questions of each task only")
    add("--max-new-tokens", type=int, help="longest answer (default: what the task needs)")
    add("--out", metavar="FILE.json", help="write scores, and every question with its answer")
    add("--wrong", metavar="FILE.html", help="write a page of the wrong answers")
    add("--json", action="store_true", help="print the scores as JSON, all else on stderr")
    add_model_options(parser)
    pointing = parser.add_argument_group("tasks that point: refcoco, png, phrases, viscot")
    add = pointing.add_argument
    add("--ground", metavar="CHECKPOINT", help="trained parts that turn attention into masks")
    add("--config", metavar="FILE", help="config or recipe, where the checkpoint has none")
    add("--work-dir", default="work_dirs/eval", metavar="DIR", help="results, to be gone on with")
    add("--page", metavar="FILE.html", help="write a page of the best, median and worst masks")
    add(
        "--protocol",
        dest="protocols",
        nargs="+",
        metavar="NAME",
        help="of refcoco: original (F-LMM's), standard (default: both)",
    )
    add("--split", dest="splits", nargs="+", metavar="NAME", help="of refcoco (default: all tests)")
    add("--cot", dest="version", metavar="VERSION", help="of viscot: v1, v2, v3 (default v1)")


def run(args: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from inlay.app.evaluate import evaluate, load_task, plan_tasks
    from inlay.app.evaluate_pointing import join_processes, leave_processes
    from inlay.cli.chat import named_template
    from inlay.evaluation import POINTING

    check_counts(args)
    template = named_template(args.prompt_template)
    planned = plan_tasks(args.tasks, args.data)
    _check_options(args, planned)
    tasks = {
        name: None
        if path is None
        else load_task(name, path, args.image_folder, args.limit, **_options(args, name))
        for name, path in planned.items()
    }
    join_processes()
    try:
        scores = evaluate(
            tasks,
            None if tasks.keys() <= POINTING else open_answerer(args, template),
            pointing=_pointing(args) if tasks.keys() & POINTING else None,
            limit=args.limit,
            max_new_tokens=args.max_new_tokens,
            out=args.out,
            page=args.wrong,
            console=Console(stderr=args.json),
        )
    finally:
        leave_processes()
    if args.json and scores:
        print(json.dumps(scores, ensure_ascii=False))
    return 0


def _pointing(args: argparse.Namespace) -> Pointing:
    """Open the model that a command names as one that points."""
    from pathlib import Path

    from inlay.app.evaluate import model_state
    from inlay.app.evaluate_pointing import Pointing, own_device
    from inlay.app.grounder import open_grounder
    from inlay.core.errors import ConfigError

    for name in (*MODEL_OPTIONS, "visual_select_layer", "bits", "offload_folder"):
        if getattr(args, name) is not None:
            flag = name.replace("_", "-")
            raise ConfigError(f"--{flag} has no effect on tasks that point: leave it out")
    dtype, paths = args.torch_dtype, (args.model, args.ground, args.config)
    model = open_grounder(*paths, device=own_device(), dtype=dtype)
    asked = [dtype, *(None if path is None else model_state(path) for path in paths)]
    page = None if args.page is None else Path(args.page)
    return Pointing(model, asked, Path(args.work_dir).expanduser(), page)


def _options(args: argparse.Namespace, task: str) -> dict[str, Any]:
    """The options of one task that were given."""
    given = {name: getattr(args, name) for name in OPTIONS.get(task, ())}
    return {name: value for name, value in given.items() if value is not None}


def _check_options(args: argparse.Namespace, tasks: dict[str, Any]) -> None:
    """Refuse what would have no effect, and processes that would all do the same."""
    from inlay.core import dist
    from inlay.core.errors import ConfigError
    from inlay.evaluation import POINTING

    for task, flags in OPTIONS.items():
        given = ", ".join(flags[name] for name in _options(args, task))
        if given and task not in tasks:
            raise ConfigError(f"{given} goes with the task {task}")
    if not tasks.keys() & POINTING:
        for name in ("ground", "config", "page"):
            if getattr(args, name) is not None:
                raise ConfigError(f"--{name} goes with {', '.join(sorted(POINTING))}")
    if dist.world_size() > 1 and not tasks.keys() <= POINTING:
        others = ", ".join(sorted(tasks.keys() - POINTING))
        raise ConfigError(f"{others} cannot be shared by several processes: run one")
