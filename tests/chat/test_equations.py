"""Equations: rational solutions exactly, others to six digits, and what is no equation."""

from __future__ import annotations

import random

import numpy as np
import pytest

from inlay.chat.equations import NO_RESULT, NO_SOLUTION, solve


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("3x+5=20", ["x_0 = 5"]),
        ("2(x+1)(x-1) = 2x^2 - 4 + x", ["x_0 = 2"]),
        ("x+y=15, 2x+4y=40", ["x_0 = 10", "y_0 = 5"]),
        ("x^2-5x+6=0", ["x_0 = 2", "x_1 = 3"]),
        ("(x-1)^3=0", ["x_0 = 1"]),
        ("x+y=5; x*y=6", ["x_0 = 2", "y_0 = 3", "x_1 = 3", "y_1 = 2"]),
        ("10/x=2", ["x_0 = 5"]),
        ("x/3=1/7", ["x_0 = 3/7"]),
        ("0.1x=sqrt(9)", ["x_0 = 30"]),
        ("2*pi*r=1", ["r_0 = 0.159155"]),
        ("x^2=2,y=x+1", ["x_0 = -1.41421", "y_0 = -0.414214", "x_1 = 1.41421", "y_1 = 2.41421"]),
        ("x^2+1=0", ["x_0 = 0 - 1*I", "x_1 = 0 + 1*I"]),
        ("x=4, x^2+x", ["x_0 = 4", "x^2+x = 20.00"]),
        ("x^2=4; 10x", ["x_0 = -2", "x_1 = 2", "10x_0 = -20.00", "10x_1 = 20.00"]),
    ],
)
def test_solutions(text: str, lines: list[str]) -> None:
    assert solve(text).splitlines() == lines


@pytest.mark.parametrize("text", ["x=1,x=2", "1/(x-1)=2/(x-1)", "(x^2-1)/(x-1)=2"])
def test_no_solution(text: str) -> None:
    assert solve(text) == NO_SOLUTION


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1+1",
        "1=1",
        "x=x+1",
        "x+1",
        "x==y==z",
        "x+y=5",  # y is free
        "sin(x)=1",
        "x^x=4",
        "x^9=1",
        "x^(1/2)=2",
        "x**-1=2",
        "x=1/0",
        "x.y=1",
        "x=(1,2)",
        "x=[1]",
        "x='1'",
        "x=1e999",
        "x^2=2,y^2=3",  # two unknowns, both irrational
        "(a+b+c+d+f+g)^8=1",
        "x" * 301 + "=1",
    ],
)
def test_no_result(text: str) -> None:
    assert solve(text) == NO_RESULT


def test_random_linear_systems_against_numpy() -> None:
    draw = random.Random(0)
    for _ in range(20):
        size = draw.randint(1, 4)
        names = "xyzw"[:size]
        matrix = [[draw.randint(-9, 9) for _ in names] for _ in names]
        if abs(np.linalg.det(np.array(matrix, float))) < 0.5:
            continue
        right = [draw.randint(-9, 9) for _ in names]
        text = ", ".join(
            "+".join(f"({c})*{n}" for c, n in zip(row, names, strict=True)) + f"={value}"
            for row, value in zip(matrix, right, strict=True)
        )
        expected = np.linalg.solve(np.array(matrix, float), np.array(right, float))
        found = {}
        for line in solve(text).splitlines():
            name, value = line.split(" = ")
            top, _, bottom = value.partition("/")
            found[name[0]] = float(top) / float(bottom or 1)
        assert [found[name] for name in sorted(names)] == pytest.approx(
            [dict(zip(names, expected, strict=True))[name] for name in sorted(names)], rel=1e-5
        )


def test_random_roots_against_their_polynomials() -> None:
    draw = random.Random(1)
    for _ in range(20):
        roots = sorted({draw.randint(-9, 9) for _ in range(draw.randint(1, 6))})
        text = "*".join(f"(x-({root}))" for root in roots) + "=0"
        assert solve(text).splitlines() == [f"x_{i} = {root}" for i, root in enumerate(roots)]
