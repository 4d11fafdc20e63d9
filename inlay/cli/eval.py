"""``inlay eval``: one form for all tasks."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from inlay.app.launch import add_launch_options
from inlay.cli.mmbench import (
    ANSWER_SETTINGS,
    MODEL_OPTIONS,
    add_model_options,
    check_counts,
    open_answerer,
)
from inlay.evaluation import POINTING

if TYPE_CHECKING:
    from inlay.app.evaluate.harness import Harness
    from inlay.app.evaluate.items import Evaluator
    from inlay.app.evaluate.pointing import Pointing

NAME = "eval"
TASKS = "vqa, mmbench, scenes, refcoco, png, phrases, viscot, lm:NAME, lmms:NAME"
HELP = f"evaluate a model: {TASKS}"
OPTIONS = {
    "refcoco": {"protocols": "--protocol", "splits": "--split"},
    "viscot": {"version": "--cot"},
}
"""What single tasks have beside the options of all: parameter of ``load`` -> flag."""
LM_OPTIONS = {
    "num_fewshot": None,
    "apply_chat_template": False,
    "batch_size": 1,
    "include_path": None,
}
"""What only tasks of lm-evaluation-harness have -> its default."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "tasks",
        nargs="+",
        metavar="TASK",
        help=f"{TASKS} (and files, as --data)",
    )
    what = "folder or hub name of a model, or a checkpoint of a run (iter_N)"
    add("--model", required=True, metavar="PATH", help=what)
    add("--data", nargs="+", default=[], metavar="PATH", help="data of the tasks, in their order")
    add("--image-folder", metavar="DIR", help="where pictures lie (default: beside the data)")
    add("--limit", type=int, metavar="N", help="the first N questions of each task only")
    add("--max-new-tokens", type=int, help="longest answer (default: what the task needs)")
    add("--work-dir", default="work_dirs/eval", metavar="DIR", help="answers, to be gone on with")
    add("--out", metavar="FILE.json", help="write scores, and every question with its answer")
    add("--wrong", metavar="FILE.html", help="write a page of the wrong answers")
    add("--json", action="store_true", help="print the scores as JSON, all else on stderr")
    add_model_options(parser)
    add_launch_options(parser)
    pointing = parser.add_argument_group("tasks that point: refcoco, png, phrases, viscot")
    add = pointing.add_argument
    add("--ground", metavar="CHECKPOINT", help="trained parts that turn attention into masks")
    add("--config", metavar="FILE", help="config or recipe, where the checkpoint has none")
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
    harness = parser.add_argument_group("tasks of lm-evaluation-harness: lm:NAME")
    add = harness.add_argument
    add("--num-fewshot", type=int, metavar="N", help="examples before a question (default: task's)")
    add("--apply-chat-template", action="store_true", help="ask in the model's chat template")
    add("--batch-size", type=int, default=1, metavar="N", help="rows at once (default 1)")
    add("--include-path", metavar="DIR", help="folder with YAML files of your own tasks")


def run(args: argparse.Namespace) -> int:
    import json

    from rich.console import Console

    from inlay.app.evaluate.items import processes
    from inlay.app.evaluate.run import evaluate, load_task, plan_tasks
    from inlay.app.launch import start
    from inlay.cli.chat import named_template

    check_counts(args)
    template = named_template(args.prompt_template)
    planned = plan_tasks(args.tasks, args.data)
    _check_options(args, planned)
    code = start(args)
    if code is not None:
        return code
    harness = _harness(args, planned)
    tasks = {
        name: None
        if path is None
        else load_task(
            name, path, args.image_folder, args.limit, args.max_new_tokens, **_options(args, name)
        )
        for name, path in planned.items()
    }
    with processes():
        asking = None if tasks.keys() <= POINTING else _asking(args, template)
        scores = evaluate(
            tasks,
            asking=asking,
            pointing=_pointing(args) if tasks.keys() & POINTING else None,
            harness=None if harness is None or asking is None else harness.use(asking),
            models={name: getattr(args, name) for name in ("model", *MODEL_OPTIONS, "ground")},
            out=args.out,
            page=args.wrong,
            console=Console(stderr=args.json),
        )
    if args.json and scores:
        print(json.dumps(scores, ensure_ascii=False))
    return 0


def _harness(args: argparse.Namespace, tasks: dict[str, str | None]) -> Harness | None:
    """Look up the tasks of others."""
    from inlay.app.evaluate.harness import Harness, HarnessOptions

    names = [name for name, path in tasks.items() if path is None]
    options = HarnessOptions(
        args.limit,
        args.num_fewshot,
        args.apply_chat_template,
        args.batch_size,
        args.include_path,
    )
    return Harness(names, options) if names else None


def _asking(args: argparse.Namespace, template: Any) -> Evaluator:
    """Open the model that a command names as one that answers."""
    from pathlib import Path

    from inlay.app.evaluate.items import Evaluator, own_device
    from inlay.app.evaluate.run import state_of

    own_device()
    models = {name: getattr(args, name) for name in ("model", *MODEL_OPTIONS)}
    state = state_of(models, {name: getattr(args, name) for name in ANSWER_SETTINGS})
    folder = Path(args.work_dir).expanduser()
    return Evaluator(open_answerer(args, template), state, folder)


def _pointing(args: argparse.Namespace) -> Pointing:
    """Open the model that a command names as one that points."""
    from pathlib import Path

    from inlay.app.evaluate.items import model_state, own_device
    from inlay.app.evaluate.pointing import Pointing
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
    """Refuse what would have no effect."""
    from inlay.core.errors import ConfigError

    for task, flags in OPTIONS.items():
        given = ", ".join(flags[name] for name in _options(args, task))
        if given and task not in tasks:
            raise ConfigError(f"{given} goes with the task {task}")
    if not tasks.keys() & POINTING:
        for name in ("ground", "config", "page"):
            if getattr(args, name) is not None:
                raise ConfigError(f"--{name} goes with {', '.join(sorted(POINTING))}")
    if not any(task.startswith("lm:") for task in tasks):
        for name, default in LM_OPTIONS.items():
            if getattr(args, name) != default:
                flag = name.replace("_", "-")
                raise ConfigError(f"--{flag} goes with tasks of lm-evaluation-harness (lm:NAME)")
