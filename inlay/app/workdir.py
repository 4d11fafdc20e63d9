"""The folder of a run: who may write in it, where its logs go."""

from __future__ import annotations

import fcntl
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import IO

from inlay.core.errors import InlayError
from inlay.core.secrets import redact
from inlay.engine.checkpoint import clean_up, list_checkpoints

PROOF = 2**16
"""Bytes that a folder must take before a run starts in it: its configs and first lines of log."""


def claim(work_dir: Path) -> IO[str]:
    """Make ``work_dir`` this process's own until it ends; keep the returned file open.

    Also finishes or undoes what a killed save left behind.

    Raises:
        InlayError: the folder cannot be written, or another run holds it.
    """
    _check_name(work_dir)
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=work_dir) as file:
            file.write(bytes(PROOF))
            file.flush()
        lock = (work_dir / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise _not_writable(work_dir, error) from error
    try:
        # Not flock: the loader's workers would inherit it and outlive a killed run.
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        owner = lock.read().strip() or "another process"
        raise InlayError(
            f"work dir {work_dir} belongs to a run in progress (process {owner}). Wait for it, "
            "stop it, or choose another --work-dir"
        ) from error
    try:
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        clean_up(work_dir)
    except OSError as error:
        raise _not_writable(work_dir, error) from error
    return lock


def _check_name(work_dir: Path) -> None:
    """Configs and logs name the folder, and they are UTF-8."""
    try:
        str(work_dir).encode()
    except UnicodeEncodeError:
        raise InlayError(
            f"work dir {os.fsencode(work_dir)!r}: the name is not UTF-8. Choose another one with "
            "--work-dir"
        ) from None


def _not_writable(work_dir: Path, error: OSError) -> InlayError:
    return InlayError(
        f"work dir {work_dir} cannot be written ({error.strerror}). Choose another one with "
        "--work-dir"
    )


def refuse_used(work_dir: Path) -> None:
    """A new run does not start in a folder that holds checkpoints.

    Raises:
        InlayError: it does; says how to continue or start anew.
    """
    found = list_checkpoints(work_dir)
    if found:
        raise InlayError(
            f"work dir {work_dir} already holds {len(found)} checkpoint(s), newest "
            f"{found[-1].name}. Add --resume to continue that run, or choose another --work-dir"
        )


def new_log_dir(work_dir: Path) -> Path:
    """Create the folder of this start, ``<timestamp>/vis_data``; two starts never share one."""
    while True:
        folder = work_dir / time.strftime("%Y%m%d_%H%M%S")
        try:
            (folder / "vis_data").mkdir(parents=True)
            return folder
        except FileExistsError:
            time.sleep(0.2)


class _Layout(logging.Formatter):
    """A line, and what was raised, without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def open_log(log_dir: Path | None, rank: int, level: str = "INFO") -> logging.Logger:
    """Return the run's logger: standard error, and ``<timestamp>.log`` where a folder is given.

    Ranks other than 0 say warnings and errors only.
    """
    logger = logging.getLogger("inlay")
    logger.setLevel(level if rank == 0 else "WARNING")
    logger.propagate = False
    logger.handlers.clear()
    layout = _Layout("%(asctime)s - %(name)s - %(levelname)s - %(message)s", "%m/%d %H:%M:%S")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_dir is not None and rank == 0:
        handlers.append(logging.FileHandler(log_dir / f"{log_dir.name}.log", encoding="utf-8"))
    for handler in handlers:
        handler.setFormatter(layout)
        logger.addHandler(handler)
    return logger


def log_end(error: BaseException) -> None:
    """Write why a run ends into its log file, for those who watch the work dir.

    The console hears it from the command line.
    """
    logger = logging.getLogger("inlay")
    text = redact(f"ended by {type(error).__name__}: {error}")
    record = logger.makeRecord(logger.name, logging.ERROR, "", 0, text, (), None)
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)
