"""Arithmetic that a model has written: a few kinds of syntax are computed, nothing is ever run."""

from __future__ import annotations

import ast
import math
import operator
import warnings
from collections.abc import Callable
from typing import Any

MAX_LENGTH = 300
"""Longest text that is looked at, in characters."""
MAX_BITS = 4096
"""Largest whole number, in bits: nothing that is computed may take long."""
NO_RESULT = "No result."

CONSTANTS = {"pi": math.pi, "e": math.e, "tau": math.tau}
_NAMES = """
    sqrt exp log log2 log10 sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh
    degrees radians fabs ceil floor trunc hypot gcd"""
FUNCTIONS: dict[str, Callable[..., Any]] = {name: getattr(math, name) for name in _NAMES.split()}
FUNCTIONS |= {"abs": abs, "min": min, "max": max, "round": lambda value: round(value)}


class NoResultError(Exception):
    """A text cannot be computed, or not within bounds."""


def parse(text: str) -> ast.expr:
    """Return the syntax of an expression; ``^`` is power.

    Raises:
        NoResultError: it is too long, or no expression.
    """
    if len(text) > MAX_LENGTH:
        raise NoResultError
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the parser comments on odd literals
            return ast.parse(text.replace("^", "**").strip(), mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        raise NoResultError from None


def evaluate(node: ast.expr) -> int | float:
    """Compute numbers, ``+ - * / // % **``, and the names in ``CONSTANTS`` and ``FUNCTIONS``.

    Raises:
        NoResultError: anything else, no real number, or one that is too large.
    """
    try:
        return _evaluate(node)
    except (ArithmeticError, TypeError, ValueError, RecursionError):
        raise NoResultError from None


def calculate(expressions: str) -> str:
    """Return the values of expressions between semicolons, to two decimals.

    What has none is ``"No result."``.
    """
    if len(expressions) > MAX_LENGTH:
        return NO_RESULT
    return ";".join(map(_rounded, expressions.split(";")))


def two_decimals(value: Any) -> str:
    """Write a real number.

    Raises:
        NoResultError: it is none, or not finite.
    """
    try:
        number = float(value)
    except (OverflowError, TypeError, ValueError):
        raise NoResultError from None
    if not math.isfinite(number):
        raise NoResultError
    return f"{number:.2f}"


def _rounded(expression: str) -> str:
    try:
        return two_decimals(evaluate(parse(expression)))
    except NoResultError:
        return NO_RESULT


def _evaluate(node: ast.expr) -> int | float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            value = number
        case ast.Name(id=name) if name in CONSTANTS:
            value = CONSTANTS[name]
        case ast.UnaryOp(op=op, operand=inner) if type(op) in _SIGNS:
            value = _SIGNS[type(op)](_evaluate(inner))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
            value = _OPERATORS[type(op)](_evaluate(left), _evaluate(right))
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _CALLS:
            value = _CALLS[name](*map(_evaluate, args))
        case _:
            raise NoResultError
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise NoResultError
    return value


def _power(base: float, exponent: float) -> float:
    if isinstance(base, int) and isinstance(exponent, int) and exponent >= 0:
        if base.bit_length() * exponent > MAX_BITS:
            raise NoResultError
        return base**exponent
    value = float(base) ** float(exponent)
    if isinstance(value, complex):  # the root of a negative number
        raise NoResultError
    return value


def _factorial(value: float) -> int:
    if value != int(value) or value > MAX_BITS // 10:  # 409! has 2,955 bits
        raise NoResultError
    return math.factorial(int(value))


_SIGNS: dict[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: _power,
}
_CALLS = FUNCTIONS | {"pow": _power, "factorial": _factorial}
