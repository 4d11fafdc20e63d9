"""Tokenised sources on disk, found again by what made them."""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from inlay.core.errors import DataError
from inlay.core.io import fingerprint
from inlay.data.chat import ChatEncoder
from inlay.data.encode_rows import Encoded, RowEncoder
from inlay.data.formats import detect_format, format_identity, resolve_format
from inlay.data.json_rows import Row
from inlay.data.sources import Reader, Source, open_source
from inlay.data.store import LAYOUT, SampleStore, is_whole, write_store

_ROWS = 1000  # rows that are tokenised at once

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
    source: Source, reader: Reader, encoder: ChatEncoder, max_length: int, overlong: str
) -> tuple[RowEncoder, str]:
    """Return the encoder of a source's rows and the identity of its format.

    Raises:
        DataError: the source is empty, or its format is not recognised.
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
    convert = resolve_format(form)
    return RowEncoder(convert, encoder, source.system, max_length, overlong), format_identity(form)


def open_store(
    source: Source,
    encoder: ChatEncoder,
    max_length: int,
    overlong: str,
    max_bad_rows: float,
    cache_dir: Path,
    num_proc: int,
) -> SampleStore:
    """Return a source's samples, tokenised now or earlier.

    They are found again by the content of the source, its format and system text, the template,
    the tokenizer and the length policy. Processes that ask at once wait for the first.

    Raises:
        DataError: the source cannot be read, or has too many bad rows.
    """
    from filelock import FileLock

    reader = open_source(source)
    rows_to_samples, form = row_encoder(source, reader, encoder, max_length, overlong)
    made_by = [reader.content(), form, source.system, encoder.identity(), max_length, overlong]
    folder = cache_dir / fingerprint([LAYOUT, *made_by])
    with FileLock(f"{folder}.lock"):
        if not is_whole(folder):
            write_store(folder, _chunks(reader, rows_to_samples, num_proc), max_bad_rows)
    return SampleStore(folder)


def batches_of_rows(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    """Cut rows into lists of ``size``, the last one shorter."""
    while batch := list(itertools.islice(rows, size)):
        yield batch


def _chunks(reader: Reader, encode: RowEncoder, num_proc: int) -> Iterator[Encoded]:
    batches = batches_of_rows(reader.rows(), _ROWS)
    if num_proc <= 1:
        yield from map(encode, batches)
        return
    import multiprocessing

    # Forked, so that a format may be any function; results come back in order.
    with multiprocessing.get_context("fork").Pool(num_proc, _set_encoder, (encode,)) as pool:
        yield from pool.imap(_encode, batches)


_encoder: RowEncoder | None = None


def _set_encoder(encode: RowEncoder) -> None:
    global _encoder
    _encoder = encode


def _encode(rows: list[Row]) -> Encoded:
    assert _encoder is not None
    return _encoder(rows)
