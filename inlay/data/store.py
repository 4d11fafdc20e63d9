"""Tokenised samples on disk, memory-mapped: nothing of them is held in memory."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from inlay.core.errors import DataError
from inlay.core.io import fsync_dir, read_json, temporary_name, write_json
from inlay.core.types import ImageRef, Sample
from inlay.data.encode_rows import Encoded
from inlay.data.pictures import Picture
from inlay.data.report import Report

_PLACE_CODE = ("utf-8", "surrogateescape")

LAYOUT = 2
"""Raised whenever the files below, or the tokens in them, change their meaning."""

_FILES: dict[str, Any] = {
    "ids": np.int32,  # all tokens
    "mask": np.bool_,  # all tokens: trained
    "ends": np.int64,  # per sample: end of its tokens
    "units": np.int32,  # per sample: trained tokens
    "hashes": np.uint64,  # per sample: content
    "tiles": np.int32,  # per sample: what the vision encoder sees
    "picture_ends": np.int64,  # per sample: end of its pictures
    "keys": np.uint64,  # per picture: content
    "facts": np.int64,  # per picture: see _Facts
    "blobs": np.uint8,  # per picture: its place, then its path or its bytes
}


class _Facts(NamedTuple):
    """A picture's line in the file ``facts``.

    Attributes:
        width, height: in px.
        size, mtime_ns: of its file; 0 for bytes that came inside the row.
        has_path: 1 where ``blobs`` has a path, 0 where it has the encoded picture.
        place_end, content_end: where the two end in ``blobs``.
    """

    width: int
    height: int
    size: int
    mtime_ns: int
    has_path: int
    place_end: int
    content_end: int


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
        self.facts = self.facts.reshape(-1, len(_Facts._fields))

    ids: np.ndarray
    mask: np.ndarray
    ends: np.ndarray
    units: np.ndarray
    hashes: np.ndarray
    tiles: np.ndarray
    picture_ends: np.ndarray
    keys: np.ndarray
    facts: np.ndarray
    blobs: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """int32 ``[len(self)]`` tokens per sample."""
        return np.diff(self.ends, prepend=0).astype(np.int32)

    @property
    def num_pictures(self) -> np.ndarray:
        """int32 ``[len(self)]`` pictures per sample."""
        return np.diff(self.picture_ends, prepend=0).astype(np.int32)

    def sample(self, index: int) -> Sample:
        """Return one sample; its arrays, and pictures that came inside the row, are views of the
        files."""
        start = int(self.ends[index - 1]) if index else 0
        stop = int(self.ends[index])
        sample = Sample(self.ids[start:stop], self.mask[start:stop])
        if pictures := self.pictures(index):
            sample.images = [picture.ref for picture in pictures]
            sample.tiles = int(self.tiles[index])
        return sample

    def pictures(self, index: int) -> list[Picture]:
        """Return the pictures of one sample."""
        first = int(self.picture_ends[index - 1]) if index else 0
        return [self._picture(i) for i in range(first, int(self.picture_ends[index]))]

    def _picture(self, index: int) -> Picture:
        facts = _Facts(*self.facts[index].tolist())
        start = int(self.facts[index - 1, -1]) if index else 0
        place = self.blobs[start : facts.place_end].tobytes().decode(*_PLACE_CODE)
        content = self.blobs[facts.place_end : facts.content_end].data
        if facts.has_path:
            ref = ImageRef(path=os.fsdecode(content.tobytes()), place=place)
        else:
            ref = ImageRef(data=content, place=place)
        stamp = facts.size, facts.mtime_ns
        return Picture(ref, int(self.keys[index]), facts.width, facts.height, stamp)


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
            bases = {name: files[name].tell() // np.dtype(_FILES[name]).itemsize for name in _FILES}
            report.add(chunk.report)
            report.check(max_bad_rows, is_complete=False)
            for name, values in _arrays(chunk, bases).items():
                np.asarray(values, _FILES[name]).tofile(files[name])
        report.check(max_bad_rows)
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    finally:
        for file in files.values():
            file.close()
    return report


def _arrays(chunk: Encoded, bases: dict[str, int]) -> dict[str, Any]:
    """What a chunk adds to every file, where ``bases`` values stand already."""
    samples = chunk.samples
    if not samples:
        return {}
    pictures = [picture for found in chunk.pictures for picture in found]
    blobs, facts = _blobs(pictures, bases["blobs"])
    return {
        "ids": np.concatenate([s.ids for s in samples]),
        "mask": np.concatenate([s.mask for s in samples]),
        "ends": bases["ids"] + np.cumsum([len(s.ids) for s in samples]),
        "units": [int(np.count_nonzero(s.mask)) for s in samples],
        "hashes": chunk.hashes,
        "tiles": [s.tiles for s in samples],
        "picture_ends": bases["keys"] + np.cumsum([len(found) for found in chunk.pictures]),
        "keys": [picture.key for picture in pictures],
        "facts": facts,
        "blobs": np.frombuffer(b"".join(blobs), np.uint8),
    }


def _blobs(pictures: Sequence[Picture], base: int) -> tuple[list[bytes | memoryview], list[_Facts]]:
    """Places and contents of pictures, and the facts about them; ``base`` bytes stand before."""
    blobs: list[bytes | memoryview] = []
    facts = []
    end = base
    for picture in pictures:
        ref = picture.ref
        content = ref.data if ref.path is None else os.fsencode(ref.path)
        assert content is not None
        place = ref.place.encode(*_PLACE_CODE)
        blobs += [place, content]
        middle, end = end + len(place), end + len(place) + len(content)
        has_path = int(ref.path is not None)
        facts.append(_Facts(picture.width, picture.height, *picture.stamp, has_path, middle, end))
    return blobs, facts


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
