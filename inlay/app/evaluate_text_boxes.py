"""`inlay eval_refcoco`: a model writes boxes as text."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from inlay.app.evaluate import ask_all, model_state, report, say
from inlay.core.io import file_sha256, fingerprint, write_json
from inlay.evaluation.ask import Answer, AnswerFile, Result, problems
from inlay.evaluation.text_boxes import TextBoxes, load

IMAGE_FOLDER = "data/llava_data/llava_images"
"""Where XTuner looks for pictures."""


def load_boxes(data_path: str, image_folder: str | None, limit: int | None) -> TextBoxes:
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
    return load(path, folder, limit)


def evaluate_boxes(
    task: TextBoxes,
    data_path: str,
    answer: Answer,
    models: Mapping[str, str | None],
    settings: Mapping[str, Any],
    work_dir: str | None,
    max_new_tokens: int,
    console: Console,
) -> Result:
    """Ask all questions and write what came out; a run that was broken off is gone on with.

    Answers are kept in ``work_dir/answers_<fingerprint>.jsonl``; each run writes ``args.json`` and
    ``refcoco_result.json`` to a folder ``work_dir/<time>``.

    Args:
        models, settings, work_dir: see ``app.evaluate.mmbench``.
    """
    home = Path(work_dir or Path("work_dirs", Path(data_path).stem)).expanduser()
    states = {name: model_state(path) for name, path in models.items() if path is not None}
    asked = fingerprint([states, dict(settings), max_new_tokens, file_sha256(data_path)])
    kept = AnswerFile(home / f"answers_{asked}.jsonl")
    folder = home / time.strftime("%Y%m%d_%H%M%S")
    arguments = {"data_path": data_path, **models, **settings, "max_new_tokens": max_new_tokens}
    write_json(folder / "args.json", arguments)
    replies = ask_all(task, answer, max_new_tokens, kept)
    result = task.score(replies)
    write_json(folder / "refcoco_result.json", {"scores": result.scores, "rows": result.rows})
    report(console, "refcoco", result, problems(replies), len(replies))
    if result.scores["not_a_box"]:
        say(console, f"{result.scores['not_a_box']} answers are no box: not exactly four numbers")
    say(console, f"results: {folder.absolute()}\nAcc: {result.scores['accuracy']}")
    return result
