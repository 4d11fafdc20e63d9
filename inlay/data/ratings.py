"""Turns below a least rating are left out, as nanoVLM does with FineVision's four ratings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from inlay.core.errors import ConfigError, DataError, did_you_mean

RATINGS = ("relevance", "image_correspondence", "visual_dependency", "formatting")


def rating_filter(min_ratings: Mapping[str, int] | None) -> Callable[[Any], Any | None]:
    """Return a function that leaves the turns with low ratings out of a row.

    It works on rows with a column ``texts`` and, turn by turn, ``<name>_ratings``; other rows pass
    unchanged. A missing column, a missing rating and null count as high enough. Rows are never
    changed; a shorter one is a new one. A row without any turn left becomes None.

    Args:
        min_ratings: least rating by name, of ``RATINGS``; None or empty lets every row pass.

    Raises:
        ConfigError: an unknown name, or a least rating that is no number.
    """
    least = dict(min_ratings or {})
    for name, value in least.items():
        if name not in RATINGS:
            hint = did_you_mean(name, RATINGS)
            raise ConfigError(
                f"min_ratings has no rating '{name}'.{hint} Ratings: {', '.join(RATINGS)}."
            )
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"min_ratings: '{name}' must be a number, got {value!r}")

    def keep(row: Any) -> Any | None:
        if not isinstance(row, Mapping) or not isinstance(row.get("texts"), list):
            return row
        count = len(row["texts"])
        kept = [i for i in range(count) if all(_passes(row, n, i, v) for n, v in least.items())]
        if len(kept) == count:
            return row
        return _only(row, kept) if kept else None

    return keep


def _passes(row: Mapping[str, Any], name: str, index: int, least: float) -> bool:
    ratings = row.get(f"{name}_ratings")
    if not isinstance(ratings, list) or index >= len(ratings) or ratings[index] is None:
        return True
    rating = ratings[index]
    if isinstance(rating, bool) or not isinstance(rating, int | float):
        raise DataError(f"turn {index}: the {name} rating must be a number, found {rating!r}")
    return rating >= least


def _only(row: Mapping[str, Any], kept: list[int]) -> dict[str, Any]:
    shorter = dict(row)
    for column in ("texts", *(f"{name}_ratings" for name in RATINGS)):
        values = row.get(column)
        if isinstance(values, list):
            shorter[column] = [values[i] for i in kept if i < len(values)]
    return shorter
