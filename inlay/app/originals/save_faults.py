"""Faults of the original's checkpoints and of its resume.

Facts: MMEngine 0.10.7 ``hooks/checkpoint_hook.py``, ``runner/loops.py``,
``optim/optimizer/optimizer_wrapper.py``, read and run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from inlay.app.originals.finding import Case, Finding


def only_checkpoint(case: Case) -> Iterator[Finding]:
    """The old checkpoint goes before the new one is there."""
    save = case.there.save
    if save is None or save.keep != 1:
        return
    saves = _saves(case)
    figures: dict[str, float] = {} if saves is None else {"saves": saves}
    if saves is not None and saves < 2:
        return
    times = "at every save" if saves is None else f"{saves - 1:,} times in this run"
    yield Finding(
        "only-checkpoint",
        "The only checkpoint is at risk",
        f"max_keep_ckpts=1 deletes the only checkpoint and then writes the next, {times}: a kill "
        "or a full disk in between leaves none",
        "a checkpoint is written under another name, synced, checksummed, renamed and read back; "
        "then the old one goes",
        figures,
    )


def moved_folder(case: Case) -> Iterator[Finding]:
    """``last_checkpoint`` names an absolute path."""
    if case.there.save is not None:
        yield Finding(
            "absolute-path",
            "A moved work dir cannot be resumed",
            "last_checkpoint holds an absolute path",
            "it holds a name, and the newest checkpoint whose checksums hold is found without it",
        )


def random_state(case: Case) -> Iterator[Finding]:
    """Random generators are not saved."""
    there = case.there
    if there.save is not None and there.dropout:
        yield Finding(
            "random-state",
            "A resumed run is another run",
            f"checkpoints hold no random state: dropout ({there.dropout:g}) draws anew, and the "
            "losses differ from those of a run that was not stopped",
            "the generators of every rank are saved: the same losses, bit for bit on one device",
        )


def data_order(case: Case) -> Iterator[Finding]:
    """A drawn seed is drawn again."""
    there = case.there
    if there.save is not None and there.seed is None:
        yield Finding(
            "data-order",
            "A resume shuffles the data anew",
            "seed=None: an automatic resume (resume=True) draws another seed, so that the rest of "
            "the epoch is of other samples: some come twice, some never",
            "the seed that was drawn is saved, and the order goes on",
        )


def data_position(case: Case) -> Iterator[Finding]:
    """Where in the data a resume goes on."""
    there, total = case.there, case.total
    if there.save is None:
        return
    if there.epoch_loop:
        if not there.save.by_epoch:
            yield Finding(
                "replayed-epoch",
                "A resume begins the epoch again",
                "a checkpoint inside an epoch goes on at the epoch's first batch",
                "it goes on at the sample where it stopped",
            )
        return
    most = "all batches up to there" if total is None else f"up to {total - 1:,} batches"
    yield Finding(
        "read-again",
        "A resume reads the data from the start",
        f"to go on at an iteration it loads and throws away {most}",
        "the position is a number in the checkpoint",
        {} if total is None else {"batches": total - 1},
    )


def half_windows(case: Case) -> Iterator[Finding]:
    """Gradients that were gathered but not applied when a checkpoint was written."""
    there, total = case.there, case.total
    save, window = there.save, there.accumulate
    if save is None or window == 1:
        return
    step = save.interval
    if save.by_epoch:
        if not there.epoch_loop or case.per_epoch is None:
            return
        step *= case.per_epoch
    if step <= 0 or not step % window or (total is not None and step >= total):
        return
    due = range(step, step * window + 1 if total is None else total, step)
    open_counts = [iteration % window for iteration in due]
    inside, most = len(due) - open_counts.count(0), max(open_counts)
    count = f"{inside} of {len(due)} checkpoints"
    figures: dict[str, float] = {"interval": step, "window": window, "lost": most}
    if total is not None:
        count += " before the last"
        figures |= {"checkpoints": len(due), "inside": inside}
    yield Finding(
        "half-windows",
        "A resume loses gradients",
        f"{count} are written inside an accumulation window (every {step:,} iterations, windows "
        f"of {window}): what was gathered, up to {most} micro-batches, is lost",
        "such a checkpoint holds the window's start, and a resume replays it: the same bits",
        figures,
    )


def rare_saves(case: Case) -> Iterator[Finding]:
    """Saves by epoch in a loop that has one."""
    there = case.there
    if there.save is None or not there.save.by_epoch or there.epoch_loop:
        return
    yield Finding(
        "one-checkpoint",
        "One checkpoint in the whole run",
        "the loop reports one epoch, so that a checkpoint by epoch is written at the end alone",
        "by_epoch saves after every epoch of the data",
    )


def silent_changes(case: Case) -> Iterator[Finding]:
    """What a resume takes from the checkpoint instead of the config."""
    if case.there.resume:
        yield Finding(
            "silent-changes",
            "A changed setting is ignored on resume",
            "learning rate and schedule come from the checkpoint, whatever the config says now",
            "they come from the config; what has changed is shown, and refused where it would "
            "make another run of it",
        )


def _saves(case: Case) -> int | None:
    """Checkpoints of the run; None where its length is not known."""
    there, total = case.there, case.total
    if there.save is None or total is None:
        return None
    step = there.save.interval
    if there.save.by_epoch:
        if not there.epoch_loop or case.per_epoch is None:
            return 1
        step *= case.per_epoch
    return 1 if step <= 0 else math.ceil(total / step)
