"""Files that are either old or new, never half written: temporary name, fsync, rename."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step; folders above it are made.

    Raises:
        OSError: disk full, no permission. The old file is then untouched, the temporary one gone.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    fsync_dir(path.parent)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """As ``write_bytes``, UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: str | os.PathLike[str], value: Any, indent: int | None = 2) -> None:
    """As ``write_bytes``: readable JSON, not escaped to ASCII, with a line end at its end."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=indent) + "\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the value of a UTF-8 JSON file.

    Raises:
        OSError: not readable.
        json.JSONDecodeError: not JSON.
    """
    return json.loads(Path(path).read_text(encoding="utf-8"))


def temporary_name(path: str | os.PathLike[str]) -> Path:
    """A free name beside ``path``: ``.<name>.<random>.tmp``, on the same file system."""
    path = Path(path)
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def fsync_dir(path: str | os.PathLike[str]) -> None:
    """Make renames inside a folder durable, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def fingerprint(value: Any) -> str:
    """Return 16 hex digits of SHA-256 over the canonical JSON of ``value``."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes in hex, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
