"""An account of every row that is lost on the way to samples."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from inlay.core.errors import DataError
from inlay.data.json_rows import Row

_COUNTS = ("rows", "kept", "bad", "truncated", "shortened", "tokens", "trained_tokens")
_SHOWN = 10  # bad rows that are kept with their place


class TooLongError(DataError):
    """A sample is longer than ``max_length`` and must not be."""


class Dropped(Exception):
    """A row is left out by policy; its text is the reason, under which the report counts it."""


@dataclass
class Report:
    """What became of the rows.

    Attributes:
        rows: rows read. kept: rows that became samples.
        bad: rows that could not be used; counted against ``max_bad_rows``.
        bad_rows: the first ten of them as ``{"file", "line", "reason"}``.
        dropped: rows left out by policy, by reason.
        truncated: kept rows that were cut at ``max_length``.
        shortened: kept rows that lost turns to ``min_ratings``.
        tokens, trained_tokens: of the kept rows.
    """

    rows: int = 0
    kept: int = 0
    bad: int = 0
    bad_rows: list[dict[str, Any]] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    truncated: int = 0
    shortened: int = 0
    tokens: int = 0
    trained_tokens: int = 0

    @property
    def share(self) -> float:
        """Share of trained tokens, in [0, 1]."""
        return self.trained_tokens / max(self.tokens, 1)

    def add(self, other: Report) -> None:
        """Add another report's rows to this one's."""
        for name in _COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.bad_rows = (self.bad_rows + other.bad_rows)[:_SHOWN]
        for reason, count in other.dropped.items():
            self.dropped[reason] = self.dropped.get(reason, 0) + count

    @contextmanager
    def losing(self, row: Row) -> Iterator[None]:
        """Count a row that the block refuses, as bad or as dropped."""
        try:
            yield
        except Dropped as dropped:
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
        if self.shortened:
            lines.append(f"  {self.shortened:,} of them lost turns to min_ratings")
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
