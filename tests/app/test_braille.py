"""Curves of dots."""

from __future__ import annotations

import math

import pytest

from inlay.app.runs.braille import EMPTY, LABEL, draw, spark


def dots(lines: list[str]) -> set[tuple[int, int]]:
    """Columns and rows (from above) of all dots."""
    left, right = (1, 2, 4, 64), (8, 16, 32, 128)
    found = set()
    for row, line in enumerate(lines[:-1]):
        for column, character in enumerate(line[LABEL + 1 :]):
            value = ord(character) - EMPTY if character != " " else 0
            for x, side in enumerate((left, right)):
                found |= {
                    (2 * column + x, 4 * row + y) for y, bit in enumerate(side) if value & bit
                }
    return found


def test_a_falling_curve_runs_from_corner_to_corner() -> None:
    lines = draw([10, 20, 110], [3.0, 2.8, 1.0], 30, 6)
    assert len(lines) == 6
    assert all(len(line) == 30 for line in lines)
    found = dots(lines)
    assert {(0, 0), (39, 19)} <= found
    # Without gaps: every column has a dot, and next to it in the next column.
    heights = {x: [y for a, y in found if a == x] for x in range(40)}
    assert all(min(heights[x + 1]) - max(heights[x]) <= 1 for x in range(39))
    assert all(min(heights[x + 1]) >= min(heights[x]) for x in range(39))
    assert lines[0].startswith("        3┤") and lines[4].startswith("        1┤")
    assert lines[5].split() == ["10", "110"]


def test_a_steep_curve_is_drawn_on_a_logarithmic_axis() -> None:
    lines = draw(range(4), [1000.0, 100.0, 10.0, 1.0], 30, 6)
    assert lines[1].startswith("      log│")
    assert (13, 6) in dots(lines)  # 100 of 1 to 1000 is a third below the top
    assert not draw(range(3), [1000.0, 1.0, 0.0], 30, 6)[1].startswith("      log")


def test_values_that_are_not_finite_leave_the_curve_as_it_is() -> None:
    places, values = [0, 50, 100], [1.0, 2.0, 3.0]
    with_odd = draw([0, 20, 50, 70, 100], [1.0, math.nan, 2.0, math.inf, 3.0], 30, 6)
    assert with_odd == draw(places, values, 30, 6)


@pytest.mark.parametrize("values", [[], [1.0], [math.nan, math.nan], [1.0, math.inf]])
def test_nothing_is_drawn_of_fewer_than_two_values(values: list[float]) -> None:
    assert draw(range(len(values)), values, 30, 6) == []
    assert spark(values, 10) == ""


def test_terminals_without_braille_get_stars() -> None:
    lines = draw([0, 1], [1.0, 1.0], 30, 6, only_ascii=True)
    assert "\n".join(lines).isascii()
    assert sum(line.count("*") for line in lines) == 20  # an even curve: one in each column


def test_a_curve_of_one_line() -> None:
    assert spark([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0], 8) == "█▇▆▅▄▃▂▁"
    assert spark([1.0, 2.0], 4) == "▁▁▁█"
    assert spark([1.0, 5.0], 3, only_ascii=True) == "__^"
