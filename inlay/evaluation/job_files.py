"""What jobs of evaluation leave on disk, and how it is read.

``eval_results/`` of a work dir holds, for the checkpoint of iteration N, ``step_N.json`` (what the
evaluation found), ``step_N.log`` (what it said) and ``jobs/step_N.json`` (how the job stands).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlay.core.errors import DataError
from inlay.core.io import read_json

FOLDER = "eval_results"
RESULT = re.compile(r"^step_(\d+)\.json$")
WAITING, RUNNING, DONE, FAILED = "waiting", "running", "done", "failed"


@dataclass
class Job:
    """The evaluation of one checkpoint.

    Attributes:
        step: iteration of the checkpoint. checkpoint: its folder's name in the work dir.
        weights: fingerprint of its weights, by which a step that was trained again is told apart.
        state: ``waiting``, ``running``, ``done`` or ``failed``.
        id: of the runner, while it runs and after. attempts: how often it was started.
        started: time of the last start, seconds of ``time.time``. problem: why it failed.
    """

    step: int
    checkpoint: str
    weights: str
    state: str = WAITING
    id: str | None = None
    attempts: int = 0
    started: float = 0.0
    problem: str | None = None

    @property
    def is_open(self) -> bool:
        return self.state in (WAITING, RUNNING)


@dataclass(frozen=True)
class Outcome:
    """What became of a job, or of a result that somebody has put into the folder.

    Attributes:
        weights: of ``Job``; empty where nobody knows them. checkpoint: as there; None where nobody
            knows, or where other weights have its name by now.
        metrics: by name, ``eval/vqa/accuracy``; None where the job has failed.
        problem: why.
    """

    step: int
    weights: str = ""
    checkpoint: str | None = None
    metrics: dict[str, float] | None = None
    problem: str | None = None


def read_result(path: str | Path) -> dict[str, float]:
    """Return the numbers of a result by name, ``eval/<task>/<metric>``.

    The file is what ``inlay eval --out`` or nanoVLM writes (``results``), or any object of numbers,
    nested or not. NaN and infinity are left out.

    Raises:
        DataError: it cannot be read, is not JSON, or holds no number.
    """
    try:
        value = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if isinstance(value, dict):
        value = next((value[key] for key in ("results", "scores") if key in value), value)
    metrics = dict(_numbers(value, "eval"))
    if not metrics:
        raise DataError(f"{path} holds no number: expected {{'results': {{name: number}}}}")
    return metrics


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, f"{name}/{key}")
    elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        yield name, value


def read_jobs(work_dir: str | Path) -> list[Job]:
    """Return the jobs of a work dir by step; files that cannot be read are left out."""
    found = []
    for path in Path(work_dir, FOLDER, "jobs").glob("step_*.json"):
        with suppress(OSError, ValueError, TypeError):
            found.append(Job(**read_json(path)))
    return sorted(found, key=lambda job: job.step)


def weights_of(checkpoint: Path) -> str:
    """Return the fingerprint of a checkpoint's weights, as its manifest has it.

    Raises:
        DataError: it is gone or has none.
    """
    try:
        files = read_json(checkpoint / "manifest.json")["files"]
        return str(files["model.safetensors"]["sha256"])[:16]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{checkpoint} is no whole checkpoint ({error})") from error


def logged_results(work_dir: Path) -> dict[str, str]:
    """What all earlier starts have logged: step -> fingerprint of the weights.

    The record in ``scalars.json`` is what counts: a run that is killed behind it has logged.
    """
    found: dict[str, str] = {}
    for path in sorted(Path(work_dir).glob("*/vis_data/scalars.json")):
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if '"eval_weights"' not in line:
                    continue
                with suppress(ValueError, KeyError, TypeError):  # half a line of a kill
                    record = json.loads(line)
                    found[str(record["step"])] = record["eval_weights"]
    return found


def last_line(log: Path) -> str:
    """Return what a job has said last, to be put behind a problem."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    except OSError:
        return ""
    said = [line for line in lines if line]
    return f": {said[-1][:300]} ({log})" if said else f" ({log})"
