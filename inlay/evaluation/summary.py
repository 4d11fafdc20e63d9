"""Scores of many tasks as one flat table of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def flat(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return every measured number by its path: ``{"vqa": {"accuracy": 0.5}}`` becomes
    ``{"vqa/accuracy": 0.5}``.

    Measures are floats; counts (whole numbers), texts and lists are left out.
    """
    return dict(_leaves(scores, ""))


def _leaves(values: Mapping[str, Any], path: str) -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{path}{name}/")
        elif isinstance(value, float):
            yield f"{path}{name}", value


def headlines(scores: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Return task, measure and number of each task's topmost measures, in order."""
    found = []
    for task, values in scores.items():
        measures = flat(values)
        top = min((name.count("/") for name in measures), default=0)
        found += [(task, name, x) for name, x in measures.items() if name.count("/") == top]
    return found
