"""Tokenised sources on disk, found again by what made them."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inlay.core.errors import DataError
from inlay.core.io import fingerprint
from inlay.data.chat import ChatEncoder
from inlay.data.encode_rows import Encoded, Policy, RowEncoder
from inlay.data.formats import detect_format, format_identity, resolve_format
from inlay.data.json_rows import Row
from inlay.data.sources import Reader, Source, open_source
from inlay.data.store import LAYOUT, SampleStore, is_whole, write_store

_ROWS = 1000  # rows that are tokenised at once
_ROWS_WITH_PICTURES = 100  # they may hold them

logger = logging.getLogger("inlay")


def default_cache_dir() -> Path:
    """``$INLAY_CACHE``, or ``~/.cache/inlay``, and ``data`` in it."""
    root = os.environ.get("INLAY_CACHE") or Path.home() / ".cache" / "inlay"
    return Path(root).expanduser() / "data"


def writable_dir(wanted: str | os.PathLike[str] | None) -> Path:
    """Return the cache folder, or a temporary one (with a warning) where it cannot be written."""
    path = Path(wanted).expanduser() if wanted else default_cache_dir()
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path):
            return path
    except OSError as error:
        temporary = Path(tempfile.mkdtemp(prefix="inlay-data-"))
        owner = os.getpid()
        atexit.register(lambda: _remove(temporary, owner))
        logger.warning(
            "the data cache %s cannot be written (%s): tokenised data go to %s and are lost at the "
            "end; set cache_dir or INLAY_CACHE to keep them",
            path,
            error,
            temporary,
        )
        return temporary


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # a forked worker leaves too
        shutil.rmtree(folder, ignore_errors=True)


def row_encoder(
    source: Source,
    reader: Reader,
    encoder: ChatEncoder,
    policy: Policy,
    image_folder: str | None = None,
) -> tuple[RowEncoder, str]:
    """Return the encoder of a source's rows and the identity of its format.

    Args:
        image_folder: for sources that name none.

    Raises:
        DataError: the source is empty, or its format is not recognised.
        ConfigError: unknown ratings.
    """
    form = source.format
    if form is None:
        row = next((row for row in reader.rows() if row.problem is None), None)
        if row is None:
            form = "xtuner"  # nothing to convert: the caller reports what was found
        else:
            try:
                form = detect_format(row.value)
            except DataError as error:
                raise DataError(f"{row.file}, line {row.line}: {error}") from None
    convert, folder = resolve_format(form), source.image_folder or image_folder
    return RowEncoder(convert, encoder, policy, source.system, folder), format_identity(form)


def open_store(
    source: Source,
    encoder: ChatEncoder,
    policy: Policy,
    max_bad_rows: float,
    cache_dir: Path,
    num_proc: int = 1,
    image_folder: str | None = None,
) -> SampleStore:
    """Return a source's samples, tokenised now or earlier.

    They are found again by the content of the source, its format and system text, the template,
    the tokenizer and the policy; with an image processor also by that and by where the pictures
    lie. Processes that ask at once wait for the first.

    Raises:
        DataError: the source cannot be read, or has too many bad rows.
        ConfigError: unknown ratings.
    """
    from filelock import FileLock

    reader = open_source(source)
    encode, form = row_encoder(source, reader, encoder, policy, image_folder)
    made_by: list[Any] = [reader.content(), form, source.system, encoder.identity()]
    made_by += [policy.identity(), policy.verify_images]
    if encoder.image_processor is not None:
        made_by.append(_place_of_pictures(source, encode.image_folder))
    folder = cache_dir / fingerprint([LAYOUT, *made_by])
    rows = _ROWS if encoder.image_processor is None else _ROWS_WITH_PICTURES
    with FileLock(f"{folder}.lock"):
        if not is_whole(folder):
            batches = batches_of_rows(reader.rows(), rows)
            write_store(folder, _chunks(batches, encode, num_proc), max_bad_rows)
    return SampleStore(folder)


def _place_of_pictures(source: Source, image_folder: str | None) -> list[str]:
    """Where relative paths of pictures start."""
    paths = [source.path] if isinstance(source.path, str | Path) else source.path
    found = paths if image_folder is None else [image_folder]
    return [str(Path(path).expanduser().resolve()) for path in found]


def batches_of_rows(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Cut rows into lists of ``size``, the last one shorter."""
    while batch := list(itertools.islice(rows, size)):
        yield batch


def _chunks(batches: Iterator[list[Row]], encode: RowEncoder, num_proc: int) -> Iterator[Encoded]:
    if num_proc <= 1:
        yield from map(encode, batches)
        return
    import multiprocessing
    from concurrent.futures import Future, ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    # Forked, so that a format may be any function. Not multiprocessing's Pool, which waits for
    # ever for a process that was killed.
    context = multiprocessing.get_context("fork")
    pool = ProcessPoolExecutor(num_proc, context, _set_encoder, (encode,))
    begun: deque[Future[Encoded]] = deque()
    try:
        for batch in batches:
            begun.append(pool.submit(_encode, batch))
            if len(begun) > 2 * num_proc:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()
    except BrokenProcessPool:
        raise DataError(
            f"one of the {num_proc} processes that tokenise the data was killed, perhaps for "
            "memory: lower num_proc"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_encoder: RowEncoder | None = None


def _set_encoder(encode: RowEncoder) -> None:
    global _encoder
    _encoder = encode


def _encode(rows: list[Row]) -> Encoded:
    assert _encoder is not None
    return _encoder(rows)
