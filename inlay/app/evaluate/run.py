"""`inlay eval` and `inlay mmbench`: ask a model the questions of tasks, and write what came out."""

from __future__ import annotations

import importlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from inlay.app.evaluate.items import Evaluator, Found, model_state, say
from inlay.core.errors import ConfigError, did_you_mean
from inlay.core.io import file_sha256, write_json
from inlay.evaluation import HARNESSES, POINTING, TASKS
from inlay.evaluation.ask import Answer, Asking, Question, Result, Task, replies_of
from inlay.evaluation.records import ItemTask
from inlay.evaluation.summary import flat, headlines

if TYPE_CHECKING:
    from inlay.app.evaluate.harness import Harness
    from inlay.app.evaluate.pointing import Pointing


def plan_tasks(words: Sequence[str], data: Sequence[str]) -> dict[str, str | None]:
    """Pair tasks with their data: task name -> file or folder, None for those of ``HARNESSES``.

    Args:
        words: task names; one that is a file or folder on disk is data, too.
        data: files and folders, in the order of the tasks that need one.

    Raises:
        ConfigError: unknown tasks, one that is named twice, or not one file for each.
    """
    files = [word for word in words if word not in TASKS and Path(word).exists()]
    names = [word for word in words if word not in files]
    files += data
    unknown = [name for name in names if name not in TASKS and harness_of(name) is None]
    if unknown:
        lines = (f"there is no task '{name}'.{did_you_mean(name, TASKS)}" for name in unknown)
        foreign = " and ".join(f"{prefix}NAME ({what})" for prefix, (what, _) in HARNESSES.items())
        raise ConfigError(f"{' '.join(lines)} Known: {', '.join(TASKS)}, {foreign}")
    needy = [name for name in names if name in TASKS]
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"name each task once, got: {', '.join(names) or 'none'}")
    if len(files) != len(needy):
        raise ConfigError(
            f"expected {len(needy)} data file(s), one for each of {', '.join(needy) or 'no task'}, "
            f"found {len(files)}: {', '.join(files) or 'none'}. Name them with --data"
        )
    return {name: None for name in names} | dict(zip(needy, files, strict=True))


def harness_of(name: str) -> str | None:
    """Return what the name of a task in ``HARNESSES`` starts with; None for one of ours."""
    found = [prefix for prefix in HARNESSES if name.startswith(prefix) and len(name) > len(prefix)]
    return found[0] if found else None


def load_task(
    name: str,
    path: str,
    image_folder: str | None,
    limit: int | None,
    max_new_tokens: int | None = None,
    **options: Any,
) -> Any:
    """Read the items of a task: an ``Asking``, or what its ``load`` returns if ``name`` is in
    ``POINTING``.

    Args:
        max_new_tokens: longest answer of an ``Asking``; None: what the task needs.
        options: that its ``load`` has beside these.

    Raises:
        DataError: its data are missing or malformed.
    """
    module = importlib.import_module(TASKS[name])
    folder = None if image_folder is None else Path(image_folder).expanduser()
    file = Path(path).expanduser()
    task = module.load(file, folder, limit, **options)
    if name in POINTING:
        return task
    # Not the limit: what a shorter run has found is a part of this one.
    state = file_sha256(file) if file.is_file() else str(file)
    return Asking(task, [state, image_folder], max_new_tokens)


