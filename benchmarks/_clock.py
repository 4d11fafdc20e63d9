"""CPU time of a step, part by part."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

Parts = dict[str, float]


class Clock:
    """CPU seconds by part of a step; a part within another one counts as the outer one."""

    def __init__(self) -> None:
        self.seconds: Parts = defaultdict(float)
        self._busy = False

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        if self._busy:
            yield
            return
        self._busy, start = True, time.process_time()
        try:
            yield
        finally:
            self._busy = False
            self.seconds[name] += time.process_time() - start

    def watch(self, owner: Any, function: str, name: str) -> None:
        """Time every call of a function or method."""
        plain: Callable[..., Any] = getattr(owner, function)

        @wraps(plain)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return plain(*args, **kwargs)

        setattr(owner, function, timed)

    def step(self, run: Callable[[], Any]) -> Parts:
        """Return the parts of a step, and its "total"."""
        self.seconds, start = defaultdict(float), time.process_time()
        run()
        total = time.process_time() - start
        other = total - sum(self.seconds.values())
        return {**self.seconds, "other": other, "total": total}


def summed(steps: list[Parts], samples: int) -> Parts:
    """CPU seconds a sample."""
    total: Counter[str] = Counter()
    for step in steps:
        total.update(step)
    return {name: seconds / samples for name, seconds in total.items()}
