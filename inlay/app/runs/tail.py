"""Files that grow, read line by line from where the last reading stopped."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

BLOCK = 1 << 20  # bytes
LONGEST = 16 << 20
"""Bytes of a line; what is longer is none of ours, and is thrown away."""


class Tail:
    """A file that grows by whole lines; it may not be there yet.

    Attributes:
        at: bytes read so far.
        problem: why the last reading failed, or None.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.at = 0
        self.problem: str | None = None
        self._rest = b""

    def blocks(self) -> Iterator[list[bytes]]:
        """Yield the lines that are new, a block at a time.

        A last line without an end is kept back: it is still being written, or its writer died. A
        file that has become shorter is read from its beginning.
        """
        self.problem = None
        try:
            with open(self.path, "rb") as file:
                if os.fstat(file.fileno()).st_size < self.at:
                    self.at, self._rest = 0, b""
                file.seek(self.at)
                while block := file.read(BLOCK):
                    self.at += len(block)
                    *lines, self._rest = (self._rest + block).split(b"\n")
                    if len(self._rest) > LONGEST:
                        self._rest = b""
                    yield lines
        except FileNotFoundError:
            pass
        except OSError as error:  # a network disk may be back at the next look
            self.problem = error.strerror or str(error)

    def size(self) -> int:
        """Bytes of the file; 0 where there is none."""
        try:
            return max(self.path.stat().st_size, self.at)
        except OSError:
            return self.at
