"""A tracker in a process of its own.

The packages of trackers start servers, threads and exit handlers, and may wait for a network for
minutes. In a process of their own they take neither memory nor the interpreter's lock from the
training, fork with no loading worker, and can be ended at any time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from inlay.core.errors import ConfigError
from inlay.engine.trackers.base import Pictures, Row, RunInfo, TrackerError

HOME = str(Path(__file__).parents[3])
"""Where the process finds this package."""


class Apart:
    """Starts the process, hands it one call after the other, and waits for each answer.

    Calls and answers are lines of JSON; what the package prints goes to ``<package>.log``.

    Args:
        package: that the process needs; it is not imported here.
        run: place of the tracker that the process makes, ``"module:class"``.
        settings: its keyword arguments, JSON values.

    Raises:
        ConfigError: the package is not installed.
    """

    is_offline = False

    def __init__(self, package: str, run: str, settings: dict[str, Any]) -> None:
        if not is_installed(package):
            raise ConfigError(
                f"{type(self).__name__} needs {package}: pip install 'inlay[track]' (or "
                f"pip install {package})"
            )
        self.package, self.run, self.settings = package, run, settings
        self._process: subprocess.Popen[str] | None = None

    def open(self, folder: Path, info: RunInfo) -> str | None:
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if self._process is None:
            self._process = self._start(folder / f"{self.package}.log")
        note = self._ask("open", self.run, self.settings, str(folder), info.to_json())
        return None if note is None else str(note)

    def write(self, record: dict[str, Any]) -> None:
        self._ask("write", record)

    def write_table(self, name: str, rows: Sequence[Row], step: int) -> None:
        self._ask("write_table", name, rows, step)

    def write_images(self, name: str, images: Pictures, step: int) -> None:
        files = [[caption, str(file.resolve())] for caption, file in images]
        self._ask("write_images", name, files, step)

    def close(self) -> None:
        if self._process is None:
            return
        try:
            self._ask("close")
        finally:
            self._process.wait()

    def abandon(self) -> None:
        """End the process and all that it has started."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _start(self, log: Path) -> subprocess.Popen[str]:
        paths = [HOME, *filter(None, [os.environ.get("PYTHONPATH")])]
        with log.open("a", encoding="utf-8") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "inlay.engine.trackers.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                text=True,
                encoding="utf-8",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,  # Ctrl-C is for the run, which then ends its trackers
            )

    def _ask(self, method: str, *arguments: Any) -> Any:
        process = self._process
        if process is None:
            raise TrackerError(f"{self.package} has not started")
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps([method, *arguments]) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise TrackerError(f"its process has ended; {self.package}.log says why")
        answer = json.loads(line)
        if "error" in answer:
            raise (ConnectionError if answer["network"] else TrackerError)(answer["error"])
        return answer["note"]


def is_installed(package: str) -> bool:
    """Whether ``package`` can be imported."""
    try:
        return find_spec(package) is not None
    except ValueError:  # somebody has put a stand-in into sys.modules
        return False
