"""Files of JSON lines, readable while the run goes on."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inlay.core.io import write_json
from inlay.core.secrets import redact
from inlay.engine.trackers.base import Pictures, Row, RunInfo

PICTURES = "images"
"""Folder beside the files."""


class LocalVisBackend:
    """``scalars.json``, ``tables.json`` and ``images.json``: a JSON object a line, flushed at once.

    ``run.json`` says what was run: id, name, config, plan, environment.
    """

    writes_files = True

    def open(self, folder: Path, info: RunInfo) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._scalars = (folder / "scalars.json").open("a", encoding="utf-8")
        write_json(folder / "run.json", info.to_json())

    def write(self, record: dict[str, Any]) -> None:
        # JSON has no NaN: a strict reader must be able to read every line.
        clean = {k: _json_value(v) for k, v in record.items()}
        self._scalars.write(json.dumps(clean) + "\n")
        self._scalars.flush()

    def write_table(self, name: str, rows: Sequence[Row], step: int) -> None:
        clean = [{k: _json_value(v) for k, v in row.items()} for row in rows]
        self._append("tables.json", {"step": step, "name": name, "rows": clean})

    def write_images(self, name: str, images: Pictures, step: int) -> None:
        shown = [{"caption": caption, "file": str(file)} for caption, file in images]
        self._append("images.json", {"step": step, "name": name, "images": shown})

    def close(self) -> None:
        self._scalars.close()

    def _append(self, file: str, line: dict[str, Any]) -> None:
        with (self._folder / file).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line, ensure_ascii=False) + "\n")


def save_pictures(
    folder: Path, name: str, images: Sequence[tuple[str, Any]], step: int
) -> list[tuple[str, Path]]:
    """Write PIL pictures as ``images/<name>_<step>_<number>.png``; files are left where they are.

    Raises:
        OSError: the disk is full or not writable.
    """
    into = folder / PICTURES
    into.mkdir(parents=True, exist_ok=True)
    stem = re.sub(r"[^\w-]+", "_", name)
    saved = []
    for number, (caption, image) in enumerate(images):
        path = image
        if not isinstance(image, str | Path):
            path = into / f"{stem}_{step}_{number}.png"
            image.save(path)
        saved.append((caption, Path(path)))
    return saved


def _json_value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return redact(value) if isinstance(value, str) else value
