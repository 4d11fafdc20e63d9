"""Where image tokens lie in a picture: what its views show, and the grids of tokens on them.

Boxes are in px of the original picture. Everything here is arithmetic on sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from inlay.core.types import Box, View

Size = tuple[int, int]
"""Height and width, or rows and columns."""


def whole_box(width: int, height: int) -> Box:
    """Return the box of a whole picture."""
    return (0.0, 0.0, float(width), float(height))


def square_around(width: int, height: int, resized: Size | None = None) -> Box:
    """Return the box of the square that pads a picture, the picture in its middle.

    Args:
        width, height: of the picture, px.
        resized: height and width at which it is padded, px; None: as it is. The padding before is
            half of the whole, rounded down to px of this size.
    """
    rows, columns = resized or (height, width)
    side = max(rows, columns)
    left, top = -((side - columns) // 2), -((side - rows) // 2)
    across, down = width / columns, height / rows
    return (left * across, top * down, (left + side) * across, (top + side) * down)


def token_grids(
    box: Box,
    pixels: Size,
    tokens: Size,
    *,
    cell: int | None = None,
    tiles: Size = (1, 1),
    start: int = 0,
    level: int = 0,
) -> tuple[View, ...]:
    """Return the grids of tokens on equal tiles of a box, row by row.

    Args:
        box: what all tiles together show.
        pixels: height and width of one tile as the vision encoder gets it.
        tokens: rows and columns of tokens on one tile. What is left of the pixels at the right and
            at the bottom, less than a patch, no token sees.
        cell: side of a token, px of a tile; None: as large as the tile allows.
        tiles: rows and columns of tiles.
        start: the first token.
        level: see ``View``.
    """
    left, top, right, bottom = box
    down, across = (bottom - top) / tiles[0], (right - left) / tiles[1]
    high, wide = (t * (cell or p // t) / p for t, p in zip(tokens, pixels, strict=True))
    found = []
    for number in range(tiles[0] * tiles[1]):
        row, column = divmod(number, tiles[1])
        x, y = left + column * across, top + row * down
        part = (x, y, x + across * wide, y + down * high)
        first = start + number * tokens[0] * tokens[1]
        found.append(View(first, *tokens, part, stride=tokens[1], level=level))
    return tuple(found)


def grid_of(tokens: int, height: int, width: int) -> Size:
    """Return the rows and columns of a grid of ``tokens`` that come nearest to a view's shape."""
    divisors = [rows for rows in range(1, tokens + 1) if tokens % rows == 0]
    rows = min(divisors, key=lambda r: abs(r * r * width - tokens * height))
    return rows, tokens // rows


def on_both_levels(views: Sequence[View]) -> tuple[View, ...]:
    """Return the views of a picture that has no tiles as level 0 and again as level 1."""
    return (*views, *(replace(view, level=1) for view in views))


def stretched(views: Sequence[View], across: float, down: float) -> tuple[View, ...]:
    """Return views of a resized picture in px of the one that it was made of."""
    found = []
    for view in views:
        left, top, right, bottom = view.box
        box = (left * across, top * down, right * across, bottom * down)
        found.append(replace(view, box=box))
    return tuple(found)