def evaluate(
    tasks: Mapping[str, ItemTask | None],
    *,
    asking: Evaluator | None = None,
    pointing: Pointing | None = None,
    harness: Harness | None = None,
    models: Mapping[str, str | None] | None = None,
    out: str | None = None,
    page: str | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run tasks; print what each found, and one table of all.

    Args:
        tasks: by name, see ``load_task``; None for those of ``HARNESSES``.
        asking: runs those that ask questions.
        pointing: runs those in ``POINTING``.
        harness: runs those of ``HARNESSES``.
        models: paths or names of the parts of the model, by option; for ``out``.
        out: JSON file, written once all tasks are done: ``model``, ``results`` (a flat dict of
            numbers, see ``summary.flat``), ``scores``, and ``rows``: every question with its reply.
        page: HTML file for the questions whose score is not 1 (of those in ``POINTING``, see
            there).
        console: where tables go; standard output by default.

    Returns:
        Task -> its scores; nothing in a process that only helps.
    """
    console = console or Console()
    scores: dict[str, Any] = {}
    rows: dict[str, Any] = {}
    wrong: list[dict[str, Any]] = []
    for name, task in tasks.items():
        if task is None:
            continue
        runner = pointing if name in POINTING else asking
        assert runner is not None
        found = runner.find(name, task, console)
        if found is None:
            continue
        result = runner.conclude(name, task, found, console)
        scores[name], rows[name] = result.scores, result.rows
        if page is not None and isinstance(task, Asking):
            wrong += wrong_ones(task.task, result, found)
    foreign = [name for name, task in tasks.items() if task is None]
    if foreign:
        assert harness is not None
        scores |= harness.run(foreign, console)
    if not scores:
        return {}
    write_table(console, scores)
    if out is not None:
        results = {"model": dict(models or {}), "results": flat(scores), "scores": scores}
        write_json(out, {**results, "rows": rows})
    if page is not None:
        asked = sum(len(those) for name, those in rows.items() if name not in POINTING)
        write_answers_page(Path(page), wrong, asked)
    return scores


def write_table(console: Console, scores: Mapping[str, Any]) -> None:
    """Print the topmost numbers of all tasks as one table; they are as in the JSON."""
    table = Table("task", "measure")
    table.add_column("result", justify="right")
    for task, measure, number in headlines(scores):
        table.add_row(escape(task), escape(measure), f"{number:.4g}")
    console.print(table)


def mmbench(
    task: Asking,
    data_path: str,
    answer: Answer,
    models: Mapping[str, str | None],
    settings: Mapping[str, Any],
    work_dir: str | None = None,
    console: Console | None = None,
) -> Result | None:
    """Run MMBench; a run that was broken off is gone on with, and several processes share it.

    The answers of one model, one table and the same settings are kept in
    ``work_dir/mmbench_<fingerprint>``; each run writes ``args.json``, the submission
    (``mmbench_result.xlsx``) and, where the table has answers, ``mmbench_result.json`` to a folder
    ``work_dir/<time>``.

    Args:
        models: paths or names of the parts of the model, by option.
        settings: all other options that change answers.
        work_dir: ``./work_dirs/<name of the table>`` by default.
        console: where tables go; standard output by default.

    Returns:
        None where this process only helps.
    """
    from inlay.evaluation.sheet import write_sheet

    console = console or Console()
    home = Path(work_dir or Path("work_dirs", Path(data_path).stem)).expanduser()
    runner = Evaluator(answer, state_of(models, settings), home)
    found = runner.find("mmbench", task, console)
    if found is None:
        return None
    folder = home / time.strftime("%Y%m%d_%H%M%S")
    say(console, f"data: {Path(data_path).absolute()}\nresults: {folder.absolute()}")
    arguments = {"data_path": data_path, **models, **settings}
    write_json(folder / "args.json", {**arguments, "max_new_tokens": task.max_new_tokens})
    result = runner.conclude("mmbench", task, found, console)
    shown = [{k: v for k, v in row.items() if k != "score"} for row in result.rows]
    sheet = write_sheet(folder / "mmbench_result", shown)
    say(console, f"submission: {sheet}")
    if sheet.suffix != ".xlsx":
        say(console, "The server takes .xlsx: pip install openpyxl, and run this again")
    if result.tables:
        write_json(folder / "mmbench_result.json", result.scores)
    else:
        say(console, "The table has no answers: there is no accuracy, only the submission.")
    return result


def state_of(models: Mapping[str, str | None], settings: Mapping[str, Any]) -> Any:
    """JSON values that change with what a model would say.

    Args:
        models: paths or names of its parts, by option.
        settings: all other options that change answers.
    """
    states = {name: model_state(path) for name, path in models.items() if path is not None}
    return [states, dict(settings)]


def wrong_ones(task: Task, result: Result, found: Found) -> list[dict[str, Any]]:
    """The questions whose score is below 1, as the page of answers has them."""
    from inlay.app.pages.page import data_url

    replies = replies_of(found)

    def pictures(question: Question) -> list[dict[str, Any]]:
        if replies[question.key].problem:
            return []
        return [{"url": data_url(image, 320), "problem": None} for image in question.pictures()]

    return [
        {
            "pictures": pictures(question),
            "text": question.text,
            "prediction": row["prediction"],
            "problem": replies[question.key].problem,
            "right": " / ".join(row.get("references") or [row["answer"]]),
            "score": row["score"],
        }
        for question, row in zip(task.questions, result.rows, strict=True)
        if row.get("score", 1.0) < 1
    ]


def write_answers_page(path: Path, rows: Sequence[Mapping[str, Any]], total: int) -> None:
    """Write a page of questions with what was said and what is right."""
    from inlay.app.pages.page import write_page

    write_page(path, "answers.html", title="Wrong answers", rows=rows, total=total)
