"""What a model card tells of a training: data, versions, and what was measured."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from inlay import __version__
from inlay.app.runs.files import RunFiles
from inlay.app.runs.folders import start_folders
from inlay.core.io import file_sha256

LIBRARIES = ("torch", "transformers", "peft")
_FILES = ("path", "json_file", "refs", "data_files")
"""Settings of a source that name its files."""

_COUNTS = {"Iterations": "iter", "Samples seen": "samples", "Tokens seen": "tokens"}


def card_facts(cfg: Any, checkpoint: str, folder: Path | None) -> dict[str, Any]:
    """Return what ``convert.card.model_card`` tells.

    Args:
        cfg: of the run.
        checkpoint: what its weights are called.
        folder: the checkpoint, or the work dir; None where it is not known.
    """
    state = _state(folder)
    run, identity = state.get("run", {}), state.get("identity", {})
    facts: dict[str, Any] = {"Config": cfg.name, "Checkpoint": checkpoint}
    facts |= {name: run[key] for name, key in _COUNTS.items() if key in run}
    facts["Versions"] = ", ".join(
        [f"inlay {__version__}", *(f"{name} {version(name)}" for name in LIBRARIES)]
    )
    if "data" in identity:
        facts["Fingerprint of the data"] = identity["data"]
    facts["Data"] = list(_data(cfg["train_dataloader"]["dataset"]))
    facts["Results"] = _results(folder, run.get("iter"))
    return facts


def _state(folder: Path | None) -> dict[str, Any]:
    """The state of a checkpoint of ours; empty for anything else."""
    try:
        found = json.loads(((folder or Path()) / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _data(dataset: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One row a file, each once: names, not paths, since others read them."""
    told = set()
    for source in dataset.get("sources") or []:
        if not isinstance(source, Mapping):
            continue
        kind = getattr(source.get("type"), "__name__", "")
        for name in _FILES:
            paths = source.get(name)
            for path in paths if isinstance(paths, list | tuple) else [paths]:
                if isinstance(path, str) and path not in told:
                    told.add(path)
                    yield _described(kind, path)


def _described(kind: str, path: str) -> dict[str, Any]:
    file = Path(path)
    # The files of a benchmark are known by their folder, too.
    name = f"{kind} ({'/'.join(file.parts[-2:])})" if kind else file.name
    if not file.is_file():
        return {"source": name if file.exists() or kind else path, "rows": "", "SHA-256": ""}
    rows = _count_rows(file)
    return {"source": name, "rows": "" if rows is None else rows, "SHA-256": file_sha256(file)[:16]}


def _count_rows(file: Path) -> int | None:
    """Rows of a file in a form that can be counted; None for others."""
    if file.suffix == ".jsonl":
        with file.open("rb") as lines:
            return sum(bool(line.strip()) for line in lines)
    if file.suffix == ".parquet":
        from pyarrow.parquet import ParquetFile

        return ParquetFile(file).metadata.num_rows
    if file.suffix == ".json":
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            return None
        return len(found) if isinstance(found, list) else None
    return None


def _results(folder: Path | None, iteration: int | None) -> list[dict[str, Any]]:
    """Validations and evaluations of a run: at ``iteration``, or else the newest before it."""
    work_dir = _work_dir(folder)
    if work_dir is None:
        return []
    files = RunFiles(work_dir, keys=())
    files.read()
    found = []
    for name, series in sorted(files.points.items()):
        points = zip(series.iters, series.values, strict=True)
        fitting = [(at, x) for at, x in points if iteration is None or at <= iteration]
        if fitting:
            at, value = fitting[-1]
            found.append({"measure": name, "result": f"{value:.4g}", "at iteration": at})
    return found


def _work_dir(folder: Path | None) -> Path | None:
    """The work dir that a checkpoint stands in, or ``folder`` itself, if it is one."""
    for place in [] if folder is None else [folder, folder.parent]:
        if place.is_dir() and start_folders(place):
            return place
    return None
