"""Equations that a model has written: polynomials with rational numbers, solved exactly where the
solutions are rational.

An equation in which an unknown stands alone, to the first power, is put into the others; what is
left is the roots of one unknown. Linear systems are solved by that, too.
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction

from inlay.chat.arithmetic import MAX_LENGTH, NO_RESULT, NoResultError, evaluate, parse
from inlay.chat.arithmetic import two_decimals as rounded
from inlay.chat.polynomials import Polynomial, Work, constant, unknown

NO_SOLUTION = "No solution."
MAX_UNKNOWNS = 6
MAX_SOLUTIONS = 16
Value = Fraction | complex
"""A rational number, or an approximation of any other."""

_PRODUCTS = (
    (re.compile(r"(\b\d[\d.]*|\))(?=\()"), r"\1*"),  # 2(x+1), (x+1)(x+2)
    (re.compile(r"(\b\d[\d.]*|\))(?=[A-Za-z])"), r"\1*"),  # 2x, (x+1)y
)
_NAME = re.compile(r"[A-Za-z]\w{0,15}", re.ASCII)
_CLOSE = 1e-6  # relative difference of two roots that are one


def solve(text: str) -> str:
    """Solve equations between commas or semicolons; ``^`` is power, ``2x`` a product.

    Expressions without ``=`` among them are computed for every solution, to two decimals.

    Returns:
        A line ``x_0 = 3`` for each unknown of each solution, or ``"No solution."``;
        ``"No result."`` where the text is none of this, or too much work.
    """
    if len(text) > MAX_LENGTH:
        return NO_RESULT
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy, of numbers too large for a float
            return "\n".join(_solved(text)) or NO_SOLUTION
    except (NoResultError, ArithmeticError, ValueError, TypeError, RecursionError):
        return NO_RESULT


def _solved(text: str) -> Iterator[str]:
    work = Work()
    parts = [part.strip() for part in re.split(r"[,;]+", text) if part.strip()]
    equations = [_Equation.read(part, work) for part in parts if "=" in part]
    names = sorted({name for equation in equations for name in equation.difference.unknowns()})
    if not equations or not 0 < len(names) <= MAX_UNKNOWNS:
        raise NoResultError
    found = _solutions([equation.difference for equation in equations], work)
    found = [s for s in found if all(equation.is_defined(s, work) for equation in equations)]
    if any(len(solution) < len(names) for solution in found):
        raise NoResultError  # not all unknowns are determined
    found.sort(key=lambda solution: [_place(solution[name]) for name in names])
    for index, solution in enumerate(found):
        yield from (f"{name}_{index} = {_written(solution[name])}" for name in names)
    for part in parts:
        if "=" not in part:
            value = _Ratio.read(part, work)
            for index, solution in enumerate(found):
                shown = part if len(found) == 1 else _numbered(part, names, index)
                yield f"{shown} = {rounded(_real(value.at(solution, work)))}"


@dataclass(frozen=True)
class _Ratio:
    """A fraction of polynomials."""

    top: Polynomial
    bottom: Polynomial

    @classmethod
    def read(cls, text: str, work: Work) -> _Ratio:
        for pattern, product in _PRODUCTS:
            text = pattern.sub(product, text)
        return _ratio(parse(text), work)

    def at(self, values: dict[str, Value], work: Work) -> Value:
        return self.top.at(values, work) / self.bottom.at(values, work)


@dataclass(frozen=True)
class _Equation:
    """``difference`` is zero, and none of ``bottoms`` is."""

    difference: Polynomial
    bottoms: list[Polynomial] = field(default_factory=list)

    @classmethod
    def read(cls, text: str, work: Work) -> _Equation:
        sides = text.replace("==", "=").split("=")
        if len(sides) != 2:
            raise NoResultError
        left, right = (_Ratio.read(side, work) for side in sides)
        difference = work.add(
            work.multiply(left.top, right.bottom), work.multiply(right.top, left.bottom), sign=-1
        )
        return cls(difference, [left.bottom, right.bottom])

    def is_defined(self, values: dict[str, Value], work: Work) -> bool:
        return not any(_is_zero(bottom.at(values, work)) for bottom in self.bottoms)


def _ratio(node: ast.expr, work: Work) -> _Ratio:
    one = constant(1)
    match node:
        case ast.Constant() | ast.Call() | ast.Name(id="pi"):
            return _Ratio(constant(Fraction(repr(evaluate(node)))), one)
        case ast.Name(id=name) if _NAME.fullmatch(name):
            return _Ratio(unknown(name), one)
        case ast.UnaryOp(op=ast.UAdd() | ast.USub() as sign, operand=inner):
            value = _ratio(inner, work)
            if isinstance(sign, ast.UAdd):
                return value
            return _Ratio(work.multiply(constant(-1), value.top), value.bottom)
        case ast.BinOp(left=base, op=ast.Pow(), right=ast.Constant(value=int() as exponent)):
            value = _ratio(base, work)
            return _Ratio(work.power(value.top, exponent), work.power(value.bottom, exponent))
        case ast.BinOp(left=left, op=op, right=right):
            return _combined(_ratio(left, work), op, _ratio(right, work), work)
    raise NoResultError


def _combined(left: _Ratio, op: ast.operator, right: _Ratio, work: Work) -> _Ratio:
    if isinstance(op, ast.Div):
        op, right = ast.Mult(), _Ratio(right.bottom, right.top)
    if not right.bottom.terms:
        raise NoResultError  # division by zero
    bottom = work.multiply(left.bottom, right.bottom)
    if isinstance(op, ast.Mult):
        return _Ratio(work.multiply(left.top, right.top), bottom)
    if not isinstance(op, ast.Add | ast.Sub):
        raise NoResultError
    sign = 1 if isinstance(op, ast.Add) else -1
    tops = work.multiply(left.top, right.bottom), work.multiply(right.top, left.bottom)
    return _Ratio(work.add(*tops, sign=sign), bottom)


def _solutions(equations: list[Polynomial], work: Work) -> list[dict[str, Value]]:
    """All solutions of polynomials that are to be zero."""
    equations = [equation for equation in equations if equation.terms]
    if any(not equation.unknowns() for equation in equations):
        return []
    if not equations:
        return [{}]
    for index, equation in enumerate(equations):
        for name in sorted(equation.unknowns()):
            alone = equation.solved_for(name)
            if alone is not None:
                others = equations[:index] + equations[index + 1 :]
                found = _solutions([work.put(other, name, alone) for other in others], work)
                if any(not alone.unknowns() <= solution.keys() for solution in found):
                    raise NoResultError  # an unknown is free
                return [{**solution, name: alone.at(solution, work)} for solution in found]
    return _by_roots(equations, work)


def _by_roots(equations: list[Polynomial], work: Work) -> list[dict[str, Value]]:
    single = next((e for e in equations if len(e.unknowns()) == 1), None)
    if single is None:
        raise NoResultError
    (name,) = single.unknowns()
    others = [equation for equation in equations if equation is not single]
    found: list[dict[str, Value]] = []
    for root in _roots(single.coefficients(name)):
        if others and not isinstance(root, Fraction):
            raise NoResultError  # what is not exact cannot be put into an equation
        rest = [work.put(e, name, constant(root)) for e in others if isinstance(root, Fraction)]
        found += [{**solution, name: root} for solution in _solutions(rest, work)]
        if len(found) > MAX_SOLUTIONS:
            raise NoResultError
    return found


def _roots(coefficients: list[Fraction]) -> list[Value]:
    """Roots of a polynomial, its highest coefficient first; each once."""
    exact: set[Fraction] = set()
    rest, approximate = coefficients, _approximate_roots(coefficients)
    while near := [r for a in approximate for r in _near(a) if not _divided(rest, r)[1]]:
        exact.add(near[0])
        rest = _divided(rest, near[0])[0]
        approximate = _approximate_roots(rest)
    others: list[complex] = []
    for root in approximate:
        if all(abs(root - other) > _CLOSE * abs(root) for other in others):
            others.append(root)
    return [*exact, *others]


def _approximate_roots(coefficients: list[Fraction]) -> list[complex]:
    import numpy as np

    found: list[complex] = [complex(root) for root in np.roots([float(c) for c in coefficients])]
    # What is small beside the rest is an error of rounding.
    return [
        complex(*(x if abs(x) > _CLOSE * abs(root) else 0.0 for x in (root.real, root.imag)))
        for root in found
    ]


def _near(root: complex) -> Iterator[Fraction]:
    """Rational numbers that a root may be."""
    if math.isfinite(root.real):
        for limit in (1, 100, 1_000_000):
            yield Fraction(root.real).limit_denominator(limit)


def _divided(coefficients: list[Fraction], root: Fraction) -> tuple[list[Fraction], Fraction]:
    """A polynomial divided by (x - root), and the rest, which is its value there."""
    rows = [coefficients[0]]
    for coefficient in coefficients[1:]:
        rows.append(coefficient + root * rows[-1])
    return rows[:-1], rows[-1]


def _place(value: Value) -> tuple[bool, float, float]:
    """Where a value stands in a list: real ones first, by size."""
    number = complex(value)
    return number.imag != 0, number.real, number.imag


def _is_zero(value: Value) -> bool:
    return value == 0 if isinstance(value, Fraction) else abs(value) < _CLOSE


def _real(value: Value) -> Fraction | float:
    if isinstance(value, Fraction):
        return value
    if abs(value.imag) > _CLOSE * abs(value):
        raise NoResultError
    return value.real


def _written(value: Value) -> str:
    if isinstance(value, Fraction):
        return str(value) if value.denominator < 10_000 else f"{float(value):.6g}"
    if value.imag == 0:
        return f"{value.real:.6g}"
    return f"{value.real:.6g} {'-' if value.imag < 0 else '+'} {abs(value.imag):.6g}*I"


def _numbered(text: str, names: list[str], index: int) -> str:
    return re.sub(
        r"[A-Za-z]\w*", lambda m: f"{m[0]}_{index}" if m[0] in names else m[0], text, flags=re.ASCII
    )
