"""Readers of rows: files, folders of files, saved data sets, data sets on the hub."""

from __future__ import annotations

import copy
import glob
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlay.core.errors import DataError, did_you_mean
from inlay.core.io import file_sha256, fingerprint
from inlay.data.json_rows import Row, read_json, read_jsonl

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_ROWS = 1000  # rows that are read at once
_MEDIA_ROWS = 16  # of them with pictures inside, which may take megabytes each


@dataclass(frozen=True)
class Reader:
    """An opened source.

    Attributes:
        rows: starts a new pass over its rows.
        content: fingerprint of the bytes behind it; computed when called.
    """

    rows: Callable[[], Iterator[Row]]
    content: Callable[[], str]


def is_hub_name(path: str) -> bool:
    """Whether a path that is not there may name a data set on the hub."""
    is_name = _HUB_NAME.fullmatch(path) and Path(path).suffix not in _READERS
    return bool(is_name) and path[0] != "."


def is_saved(folder: Path) -> bool:
    """Whether ``datasets.save_to_disk`` wrote a folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def open_local(path: str, split: str) -> Reader:
    """Open a file, a folder or a glob.

    Raises:
        DataError: it is not there, or of an unknown kind.
    """
    local = Path(path).expanduser()
    if local.is_dir():
        return open_folder(local, split)
    if local.is_file():
        return _files([local])
    if glob.has_magic(path):
        files = [Path(f) for f in sorted(glob.glob(str(local), recursive=True))]
        if not files:
            raise DataError(f"{path}: no file matches")
        return _files(files)
    raise DataError(_missing(local))


def open_folder(folder: Path, split: str) -> Reader:
    """Open a saved data set, or a folder of files.

    Raises:
        DataError: it is neither.
    """
    if not folder.is_dir():
        raise DataError(_missing(folder))
    if is_saved(folder):
        return _saved(folder, split)
    files = sorted(f for f in folder.rglob("*") if f.suffix in _READERS and f.is_file())
    if not files:
        raise DataError(f"{folder}: the folder holds no {_kinds()} file")
    return _files(files)


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
            has_media = "binary" in str(table.schema_arrow)
            for batch in table.iter_batches(batch_size=_MEDIA_ROWS if has_media else _ROWS):
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


def open_hub(path: str, name: str | None, split: str, streaming: bool) -> Reader:
    """Open a data set on the hub.

    Raises:
        DataError: it cannot be loaded.
    """
    import datasets

    try:
        data = datasets.load_dataset(path, name, split=split, streaming=streaming)
    except Exception as error:  # network, missing, gated, unknown split, ...
        raise DataError(
            f"'{path}' is neither a local file or folder nor a data set that could be loaded from "
            f"the hub (name={name!r}, split={split!r}): {error}"
        ) from error
    if streaming:
        label = fingerprint([path, name, split])
        return Reader(lambda: _numbered(_undecoded(data), path), lambda: label)
    return _dataset(data, path, split)


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

    return Reader(lambda: _numbered(_undecoded(data), label), content)


def configurations(path: str) -> list[str]:
    """Return the names of all configurations of a data set on the hub.

    Raises:
        DataError: they cannot be found out.
    """
    import datasets

    try:
        return list(datasets.get_dataset_config_names(path))
    except Exception as error:  # as for open_hub
        raise DataError(f"'{path}': its subsets on the hub cannot be listed: {error}") from error


def _numbered(rows: Iterable[Any], label: str) -> Iterator[Row]:
    number = 0
    try:
        for value in rows:
            number += 1
            yield Row(label, number, value)
    except Exception as error:  # network, disk, Arrow's own
        raise DataError(f"{label}, after row {number}: cannot be read: {error}") from error


def _undecoded(data: Any) -> Iterable[Any]:
    """Return rows whose pictures are still bytes: only what is trained on is ever decoded."""
    kinds = type(data.features)
    features = copy.deepcopy(dict(data.features or {}))
    media = list(_media(features))
    if not media:
        return data
    for feature in media:
        feature.decode = False
    if hasattr(data, "cache_files"):
        return _rows_of(data, kinds(features))
    return data.cast(kinds(features))  # of a stream; a data set would be written anew


def _rows_of(data: Any, features: Any) -> Iterator[Any]:
    for table in data.with_format("arrow").iter(_MEDIA_ROWS):
        yield from map(features.decode_example, table.to_pylist())


def _media(feature: Any) -> Iterator[Any]:
    """Yield the pictures, sounds and videos of a data set's features, at any depth."""
    if isinstance(feature, Mapping):
        for inner in feature.values():
            yield from _media(inner)
    elif hasattr(feature, "feature"):
        yield from _media(feature.feature)
    elif hasattr(feature, "decode") and hasattr(feature, "embed_storage"):
        yield feature
