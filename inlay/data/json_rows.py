"""Rows of JSON and JSON-lines files, read as a stream, each with its line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple, TextIO

from inlay.core.errors import DataError

_BLOCK = 1 << 20  # characters
_NEAR_END = 16  # an error this close to the end of the buffer may be a value cut in two


class Row(NamedTuple):
    """One row of a source.

    Attributes:
        file: path of its file, or name of its data set.
        line: line on which it starts (JSON), or its number (other formats); from 1.
        value: the parsed row.
        problem: why it could not be read; ``value`` is then None.
    """

    file: str
    line: int
    value: Any
    problem: str | None = None


def read_jsonl(file: str) -> Iterator[Row]:
    """Yield the rows of a file with one JSON value a line; blank lines are passed over.

    A line that cannot be parsed is a row with a ``problem``.

    Raises:
        DataError: the file is one pretty-printed JSON value, not one value a line.
    """
    is_first = True
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield Row(file, number, json.loads(line))
            except json.JSONDecodeError as error:
                if is_first and line.strip() in (b"[", b"{", b"[{", b"\xef\xbb\xbf["):
                    raise _pretty_printed(file, number, line) from None
                reason = f"malformed JSON at column {error.colno}: {error.msg}"
                yield Row(file, number, None, reason)
            except (UnicodeDecodeError, RecursionError) as error:
                yield Row(file, number, None, f"unreadable line: {error}")
            is_first = False


def _pretty_printed(file: str, number: int, line: bytes) -> DataError:
    found = "array" if b"[" in line else "object"
    return DataError(
        f"{file}, line {number}: expected one JSON row a line, found the start of a pretty-printed "
        f"JSON {found} ({line.decode(errors='replace').strip()!r}). Rename the file to end in "
        ".json, or write each row on a line of its own."
    )


def read_json(file: str) -> Iterator[Row]:
    """Yield the rows of a JSON array, or of JSON objects one after the other.

    Memory does not grow with the file.

    Raises:
        DataError: malformed JSON or text that is not UTF-8, with file, line and column.
    """
    with open(file, encoding="utf-8-sig", newline="") as text:
        scanner = _Scanner(file, text)
        try:
            yield from _rows(scanner)
        except UnicodeDecodeError as error:
            raise DataError(f"{file}, after line {scanner.line}: not UTF-8 ({error})") from error


def _rows(scanner: _Scanner) -> Iterator[Row]:
    first = scanner.peek()
    if first == "":
        raise DataError(f"{scanner.file}: the file is empty")
    if first != "[":
        while scanner.peek():
            yield Row(scanner.file, scanner.line, scanner.value())
        return
    scanner.skip()
    if scanner.peek() != "]":
        yield Row(scanner.file, scanner.line, scanner.value())
        while scanner.peek() == ",":
            scanner.skip()
            scanner.peek()
            yield Row(scanner.file, scanner.line, scanner.value())
    if scanner.peek() != "]":
        raise scanner.error("expected ',' or ']' after a row")
    scanner.skip()
    if scanner.peek():
        raise scanner.error(
            "there is more text after the array. If each line is a row, rename the file to .jsonl"
        )


class _Scanner:
    """A position in a JSON text that is read block by block."""

    def __init__(self, file: str, text: TextIO) -> None:
        self.file = file
        self.line = 1
        self._column = 1
        self._text = text
        self._buffer = ""
        self._position = 0
        self._at_end = False
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """Pass over white space; return the next character, or an empty string at the end."""
        while True:
            rest = len(self._buffer)
            end = self._position
            while end < rest and self._buffer[end] in " \t\r\n":
                end += 1
            self._advance(end)
            if end < rest:
                return self._buffer[end]
            if self._at_end:
                return ""
            self._fill()

    def skip(self) -> None:
        """Pass over one character."""
        self._advance(self._position + 1)

    def value(self) -> Any:
        """Parse the value at the position and pass over it."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._buffer, self._position)
            except json.JSONDecodeError as error:
                if self._at_end or not self._may_be_cut(error):
                    self._advance(error.pos)
                    raise self.error(error.msg) from None
            except RecursionError:
                raise self.error("nested too deeply") from None
            else:
                if end < len(self._buffer) or self._at_end:
                    self._advance(end)
                    return value
            self._fill()

    def error(self, message: str) -> DataError:
        """An error at the position."""
        where = f"{self.file}, line {self.line}, column {self._column}"
        return DataError(f"{where}: malformed JSON: {message}")

    def _may_be_cut(self, error: json.JSONDecodeError) -> bool:
        unterminated = error.msg.startswith("Unterminated string")
        return unterminated or error.pos >= len(self._buffer) - _NEAR_END

    def _advance(self, end: int) -> None:
        breaks = self._buffer.count("\n", self._position, end)
        if breaks:
            self.line += breaks
            self._column = end - self._buffer.rfind("\n", self._position, end)
        else:
            self._column += end - self._position
        self._position = end

    def _fill(self) -> None:
        # Twice what is held: a long value is parsed a logarithmic number of times.
        rest = self._buffer[self._position :]
        block = self._text.read(max(_BLOCK, len(rest)))
        self._at_end = not block
        self._buffer, self._position = rest + block, 0
