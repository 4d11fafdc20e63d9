"""Rows to samples: format, template, length policy, and an account of every row that is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from inlay.core.errors import DataError, InlayError
from inlay.core.types import Conversation, Message, Sample
from inlay.data.chat import ChatEncoder
from inlay.data.json_rows import Row
from inlay.data.split import content_hash

OVERLONG = ("truncate", "drop", "error")
_SHOWN = 10  # bad rows that are kept with their place


class TooLongError(DataError):
    """A sample is longer than ``max_length`` and must not be."""


class _Dropped(Exception):
    """A row is left out by policy."""


@dataclass
class Report:
    """What became of the rows.

    Attributes:
        rows: rows read. kept: rows that became samples.
        bad: rows that could not be used; counted against ``max_bad_rows``.
        bad_rows: the first ten of them as ``{"file", "line", "reason"}``.
        dropped: rows left out by policy, by reason.
        truncated: kept rows that were cut at ``max_length``.
        tokens, trained_tokens: of the kept rows.
    """

    rows: int = 0
    kept: int = 0
    bad: int = 0
    bad_rows: list[dict[str, Any]] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    truncated: int = 0
    tokens: int = 0
    trained_tokens: int = 0

    @property
    def share(self) -> float:
        """Share of trained tokens, in [0, 1]."""
        return self.trained_tokens / max(self.tokens, 1)

    def add(self, other: Report) -> None:
        """Add another report's rows to this one's."""
        for name in ("rows", "kept", "bad", "truncated", "tokens", "trained_tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.bad_rows = (self.bad_rows + other.bad_rows)[:_SHOWN]
        for reason, count in other.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    @contextmanager
    def losing(self, row: Row) -> Iterator[None]:
        """Count a row that the block refuses, as bad or as dropped."""
        try:
            yield
        except _Dropped as dropped:
            reason = str(dropped)
            self.dropped[reason] = self.dropped.get(reason, 0) + 1
        except TooLongError:
            raise
        except DataError as error:
            self.bad += 1
            if len(self.bad_rows) < _SHOWN:
                self.bad_rows.append({"file": row.file, "line": row.line, "reason": str(error)})

    def __str__(self) -> str:
        """A line of counts, then one for each reason that cost rows."""
        lines = [
            f"{self.rows:,} rows read, {self.kept:,} kept, {self.truncated:,} of them truncated; "
            f"{self.tokens:,} tokens, {self.share:.1%} trained"
        ]
        lines += [f"  dropped {count:,}: {why}" for why, count in sorted(self.dropped.items())]
        if self.bad:
            lines.append(f"  bad {self.bad:,}, the first of them:")
        lines += [f"    {bad['file']}:{bad['line']}: {bad['reason']}" for bad in self.bad_rows]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """JSON values of all attributes, and ``share``."""
        return {**asdict(self), "share": self.share}

    def check(self, max_bad_rows: float, is_complete: bool = True) -> None:
        """Stop when too many rows are bad.

        Args:
            max_bad_rows: a count (int), or a share of the rows (float, in [0, 1)).
            is_complete: False while rows are still being read: a share is then not judged yet.

        Raises:
            DataError: naming the first bad rows with file, line and reason.
        """
        is_share = isinstance(max_bad_rows, float)
        limit = max_bad_rows * self.rows if is_share else max_bad_rows
        if self.bad <= limit or (is_share and not is_complete):
            return
        places = "".join(
            f"\n  {row['file']}, line {row['line']}: {row['reason']}" for row in self.bad_rows
        )
        raise DataError(
            f"{self.bad} of {self.rows} rows cannot be used, max_bad_rows is {max_bad_rows}:"
            f"{places}\nCorrect these rows, or set max_bad_rows to a count or a share (such as "
            "0.01) that may be left out."
        )


@dataclass
class Encoded:
    """Samples of some rows, with 64 bits of each one's content, and the account."""

    samples: list[Sample]
    hashes: list[int]
    report: Report


