"""Where rows come from: files, folders, globs, data sets on disk and on the hub."""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from inlay.core.errors import ConfigError, DataError, did_you_mean
from inlay.core.io import fingerprint
from inlay.data.json_rows import Row
from inlay.data.readers import (
    Reader,
    configurations,
    is_hub_name,
    is_saved,
    open_folder,
    open_hub,
    open_local,
)

_SHARD = re.compile(r"shard_(\d+)")

logger = logging.getLogger("inlay")


@dataclass(frozen=True)
class Source:
    """One part of a data set.

    Attributes:
        path: a file (.json, .jsonl, .ndjson, .parquet), a folder of such files, a glob, a folder
            written by ``datasets.save_to_disk``, a folder of shards (``shard_0``, ``shard_1``, ...,
            each one of these folders), a name on the hub, or a list of these.
        format: a name in ``FORMATS``, a function, or None to detect it from the first row.
        split: split of a saved or hub data set.
        name: a subset, or several: configurations of a hub data set, folders in a local folder;
            ``"all"``: every one there is.
        weight: this source's share of the samples, relative to the other sources' weights.
        repeat: how often its samples occur in an epoch; 1.5 is once and a fixed half of them again.
        system: system text of conversations that have none.
        image_folder: folder of the pictures that rows name; None: that of the data file.
        skip_failing: go on, with a warning, without the paths, subsets and shards that cannot be
            opened.
    """

    path: str | Sequence[str]
    format: str | Callable[[Any], Any] | None = None
    split: str = "train"
    name: str | Sequence[str] | None = None
    weight: float | None = None
    repeat: float = 1
    system: str | None = None
    image_folder: str | None = None
    skip_failing: bool = False

    def __post_init__(self) -> None:
        if self.weight is not None and (self.repeat != 1 or not self.weight > 0):
            raise ConfigError(
                f"source {self.path!r}: weight must be above 0 and stand without repeat, got "
                f"weight={self.weight!r}, repeat={self.repeat!r}"
            )
        if not self.repeat > 0:
            raise ConfigError(f"source {self.path!r}: repeat must be above 0, got {self.repeat!r}")


def parse_sources(value: Any) -> list[Source]:
    """Return sources from a path, a dict of ``Source``'s fields, or a list of these.

    Raises:
        ConfigError: an unknown key, no source at all, or weights on some sources only.
    """
    items = [value] if isinstance(value, str | Path | Mapping | Source) else list(value)
    if not items:
        raise ConfigError("sources must name at least one source, got an empty list")
    sources = [_parse(item) for item in items]
    if len({source.weight is None for source in sources}) > 1:
        raise ConfigError("either all sources have a weight or none has")
    return sources


def _parse(item: Any) -> Source:
    if isinstance(item, Source):
        return item
    if isinstance(item, str | Path):
        return Source(str(item))
    if not isinstance(item, Mapping):
        raise ConfigError(f"a source must be a path or a dict(path=...), got {item!r}")
    known = [field.name for field in dataclasses.fields(Source)]
    for key in item:
        if key not in known:
            hint = did_you_mean(key, known)
            raise ConfigError(f"a source has no key '{key}'.{hint} Keys: {', '.join(known)}.")
    if "path" not in item:
        raise ConfigError(f"a source needs a 'path', got {dict(item)!r}")
    return Source(**item)


def open_source(source: Source, streaming: bool = False) -> Reader:
    """Find what a source's path names; rows are read later.

    Of several paths, subsets or shards the first row is read, so that none fails in mid-run.

    Args:
        streaming: read hub data sets without downloading them first.

    Raises:
        DataError: missing, empty, or of an unknown kind; every part that fails is named.
    """
    paths = [source.path] if isinstance(source.path, str | Path) else list(source.path)
    if not paths:
        raise DataError("a source's list of paths is empty")
    parts = [part for path in paths for part in _parts(str(path), source, streaming)]
    if len(parts) == 1:
        return parts[0][1]()
    readers: list[Reader] = []
    failures: dict[str, str] = {}
    for label, open_part in parts:
        try:
            reader = open_part()
            next(reader.rows(), None)
            readers.append(reader)
        except DataError as error:
            failures[label] = str(error)
    _report(failures, len(parts), source.skip_failing)
    return _chain(readers)


def _report(failures: dict[str, str], count: int, skip: bool) -> None:
    if failures and not (skip and len(failures) < count):
        reasons = "".join(f"\n  {label}: {reason}" for label, reason in failures.items())
        hint = "" if skip else "\nCorrect these, or set skip_failing to go on without them."
        raise DataError(f"{len(failures)} of {count} parts of a source fail:{reasons}{hint}")
    for label, reason in failures.items():
        logger.warning("a source goes on without %s, which fails: %s", label, reason)


def _chain(readers: list[Reader]) -> Reader:
    def rows() -> Iterator[Row]:
        for reader in readers:
            yield from reader.rows()

    return Reader(rows, lambda: fingerprint([reader.content() for reader in readers]))


_Part = tuple[str, Callable[[], Reader]]  # its name for messages, and what opens it


def _parts(path: str, source: Source, streaming: bool) -> list[_Part]:
    """Return what a path stands for: itself, or its subsets or shards."""
    local = Path(path).expanduser()
    names = [source.name] if isinstance(source.name, str) else list(source.name or ())
    if local.is_dir() and not is_saved(local):
        folders = sorted(f.name for f in local.iterdir() if f.is_dir() and f.name[0] != ".")
        if names == ["shards"] or (not names and any(map(_SHARD.fullmatch, folders))):
            names = _shard_names(folders)
        elif "all" in names:
            names = folders
        if names:
            return [(str(local / n), partial(_subset, local, n, source.split)) for n in names]
    if local.exists() or not is_hub_name(path):
        return [(path, partial(open_local, path, source.split))]
    if "all" in names:
        names = configurations(path)
    split = source.split
    if not names:
        return [(path, partial(open_hub, path, None, split, streaming))]
    return [(f"{path} ({n})", partial(open_hub, path, n, split, streaming)) for n in names]


def _shard_names(folders: list[str]) -> list[str]:
    """Return the names of all shards up to the last one there is, missing ones too."""
    numbers = [int(m[1]) for name in folders if (m := _SHARD.fullmatch(name))]
    return [f"shard_{n}" for n in range(max(numbers, default=0) + 1)]


def _subset(folder: Path, name: str, split: str) -> Reader:
    if Path(name).name != name:
        raise DataError(f"the subset {name!r} is not the name of a folder in '{folder}'")
    return open_folder(folder / name, split)
