"""`inlay eval` and `inlay mmbench`: ask a model the questions of tasks, and write what came out."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from inlay.core.errors import ConfigError, did_you_mean
from inlay.core.io import file_sha256, fingerprint, write_json
from inlay.evaluation import POINTING, TASKS
from inlay.evaluation.ask import Answer, AnswerFile, Question, Reply, Result, Task, ask, problems

if TYPE_CHECKING:
    from inlay.app.answering import Answerer
    from inlay.app.evaluate_pointing import Pointing

LMMS = "lmms:"
"""What the names of lmms-eval's tasks start with: ``lmms:mmstar``."""


def plan_tasks(words: Sequence[str], data: Sequence[str]) -> dict[str, str | None]:
    """Pair tasks with their data: task name -> file or folder, None for those of lmms-eval.

    Args:
        words: task names; one that is a file or folder on disk is data, too.
        data: files and folders, in the order of the tasks that need one.

    Raises:
        ConfigError: an unknown task, one that is named twice, or not one file for each.
    """
    files = [word for word in words if word not in TASKS and Path(word).exists()]
    names = [word for word in words if word not in files]
    files += data
    for name in names:
        if name not in TASKS and not (name.startswith(LMMS) and len(name) > len(LMMS)):
            raise ConfigError(
                f"there is no task '{name}'.{did_you_mean(name, TASKS)} Known: "
                f"{', '.join(TASKS)}, and {LMMS}NAME for those of lmms-eval"
            )
    needy = [name for name in names if not name.startswith(LMMS)]
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"name each task once, got: {', '.join(names) or 'none'}")
    if len(files) != len(needy):
        raise ConfigError(
            f"expected {len(needy)} data file(s), one for each of {', '.join(needy) or 'no task'}, "
            f"found {len(files)}: {', '.join(files) or 'none'}. Name them with --data"
        )
    return {name: None for name in names} | dict(zip(needy, files, strict=True))


def load_task(
    name: str, path: str, image_folder: str | None, limit: int | None, **options: Any
) -> Any:
    """Read the questions of a task: a ``Task``, or a ``PointingTask`` if ``name`` is in
    ``POINTING``.

    Args:
        options: that its ``load`` has beside these.

    Raises:
        DataError: its data are missing or malformed.
    """
    module = importlib.import_module(TASKS[name])
    folder = None if image_folder is None else Path(image_folder).expanduser()
    return module.load(Path(path).expanduser(), folder, limit, **options)