@dataclass
class RowEncoder:
    """Turns rows of one source into samples.

    Attributes:
        convert: row value -> conversation, or None for a row that the format drops.
        system: system text of conversations that have none.
        max_length: most tokens of a sample.
        overlong: ``"truncate"``, ``"drop"`` or ``"error"``: what happens to longer ones.
    """

    convert: Callable[[Any], Conversation | None]
    encoder: ChatEncoder
    system: str | None
    max_length: int
    overlong: str

    def __call__(self, rows: Sequence[Row]) -> Encoded:
        """Encode rows in one batch.

        Raises:
            TooLongError: a sample is too long and ``overlong`` is ``"error"``.
            ConfigError: the template cannot be used at all.
        """
        result = Encoded([], [], Report(rows=len(rows)))
        read: list[tuple[Row, Conversation]] = []
        for row in rows:
            with result.report.losing(row):
                read.append((row, self._read(row)))
        hashes = [content_hash(conversation) for _, conversation in read]
        for _, conversation in read:
            self._add_system(conversation)
        samples = self._encode([conversation for _, conversation in read])
        for (row, _), value, sample in zip(read, hashes, samples, strict=True):
            with result.report.losing(row):
                if isinstance(sample, DataError):
                    raise sample
                result.samples.append(self._fit(row, sample, result.report))
                result.hashes.append(value)
        return result

    def _read(self, row: Row) -> Conversation:
        if row.problem is not None:
            raise DataError(row.problem)
        try:
            conversation = self.convert(row.value)
        except InlayError:
            raise
        except Exception as error:  # a user's own function may raise anything
            raise DataError(f"{type(error).__name__}: {error}") from error
        if conversation is None:
            raise _Dropped("by its format")
        if problem := _problem(conversation):
            raise DataError(problem)
        return conversation

    def _add_system(self, conversation: Conversation) -> None:
        if self.system and conversation.text is None and not _has_system(conversation):
            conversation.messages = [Message("system", self.system), *conversation.messages]

    def _encode(self, conversations: list[Conversation]) -> Sequence[Sample | DataError]:
        if any(c.text is None for c in conversations):
            self.encoder.check()
        try:
            return self.encoder.encode(conversations)
        except DataError:
            return [self._encode_one(c) for c in conversations]

    def _encode_one(self, conversation: Conversation) -> Sample | DataError:
        try:
            return self.encoder.encode([conversation])[0]
        except DataError as error:
            return error

    def _fit(self, row: Row, sample: Sample, report: Report) -> Sample:
        length = len(sample.ids)
        if not sample.mask.any():
            raise DataError("there is no trained token")
        if length > self.max_length:
            if self.overlong == "drop":
                raise _Dropped("longer than max_length")
            if self.overlong == "error":
                raise TooLongError(
                    f"{row.file}, line {row.line}: the conversation has {length} tokens, "
                    f"max_length is {self.max_length}. Raise max_length, or set overlong to "
                    "'truncate' or 'drop'."
                )
            sample = Sample(sample.ids[: self.max_length], sample.mask[: self.max_length])
            if not sample.mask.any():
                raise _Dropped("no trained token after truncation")
            report.truncated += 1
        report.kept += 1
        report.tokens += len(sample.ids)
        report.trained_tokens += int(np.count_nonzero(sample.mask))
        return sample


def _problem(conversation: Conversation) -> str | None:
    if conversation.text is not None:
        return None if conversation.text.strip() else "the text is empty"
    roles = [m.role for m in conversation.messages]
    if "assistant" not in roles:
        return f"there is no assistant turn (roles: {', '.join(roles) or 'none'})"
    if not any(m.trained for m in conversation.messages):
        return "no assistant turn is trained"
    return None


def _has_system(conversation: Conversation) -> bool:
    return any(m.role == "system" for m in conversation.messages)
