"""`inlay eval_refcoco`: a model writes boxes as text."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from inlay.app.evaluate.items import Evaluator, say
from inlay.app.evaluate.run import state_of
from inlay.core.io import file_sha256, write_json
from inlay.evaluation.ask import Answer, Asking, Result
from inlay.evaluation.text_boxes import load

IMAGE_FOLDER = "data/llava_data/llava_images"
"""Where XTuner looks for pictures."""


def load_boxes(
    data_path: str, image_folder: str | None, limit: int | None, max_new_tokens: int
) -> Asking:
    """Read the questions.

    Args:
        image_folder: None: ``IMAGE_FOLDER``, or the folder of the data where that is not there.

    Raises:
        DataError: the data are missing or malformed.
    """
    path = Path(data_path).expanduser()
    usual = Path(IMAGE_FOLDER)
    folder = Path(image_folder).expanduser() if image_folder else usual
    if image_folder is None and not usual.is_dir():
        folder = path.absolute().parent
    task = load(path, folder, limit)
    return Asking(task, [file_sha256(path), str(folder)], max_new_tokens)


def evaluate_boxes(
    task: Asking,
    data_path: str,
    answer: Answer,
    models: Mapping[str, str | None],
    settings: Mapping[str, Any],
    work_dir: str | None,
    console: Console,
) -> Result | None:
    """Ask all questions and write what came out; a run that was broken off is gone on with, and
    several processes share it.

    Answers are kept in ``work_dir/refcoco_<fingerprint>``; each run writes ``args.json`` and
    ``refcoco_result.json`` to a folder ``work_dir/<time>``.

    Args:
        models, settings, work_dir: see ``app.evaluate.mmbench``.

    Returns:
        None where this process only helps.
    """
    home = Path(work_dir or Path("work_dirs", Path(data_path).stem)).expanduser()
    runner = Evaluator(answer, state_of(models, settings), home)
    found = runner.find("refcoco", task, console)
    if found is None:
        return None
    folder = home / time.strftime("%Y%m%d_%H%M%S")
    arguments = {"data_path": data_path, **models, **settings}
    write_json(folder / "args.json", {**arguments, "max_new_tokens": task.max_new_tokens})
    result = runner.conclude("refcoco", task, found, console)
    write_json(folder / "refcoco_result.json", {"scores": result.scores, "rows": result.rows})
    if result.scores["not_a_box"]:
        say(console, f"{result.scores['not_a_box']} answers are no box: not exactly four numbers")
    say(console, f"results: {folder.absolute()}\nAcc: {result.scores['accuracy']}")
    return result
