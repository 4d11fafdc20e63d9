"""Faults of the original's loop and schedules.

Facts: XTuner v0.1.23 ``engine/runner/loops.py``; MMEngine 0.10.7 ``optim/scheduler``,
``runner/loops.py`` and ``runner/runner.py``, read and run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from inlay.app.originals.finding import Case, Finding
from inlay.app.originals.settings import Original, node_name

_WARM_UP = ("LinearLR", "LinearParamScheduler", "LinearMomentum")
_HERE = "schedules are closed forms, and fractions of an iteration count exactly"


def warm_up(case: Case) -> Iterator[Finding]:
    """Warm-ups of no iteration, which stop the run, or of one, which never end."""
    for node in case.there.schedules:
        if not _is_warm_up(node):
            continue
        if _in_epochs(node):
            if node.get("convert_to_iter_based") and node.get("end") is not None:
                yield from _dead(case, node, case.per_epoch)
        elif node.get("end") is not None:
            yield from _dead(case, node, 1)


def _dead(case: Case, node: dict[str, Any], scale: int | None) -> Iterator[Finding]:
    begin, end = node.get("begin", 0), node["end"]
    title = "The warm-up is dead"
    start = node.get("start_factor", 1 / 3)
    if scale is None:
        if end <= begin:
            return
        yield Finding(
            "dead-warm-up",
            title,
            "the warm-up is cut to whole iterations: with an epoch of fewer than "
            f"{math.ceil(2 / (end - begin))} iterations it leaves the learning rate at {start:g} "
            f"of itself for the whole run, with fewer than {math.ceil(1 / (end - begin))} the run "
            "stops",
            _HERE,
            unknown=case.unknown,
        )
        return
    length = int(end * scale) - int(begin * scale)
    figures: dict[str, float] = {"warm_up_iterations": length}
    if case.total is not None:
        figures["iterations"] = case.total
    run = "the run" if case.total is None else f"the run of {case.total:,} iterations"
    if length < 1:
        yield Finding(
            "dead-warm-up",
            title,
            f"{run} stops before it starts: a warm-up of int({end * scale - begin * scale:.2f}) = "
            "0 iterations raises 'end should be larger than begin'",
            _HERE,
            figures,
        )
    elif length == 1:
        rate = "" if case.there.lr is None else f", {case.there.lr * start:.1e},"
        yield Finding(
            "dead-warm-up",
            title,
            f"a warm-up of int({end * scale - begin * scale:.2f}) = 1 iteration is never left: the "
            f"learning rate stays at {start:g} of itself{rate} or below for all of {run}, without "
            "a word",
            _HERE,
            figures,
        )


def idle_schedules(case: Case) -> Iterator[Finding]:
    """Schedules that the loop, which reports one epoch, never steps or ends too early."""
    there = case.there
    if there.epoch_loop:
        return
    in_epochs = [n for n in there.schedules if _in_epochs(n)]
    still = [n for n in in_epochs if not n.get("convert_to_iter_based")]
    if still:
        names = " and ".join(dict.fromkeys(node_name(n) for n in still))
        yield Finding(
            "schedule-never-steps",
            "A schedule never steps",
            f"the loop reports one epoch, so that {names} by epoch without convert_to_iter_based "
            f"takes one step in the whole run: the learning rate stays at {_stuck(there, still)}",
            "epochs are counted as the data have them, and schedules by epoch step with them",
        )
    many = there.max_epochs is None or there.max_epochs > 1
    short = [n for n in in_epochs if n not in still and n.get("end") is None]
    if short and many:
        names = " and ".join(dict.fromkeys(node_name(n) for n in short))
        epochs = "the run" if there.max_epochs is None else f"{there.max_epochs:g} epochs"
        yield Finding(
            "schedule-stops-early",
            "A schedule stops after the first epoch",
            f"{names} has no `end` and takes that of the loop, which reports one epoch of {epochs}",
            "a schedule without an end goes to the end of the run",
        )


def _stuck(there: Original, nodes: list[dict[str, Any]]) -> str:
    """The rate that is left when each schedule has taken its first step alone."""
    factor = 1.0
    for node in nodes:
        if node.get("begin", 0) == 0 and _is_warm_up(node):
            factor *= node.get("start_factor", 1 / 3)
    return f"{factor:g} of itself" if there.lr is None else f"{there.lr * factor:.1e}"


def last_window(case: Case) -> Iterator[Finding]:
    """Micro-batches behind the last full window."""
    there, total = case.there, case.total
    if there.accumulate == 1 or total is None or not total % there.accumulate:
        return
    rest = total % there.accumulate
    yield Finding(
        "last-window",
        "The last micro-batches are not trained on",
        f"with --deepspeed the {rest} micro-batches behind the last full window of "
        f"{there.accumulate} ({total:,} iterations) never become an update",
        "every epoch ends with an update; a short window is divided by what it holds",
        {"micro_batches": rest, "iterations": total},
    )


def no_validation(case: Case) -> Iterator[Finding]:
    """An interval without data to validate on."""
    there = case.there
    if there.val_interval is None or there.has_val:
        return
    yield Finding(
        "no-validation",
        "Nothing is validated",
        f"val_interval={there.val_interval} without a val_dataloader does nothing, and the models "
        "have no validation loss",
        "a share of the rows can be held out and is measured: `val_fraction` of Inlay's data sets "
        "and recipes",
    )


def _is_warm_up(node: dict[str, Any]) -> bool:
    if node_name(node) not in _WARM_UP:
        return False
    start: float = node.get("start_factor", 1 / 3)
    return start < node.get("end_factor", 1.0)


def _in_epochs(node: dict[str, Any]) -> bool:
    return bool(node.get("by_epoch", True))
