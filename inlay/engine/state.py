"""Where a run stands. All of it is in the checkpoint."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Any


@dataclass
class RunState:
    """Counters and data position.

    Attributes:
        iter: finished micro-batches per device. update: optimizer steps.
        epoch: current epoch, from 0. position: items of the epoch's permutation already trained.
        hint: where a stream reopens its source.
        samples, tokens: trained so far, all ranks.
        skipped_updates: updates left out for a non-finite gradient; skipped_in_a_row: of these, the
            last ones without a good one between.
        validated_at: iteration of the last complete validation; -1 before the first.
        grad_norm: L2 norm of the last update's gradients before clipping; None before the first.
        best: best validation results by metric: value and iteration.
    """

    iter: int = 0
    update: int = 0
    epoch: int = 0
    position: int = 0
    hint: dict[str, Any] | None = None
    samples: int = 0
    tokens: int = 0
    skipped_updates: int = 0
    skipped_in_a_row: int = 0
    validated_at: int = -1
    grad_norm: float | None = None
    best: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class StepTimes:
    """Where the time of the current micro-batch went, in seconds of this process's clock.

    On a GPU the work runs on behind the host: what forward and backward did not wait for is waited
    for in ``update``.

    Attributes:
        since: ``time.perf_counter`` at which waiting for data began.
        data: waiting for the batch. compute: forward and backward. update: clipping and optimizer
            step; about 0 inside an accumulation window.
    """

    since: float = 0.0
    data: float = 0.0
    compute: float = 0.0
    update: float = 0.0


class History(deque[Any]):
    """The last values of one scalar, newest last; tensors are read only when asked for."""

    def current(self) -> float:
        """Newest value."""
        return float(self[-1])

    def mean(self, window: int | None = None) -> float:
        """Mean of the last ``window`` values, or of all that are kept."""
        values = list(islice(reversed(self), window))
        return sum(map(float, values)) / len(values)


class MessageHub:
    """What hooks tell each other: histories of scalars, and any value by name."""

    def __init__(self, history: int = 1000) -> None:
        self._scalars: dict[str, History] = {}
        self._info: dict[str, Any] = {}
        self._history = history

    @property
    def log_scalars(self) -> dict[str, History]:
        """Last values of every scalar."""
        return self._scalars

    def update_scalar(self, key: str, value: Any) -> None:
        """Add a value to the history of ``key``."""
        history = self._scalars.get(key)
        if history is None:
            history = self._scalars[key] = History(maxlen=self._history)
        history.append(value)

    def get_scalar(self, key: str) -> History:
        """Return the history of ``key``; KeyError when there is none."""
        return self._scalars[key]

    def update_info(self, key: str, value: Any) -> None:
        """Store any value under ``key``."""
        self._info[key] = value

    def get_info(self, key: str, default: Any = None) -> Any:
        """Return what is stored under ``key``."""
        return self._info.get(key, default)
