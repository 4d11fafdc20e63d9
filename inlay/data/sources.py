"""Where rows come from: files, folders, globs, data sets on disk and on the hub."""

from __future__ import annotations

import dataclasses
import glob
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlay.core.errors import ConfigError, DataError, did_you_mean
from inlay.core.io import file_sha256, fingerprint
from inlay.data.json_rows import Row, read_json, read_jsonl

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Source:
    """One part of a data set.

    Attributes:
        path: a file (.json, .jsonl, .ndjson, .parquet), a folder of such files, a glob, a folder
            written by ``datasets.save_to_disk``, a name on the hub, or a list of these.
        format: a name in ``FORMATS``, a function, or None to detect it from the first row.
        split: split of a saved or hub data set.
        name: configuration of a hub data set.
        weight: this source's share of the samples, relative to the other sources' weights.
        repeat: how often its samples occur in an epoch; 1.5 is once and a fixed half of them again.
        system: system text of conversations that have none.
    """

    path: str | Sequence[str]
    format: str | Callable[[Any], Any] | None = None
    split: str = "train"
    name: str | None = None
    weight: float | None = None
    repeat: float = 1
    system: str | None = None

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


@dataclass(frozen=True)
class Reader:
    """An opened source.

    Attributes:
        rows: starts a new pass over its rows.
        content: fingerprint of the bytes behind it; computed when called.
    """

    rows: Callable[[], Iterator[Row]]
    content: Callable[[], str]


def open_source(source: Source, streaming: bool = False) -> Reader:
    """Find what a source's path names; rows are read later.

    Args:
        streaming: read hub data sets without downloading them first.

    Raises:
        DataError: missing, empty, or of an unknown kind.
    """
    paths = [source.path] if isinstance(source.path, str | Path) else list(source.path)
    if not paths:
        raise DataError("a source's list of paths is empty")
    readers = [_open(str(path), source, streaming) for path in paths]
    return readers[0] if len(readers) == 1 else _chain(readers)


def _chain(readers: list[Reader]) -> Reader:
    def rows() -> Iterator[Row]:
        for reader in readers:
            yield from reader.rows()

    return Reader(rows, lambda: fingerprint([reader.content() for reader in readers]))


def _open(path: str, source: Source, streaming: bool) -> Reader:
    local = Path(path).expanduser()
    if local.is_dir():
        if any((local / name).is_file() for name in ("dataset_dict.json", "state.json")):
            return _saved(local, source.split)
        files = sorted(f for f in local.rglob("*") if f.suffix in _READERS and f.is_file())
        if not files:
            raise DataError(f"{path}: the folder holds no {_kinds()} file")
        return _files(files)
    if local.is_file():
        return _files([local])
    if glob.has_magic(path):
        files = [Path(f) for f in sorted(glob.glob(str(local), recursive=True))]
        if not files:
            raise DataError(f"{path}: no file matches")
        return _files(files)
    if _HUB_NAME.fullmatch(path) and local.suffix not in _READERS and path[0] != ".":
        return _hub(path, source, streaming)
    raise DataError(_missing(local))


def _missing(path: Path) -> str:
    folder = path.parent
    while not folder.is_dir():
        path, folder = folder, folder.parent
    hint = did_you_mean(path.name, [f.name for f in folder.iterdir()])
    return f"{path}: there is no such file or folder in '{folder}'.{hint}"


def _files(files: Iterable[Path]) -> Reader:
    names = [str(file) for file in files]
    for file in names:
        if Path(file).suffix not in _READERS:
            raise DataError(f"{file}: expected a {_kinds()} file, found '{Path(file).suffix}'")

    def rows() -> Iterator[Row]:
        for file in names:
            try:
                yield from _READERS[Path(file).suffix](file)
            except OSError as error:
                raise DataError(f"{file}: cannot be read: {error}") from error

    return Reader(rows, lambda: fingerprint([file_sha256(file) for file in names]))


def _read_parquet(file: str) -> Iterator[Row]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            for batch in table.iter_batches(batch_size=1000):
                for value in batch.to_pylist():
                    number += 1
                    yield Row(file, number, value)
    except pyarrow.ArrowException as error:
        raise DataError(
            f"{file}, after row {number}: not a readable parquet file: {error}"
        ) from error


_READERS: dict[str, Callable[[str], Iterator[Row]]] = {
    ".json": read_json,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".parquet": _read_parquet,
}


def _kinds() -> str:
    return ", ".join(_READERS)


def _saved(folder: Path, split: str) -> Reader:
    import datasets

    try:
        data = datasets.load_from_disk(str(folder))
    except Exception as error:  # the library raises its own and Arrow's errors
        raise DataError(f"{folder}: not a readable saved data set: {error}") from error
    return _dataset(data, str(folder), split)


def _hub(path: str, source: Source, streaming: bool) -> Reader:
    import datasets

    try:
        data = datasets.load_dataset(path, source.name, split=source.split, streaming=streaming)
    except Exception as error:  # network, missing, gated, unknown split, ...
        raise DataError(
            f"'{path}' is neither a local file or folder nor a data set that could be loaded from "
            f"the hub (name={source.name!r}, split={source.split!r}): {error}"
        ) from error
    if streaming:
        label = fingerprint([path, source.name, source.split])
        return Reader(lambda: _numbered(data, path), lambda: label)
    return _dataset(data, path, source.split)


def _dataset(data: Any, label: str, split: str) -> Reader:
    if isinstance(data, Mapping):
        if split not in data:
            hint = did_you_mean(split, data)
            raise DataError(f"{label}: there is no split '{split}', only {sorted(data)}.{hint}")
        data = data[split]

    def content() -> str:
        files = [file["filename"] for file in data.cache_files]
        if not files:
            return str(data._fingerprint)
        return fingerprint([len(data), *(file_sha256(file) for file in files)])

    return Reader(lambda: _numbered(data, label), content)


def _numbered(rows: Iterable[Any], label: str) -> Iterator[Row]:
    for number, value in enumerate(rows, 1):
        yield Row(label, number, value)
