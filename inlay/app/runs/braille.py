"""Curves for a terminal: each character of braille is 2 x 4 dots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Bits of a braille character by column and row of its dots."""
EMPTY = 0x2800
STEEP = 20.0
"""Where all values are positive and the highest is so many times the lowest, the axis is
logarithmic."""
LABEL = 9  # characters before the axis


def draw(
    places: Sequence[int],
    values: Sequence[float],
    width: int,
    height: int,
    only_ascii: bool = False,
) -> list[str]:
    """Draw a curve with its axes.

    Args:
        places: ascending positions along x. values: not finite ones are left out.
        width, height: characters of the whole, at least 20 x 3.
        only_ascii: with stars in place of dots, for terminals without braille.

    Returns:
        ``height`` lines; none where there are not two values to connect.
    """
    columns, rows = (width - LABEL - 1) * 2, (height - 1) * 4
    means = _means(places, values, columns)
    if len(means) < 2:
        return []
    low, high = min(means.values()), max(means.values())
    is_log = low > 0 and high / low > STEEP
    scale = math.log if is_log else float
    bottom, top = scale(low), scale(high)
    span = (top - bottom) or 1.0
    levels = {c: round((scale(v) - bottom) / span * (rows - 1)) for c, v in means.items()}
    cells = _connect(levels, columns // 2, height - 1)
    lines = []
    for number, cell_row in enumerate(cells):
        is_edge = number in (0, height - 2)
        label = (
            f"{high if number == 0 else low:.4g}" if is_edge else "log" * (number == 1 and is_log)
        )
        text = "".join(_character(bits, only_ascii) for bits in cell_row)
        axis = ("|" if only_ascii else "┤" if is_edge else "│") + text
        lines.append(label.rjust(LABEL) + axis)
    ends = f"{places[0]:,}", f"{places[-1]:,}"
    room = columns // 2 - len(ends[0])
    return [*lines, " " * (LABEL + 1) + ends[0] + ends[1].rjust(room)]


def spark(values: Sequence[float], width: int, only_ascii: bool = False) -> str:
    """Return a curve of one line of ``width`` characters."""
    means = _means(range(len(values)), values, width)
    if len(means) < 2:
        return ""
    low, high = min(means.values()), max(means.values())
    steps = "_.-=^" if only_ascii else "▁▂▃▄▅▆▇█"
    span = (high - low) or 1.0
    filled = _filled(means, width)
    return "".join(steps[round((v - low) / span * (len(steps) - 1))] for v in filled)


def _means(places: Sequence[int], values: Sequence[float], columns: int) -> dict[int, float]:
    """Mean of the finite values in each of ``columns`` equal parts of the x axis."""
    if len(places) < 2:
        return {}
    first, span = places[0], (places[-1] - places[0]) or 1
    sums: dict[int, tuple[float, int]] = {}
    for place, value in zip(places, values, strict=True):
        if math.isfinite(value):
            column = (place - first) * (columns - 1) // span
            total, count = sums.get(column, (0.0, 0))
            sums[column] = total + value, count + 1
    return {column: total / count for column, (total, count) in sums.items()}


def _filled(means: dict[int, float], width: int) -> list[float]:
    """Values of all columns: those without one have that of the column before."""
    found, value = [], means[min(means)]
    for column in range(width):
        value = means.get(column, value)
        found.append(value)
    return found


def _connect(levels: dict[int, int], width: int, height: int) -> list[list[int]]:
    """Set the dots of a line through ``levels`` (dot column -> dot row from below)."""
    cells = [[0] * width for _ in range(height)]

    def dot(x: int, y: int) -> None:
        row = height * 4 - 1 - y
        cells[row // 4][x // 2] |= DOTS[x % 2][row % 4]

    points = sorted(levels.items())
    dot(*points[0])
    for (x0, y0), (x1, y1) in pairwise(points):
        steps = max(abs(x1 - x0), abs(y1 - y0), 1)
        for step in range(1, steps + 1):
            dot(x0 + (x1 - x0) * step // steps, y0 + round((y1 - y0) * step / steps))
    return cells


def _character(bits: int, only_ascii: bool) -> str:
    if not bits:
        return " "
    return "*" if only_ascii else chr(EMPTY + bits)
