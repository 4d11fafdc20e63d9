"""Tokenised samples on disk, memory-mapped: nothing of them is held in memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from inlay.core.errors import DataError
from inlay.core.io import fsync_dir, read_json, temporary_name, write_json
from inlay.core.types import Sample
from inlay.data.encode_rows import Encoded, Report

LAYOUT = 1
"""Raised whenever the files below, or the tokens in them, change their meaning."""

_FILES: dict[str, Any] = {
    "ids": np.int32,  # all tokens
    "mask": np.bool_,  # all tokens: trained
    "ends": np.int64,  # per sample: end of its tokens
    "units": np.int32,  # per sample: trained tokens
    "hashes": np.uint64,  # per sample: content
}


class SampleStore:
    """Samples of one source, read from a folder of flat arrays.

    Args:
        folder: written by ``write_store``. Only its path is pickled.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.report = _read_report(self.folder)
        self._map()

    def __len__(self) -> int:
        return len(self.ends)

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "report": self.report}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    def _map(self) -> None:
        for name, dtype in _FILES.items():
            path = self.folder / name
            empty = not path.stat().st_size
            setattr(self, name, np.empty(0, dtype) if empty else np.memmap(path, dtype, "r"))

    ids: np.ndarray
    mask: np.ndarray
    ends: np.ndarray
    units: np.ndarray
    hashes: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """int32 ``[len(self)]`` tokens per sample."""
        return np.diff(self.ends, prepend=0).astype(np.int32)

    def sample(self, index: int) -> Sample:
        """Return one sample; its arrays are views of the files."""
        start = int(self.ends[index - 1]) if index else 0
        stop = int(self.ends[index])
        return Sample(self.ids[start:stop], self.mask[start:stop])


def write_store(folder: Path, chunks: Iterable[Encoded], max_bad_rows: float) -> None:
    """Write samples to ``folder``, which appears whole or not at all.

    Raises:
        DataError: too many bad rows, or the disk refuses the files.
    """
    for old in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(old, ignore_errors=True)  # of a build that was killed
    temporary = temporary_name(folder)
    try:
        temporary.mkdir()
        report = _write(temporary, chunks, max_bad_rows)
        sizes = {name: (temporary / name).stat().st_size for name in _FILES}
        write_json(temporary / "report.json", {"report": report.as_dict(), "sizes": sizes})
        shutil.rmtree(folder, ignore_errors=True)
        os.rename(temporary, folder)
        fsync_dir(folder.parent)
    except OSError as error:
        raise DataError(f"{folder}: the tokenised data cannot be written: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(folder: Path, chunks: Iterable[Encoded], max_bad_rows: float) -> Report:
    report = Report()
    files = {name: open(folder / name, "wb") for name in _FILES}  # noqa: SIM115
    try:
        for chunk in chunks:
            base = report.tokens
            report.add(chunk.report)
            report.check(max_bad_rows, is_complete=False)
            for name, values in _arrays(chunk, base).items():
                np.asarray(values, _FILES[name]).tofile(files[name])
        report.check(max_bad_rows)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    finally:
        for file in files.values():
            file.close()
    return report


def _arrays(chunk: Encoded, base: int) -> dict[str, Any]:
    samples = chunk.samples
    if not samples:
        return {}
    lengths = [len(s.ids) for s in samples]
    return {
        "ids": np.concatenate([s.ids for s in samples]),
        "mask": np.concatenate([s.mask for s in samples]),
        "ends": base + np.cumsum(lengths),
        "units": [int(np.count_nonzero(s.mask)) for s in samples],
        "hashes": chunk.hashes,
    }


def is_whole(folder: Path) -> bool:
    """Whether a store is there with all its bytes."""
    try:
        sizes = read_json(folder / "report.json")["sizes"]
        return all((folder / name).stat().st_size == sizes[name] for name in _FILES)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _read_report(folder: Path) -> Report:
    found = read_json(folder / "report.json")["report"]
    return Report(**{field.name: found[field.name] for field in fields(Report)})
