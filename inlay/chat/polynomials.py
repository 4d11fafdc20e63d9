"""Polynomials of a few unknowns with rational coefficients, and a bound on the work they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from inlay.chat.arithmetic import NoResultError

MAX_DEGREE = 8
MAX_BITS = 512  # of a coefficient's numerator and denominator
Monomial = tuple[tuple[str, int], ...]  # unknowns and their powers, by name


@dataclass(frozen=True)
class Polynomial:
    """A sum of monomials; ``terms`` holds no zeros."""

    terms: Mapping[Monomial, Fraction] = field(default_factory=dict)

    def unknowns(self) -> set[str]:
        return {name for monomial in self.terms for name, _ in monomial}

    def solved_for(self, name: str) -> Polynomial | None:
        """What ``name`` is where the polynomial is zero; None unless its only term with it is
        a number times it."""
        if [m for m in self.terms if any(n == name for n, _ in m)] != [((name, 1),)]:
            return None
        factor = -self.terms[((name, 1),)]
        rest = {m: c / factor for m, c in self.terms.items() if m != ((name, 1),)}
        return Polynomial(rest)

    def coefficients(self, name: str) -> list[Fraction]:
        """Of a polynomial of ``name`` alone, the highest power first."""
        powers = {dict(m).get(name, 0): c for m, c in self.terms.items()}
        return [powers.get(power, Fraction(0)) for power in range(max(powers), -1, -1)]

    def at(self, values: Mapping[str, Any], work: Work) -> Any:
        """Return the value where every unknown has one."""
        total: Any = Fraction(0)
        for monomial, coefficient in self.terms.items():
            work.spend(1)
            value: Any = coefficient
            for name, power in monomial:
                value = value * values[name] ** power
            total = total + value
        return total


def constant(value: int | Fraction) -> Polynomial:
    """A number as a polynomial."""
    return Polynomial({(): Fraction(value)} if value else {})


def unknown(name: str) -> Polynomial:
    """An unknown as a polynomial."""
    return Polynomial({((name, 1),): Fraction(1)})


class Work:
    """Sums and products of polynomials, up to a budget of operations (some 0.1 s).

    Raises:
        NoResultError: by every method, when the budget is spent, a power exceeds ``MAX_DEGREE``
            or a coefficient ``MAX_BITS``.
    """

    def __init__(self, budget: int = 20_000) -> None:
        self.left = budget

    def spend(self, cost: int) -> None:
        self.left -= cost
        if self.left < 0:
            raise NoResultError

    def add(self, a: Polynomial, b: Polynomial, sign: int = 1) -> Polynomial:
        """Return ``a + sign * b``."""
        self.spend(len(a.terms) + len(b.terms))
        terms = dict(a.terms)
        for monomial, coefficient in b.terms.items():
            terms[monomial] = terms.get(monomial, Fraction(0)) + sign * coefficient
        return self._bounded(terms)

    def multiply(self, a: Polynomial, b: Polynomial) -> Polynomial:
        self.spend(len(a.terms) * len(b.terms))
        terms: dict[Monomial, Fraction] = {}
        for m, c in a.terms.items():
            for n, d in b.terms.items():
                powers = dict(m)
                for name, power in n:
                    powers[name] = powers.get(name, 0) + power
                key = tuple(sorted(powers.items()))
                terms[key] = terms.get(key, Fraction(0)) + c * d
        return self._bounded(terms)

    def power(self, base: Polynomial, exponent: int) -> Polynomial:
        if not 0 <= exponent <= MAX_DEGREE:
            raise NoResultError
        result = constant(1)
        for _ in range(exponent):
            result = self.multiply(result, base)
        return result

    def put(self, polynomial: Polynomial, name: str, value: Polynomial) -> Polynomial:
        """Put ``value`` in the place of an unknown."""
        result = Polynomial()
        for monomial, coefficient in polynomial.terms.items():
            rest = tuple((n, p) for n, p in monomial if n != name)
            term = Polynomial({rest: coefficient})
            power = dict(monomial).get(name, 0)
            result = self.add(result, self.multiply(term, self.power(value, power)))
        return result

    def _bounded(self, terms: dict[Monomial, Fraction]) -> Polynomial:
        for monomial, c in terms.items():
            if sum(power for _, power in monomial) > MAX_DEGREE:
                raise NoResultError
            if max(c.numerator.bit_length(), c.denominator.bit_length()) > MAX_BITS:
                raise NoResultError
        return Polynomial({m: c for m, c in terms.items() if c})
