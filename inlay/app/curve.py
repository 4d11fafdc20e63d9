"""Curves drawn in text."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 60
HEIGHT = 8
BLOCKS = " ▁▂▃▄▅▆▇█"


def draw(values: Sequence[float], caption: str, low: float = 0.0) -> str:
    """Draw ``values``, evenly spaced, as columns ``HEIGHT`` high and ``WIDTH`` wide.

    Args:
        caption: stands under the right end.
        low: value of the bottom line.
    """
    last = len(values) - 1
    picked = [values[i * last // (WIDTH - 1)] for i in range(WIDTH)]
    top = max(picked)
    span = (top - low) or 1.0
    rows = []
    for row in range(HEIGHT, 0, -1):
        fills = [min(max((v - low) / span * HEIGHT - (row - 1), 0.0), 1.0) for v in picked]
        label = f"{top:9.3g} ┤" if row == HEIGHT else " " * 10 + "│"
        rows.append(label + "".join(BLOCKS[round(f * 8)] for f in fills))
    rows.append(f"{low:9.3g} └" + "─" * WIDTH)
    rows.append(" " * 11 + "0" + caption.rjust(WIDTH - 1))
    return "\n".join(rows)
