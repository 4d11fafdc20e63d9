"""Trackio, Hugging Face's tracker: a local data base, or a Space."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inlay.engine.trackers.apart import Apart
from inlay.engine.trackers.base import Pictures, Row, RunInfo, curves

PROJECT = "inlay"
REMOTE = ("space_id", "server_url")


class TrackioVisBackend(Apart):
    """A run of Trackio: local by default (``trackio show`` opens it, ``TRACKIO_DIR`` moves it).

    With ``space_id`` it goes to a Space of the hub, private unless ``private=False`` is given.

    Args:
        init_kwargs: of ``trackio.init``: ``project``, ``space_id``, ``group``, ...

    Raises:
        ConfigError: the package is not installed.
    """

    def __init__(self, init_kwargs: dict[str, Any] | None = None) -> None:
        given = init_kwargs or {}
        super().__init__("trackio", f"{__name__}:TrackioRun", {"init_kwargs": given})
        places = [given.get(k) or os.environ.get(f"TRACKIO_{k.upper()}") for k in REMOTE]
        self.is_offline = not any(places)


class TrackioRun:
    """The tracker itself; see ``TrackioVisBackend``."""

    def __init__(self, init_kwargs: dict[str, Any]) -> None:
        self.init_kwargs = init_kwargs

    def open(self, folder: Path, info: RunInfo) -> None:
        import trackio

        self._names = info.names
        given = {
            "project": PROJECT,
            "name": info.name,
            "config": dict(info.values),
            "resume": "allow" if info.resumed else "never",
            "embed": False,
            "auto_log_cpu": False,
            **self.init_kwargs,
        }
        if given.get("space_id") or os.environ.get("TRACKIO_SPACE_ID"):
            given.setdefault("private", True)
        self._run = trackio.init(**given)

    def write(self, record: dict[str, Any]) -> None:
        # Steps may go back here: an evaluation's curves have the step of its checkpoint.
        self._run.log(curves(record, self._names), step=record["step"])

    def write_table(self, name: str, rows: Sequence[Row], step: int) -> None:
        import trackio

        columns = list(dict.fromkeys(key for row in rows for key in row))
        data = [[row.get(key) for key in columns] for row in rows]
        self._run.log({name: trackio.Table(columns=columns, data=data)}, step=step)

    def write_images(self, name: str, images: Pictures, step: int) -> None:
        import trackio

        shown = {
            f"{name}/{number}": trackio.Image(str(file), caption=caption)
            for number, (caption, file) in enumerate(images)
        }
        self._run.log(shown, step=step)

    def close(self) -> None:
        import trackio

        trackio.finish()