def evaluate(
    tasks: Mapping[str, Any],
    answerer: Answerer | None,
    *,
    pointing: Pointing | None = None,
    limit: int | None = None,
    max_new_tokens: int | None = None,
    out: str | None = None,
    page: str | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run tasks and print what they found.

    Args:
        tasks: by name, see ``load_task``; None for those of lmms-eval.
        answerer: where a task needs one: all but those in ``POINTING``.
        pointing: runs those in ``POINTING``.
        limit: questions of each task of lmms-eval.
        max_new_tokens: longest answer; None: what each task needs.
        out: JSON file for the scores, and every question with its reply.
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
        if name in POINTING:
            assert pointing is not None
            result = pointing.run(name, task, console)
            if result is None:
                continue
        else:
            assert answerer is not None
            replies = ask_all(task, answerer, max_new_tokens)
            result = task.score(replies)
            report(console, name, result, problems(replies), len(replies))
            wrong += wrong_ones(task, result, replies) if page else []
        scores[name], rows[name] = result.scores, result.rows
    if pointing is not None and pointing.only_helps:
        return {}
    foreign = [name.removeprefix(LMMS) for name, task in tasks.items() if task is None]
    if foreign:
        assert answerer is not None
        from inlay.evaluation.lmms import run_tasks

        scores["lmms-eval"] = run_tasks(foreign, answerer, answerer.score, limit)
        console.print_json(data=scores["lmms-eval"])
    if out is not None:
        write_json(out, {"scores": scores, "rows": rows})
    if page is not None:
        asked = sum(len(those) for name, those in rows.items() if name not in POINTING)
        write_answers_page(Path(page), wrong, asked)
    return scores


def mmbench(
    task: Task,
    data_path: str,
    answer: Answer,
    models: Mapping[str, str | None],
    settings: Mapping[str, Any],
    work_dir: str | None = None,
    max_new_tokens: int | None = None,
    console: Console | None = None,
) -> Result:
    """Run MMBench; a run that was broken off is gone on with.

    The answers of one model, one table and the same settings are kept in
    ``work_dir/answers_<fingerprint>.jsonl``; each run writes ``args.json``, the submission
    (``mmbench_result.xlsx``) and, where the table has answers, ``mmbench_result.json`` to a folder
    ``work_dir/<time>``.

    Args:
        models: paths or names of the parts of the model, by option.
        settings: all other options that change answers.
        work_dir: ``./work_dirs/<name of the table>`` by default.
        console: where tables go; standard output by default.
    """
    from inlay.evaluation.sheet import write_sheet

    console = console or Console()
    home = Path(work_dir or Path("work_dirs", Path(data_path).stem)).expanduser()
    states = {name: model_state(path) for name, path in models.items() if path is not None}
    asked = fingerprint([states, dict(settings), max_new_tokens, file_sha256(data_path)])
    kept = AnswerFile(home / f"answers_{asked}.jsonl")
    folder = home / time.strftime("%Y%m%d_%H%M%S")
    say(console, f"data: {Path(data_path).absolute()}\nresults: {folder.absolute()}")
    old = sum(question.key in kept.texts for question in task.questions)
    if old:
        say(console, f"{old} of {len(task.questions)} answers are there from an earlier run")
    arguments = {"data_path": data_path, **models, **settings, "max_new_tokens": max_new_tokens}
    write_json(folder / "args.json", arguments)
    replies = ask_all(task, answer, max_new_tokens, kept)
    result = task.score(replies)
    shown = [{k: v for k, v in row.items() if k != "score"} for row in result.rows]
    sheet = write_sheet(folder / "mmbench_result", shown)
    report(console, "mmbench", result, problems(replies), len(replies))
    say(console, f"submission: {sheet}")
    if sheet.suffix != ".xlsx":
        say(console, "The server takes .xlsx: pip install openpyxl, and run this again")
    if result.tables:
        write_json(folder / "mmbench_result.json", result.scores)
    else:
        say(console, "The table has no answers: there is no accuracy, only the submission.")
    return result


def ask_all(
    task: Task, answer: Answer, max_new_tokens: int | None = None, kept: AnswerFile | None = None
) -> dict[str, Reply]:
    """Ask all questions of a task, with a progress bar on a terminal."""
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("questions", total=len(task.questions))
        return ask(
            task.questions,
            answer,
            max_new_tokens or task.max_new_tokens,
            kept,
            lambda question, reply: progress.advance(bar),
        )


def report(
    console: Console, name: str, result: Result, unasked: Mapping[str, str], total: int
) -> None:
    """Print the tables of a result, and which of ``total`` questions could not be asked.

    Args:
        unasked: why, by key.
    """
    for title, lines in result.tables.items():
        columns = list(dict.fromkeys(column for shares in lines.values() for column in shares))
        table = Table(f"{name}, by {title}, %" if title else f"{name}, %")
        for column in columns:
            table.add_column(column, justify="right")
        for line, shares in lines.items():
            cells = (
                f"{100 * shares[column]:.1f}" if column in shares else "" for column in columns
            )
            table.add_row(escape(line), *cells)
        console.print(table)
    if unasked:
        count = f"{len(unasked)} of {total}"
        say(console, f"{count} questions could not be asked and count as wrong:")
        for why in list(unasked.values())[:10]:
            say(console, f"  {why}")


def say(console: Console, text: str) -> None:
    """Print a line as it is, however wide."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def wrong_ones(task: Task, result: Result, replies: Mapping[str, Reply]) -> list[dict[str, Any]]:
    """The questions whose score is below 1, as the page of answers has them."""
    from inlay.app.page import data_url

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
    from inlay.app.page import write_page

    write_page(path, "answers.html", title="Wrong answers", rows=rows, total=total)


def model_state(path: str) -> Any:
    """What tells a model from an earlier one of the same name: its files' sizes and times."""
    folder = Path(path).expanduser()
    if not folder.exists():
        return path
    files = sorted(file for file in [folder, *folder.rglob("*")] if file.is_file())
    stats = [(str(file.relative_to(folder)), file.stat()) for file in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
