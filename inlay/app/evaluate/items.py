"""The running of one evaluation task: several processes share its items, and a run that is broken
off is gone on with."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from inlay.app.checkpoint_config import training_checkpoint
from inlay.core import dist
from inlay.core.io import fingerprint
from inlay.evaluation.ask import Result
from inlay.evaluation.records import (
    ItemTask,
    Records,
    complete,
    problems,
    read_records,
    run_items,
    share,
)

_PATIENCE = timedelta(days=7)  # the slowest process of a large benchmark

Found = Mapping[str, Mapping[str, Any]]
"""Rows of a task by key."""


class Evaluator:
    """Runs tasks with one model.

    What is found is kept in ``work_dir/<task>_<fingerprint>``, one file for each process; the
    fingerprint is of model, settings and data. Processes of one ``torchrun`` each run a part of the
    items; the first of them scores all.

    Args:
        model: what the tasks ask, see ``records.ItemTask``.
        asked: JSON values that change with what the model would say.
        work_dir: folder of results.

    Attributes:
        only_helps: this process is not the first one: it neither scores nor writes.
    """

    def __init__(self, model: Any, asked: Any, work_dir: Path) -> None:
        self.model, self.asked, self.work_dir = model, asked, work_dir
        self.only_helps = dist.rank() != 0

    def folder(self, name: str, identity: Any) -> Path:
        """Return where the results of a task are kept."""
        return self.work_dir / f"{name}_{fingerprint([self.asked, identity])}"

    def run(self, name: str, task: ItemTask, console: Console) -> Result | None:
        """Run a task and print what it found; None where this process only helps."""
        found = self.find(name, task, console)
        return None if found is None else self.conclude(name, task, found, console)

    def find(self, name: str, task: ItemTask, console: Console) -> Found | None:
        """Run this process's part of a task and wait for the others; return all rows, or None where
        this process only helps."""
        folder = self.folder(name, task.identity)
        records = Records(folder, dist.rank())
        wait_for_all()  # or one process takes what another has just found for an earlier run's
        mine = share(task.keys, dist.rank(), dist.world_size())
        if not self.only_helps:
            say(console, f"results: {folder.absolute()}")
            rows = records.rows
            old = sum(key in rows and "problem" not in rows[key] for key in task.keys)
            if old:
                say(console, f"{old} of {len(task.keys)} answers are there from an earlier run")
        is_shown = sys.stderr.isatty() and not self.only_helps
        with Progress(console=Console(stderr=True), disable=not is_shown) as progress:
            bar = progress.add_task(name, total=len(mine))
            run_items(task, mine, self.model, records, lambda key: progress.advance(bar))
        wait_for_all()
        return None if self.only_helps else complete(task, read_records(folder))

    def conclude(self, name: str, task: ItemTask, found: Found, console: Console) -> Result:
        """Score rows and print the result."""
        result = task.score(found)
        report(console, name, result, problems(found), len(found))
        for line in result.scores.get("left_out", []):
            say(console, f"  left out: {line}")
        return result


def report(
    console: Console, name: str, result: Result, unasked: Mapping[str, str], total: int
) -> None:
    """Print the tables of a result, and which of ``total`` questions could not be asked.

    Args:
        unasked: why, by key.
    """
    for title, lines in result.tables.items():
        columns = list(dict.fromkeys(column for shares in lines.values() for column in shares))
        table = Table(f"{name}, by {title}, %" if title else f"{name}, %")
        for column in columns:
            table.add_column(column, justify="right")
        for line, shares in lines.items():
            cells = (
                f"{100 * shares[column]:.1f}" if column in shares else "" for column in columns
            )
            table.add_row(escape(line), *cells)
        console.print(table)
    if unasked:
        count = f"{len(unasked)} of {total}"
        say(console, f"{count} questions could not be asked and count as wrong:")
        for why in list(unasked.values())[:10]:
            say(console, f"  {why}")


def say(console: Console, text: str) -> None:
    """Print a line as it is, however wide."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def model_state(path: str) -> Any:
    """What tells a model from an earlier one of the same name: its files' sizes and times. Of a
    work dir, those of its last checkpoint."""
    folder = training_checkpoint(path) or Path(path).expanduser()
    if not folder.exists():
        return path
    files = sorted(file for file in [folder, *folder.rglob("*")] if file.is_file())
    stats = [(str(file.relative_to(folder)), file.stat()) for file in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


@contextmanager
def processes() -> Iterator[None]:
    """Join the processes that ``torchrun`` started beside this one, and part from them at the end;
    alone, do nothing."""
    if dist.world_size() == 1:
        yield
        return
    import torch.distributed

    torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def wait_for_all() -> None:
    """Wait until every process is here."""
    if dist.world_size() > 1:
        import torch.distributed

        torch.distributed.barrier()


def own_device() -> str | None:
    """Take a GPU for this process among several and return its name; None without any.

    It becomes the default, or every process would load its model through the first GPU. More
    processes than GPUs share them.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    device = f"cuda:{dist.local_rank() % torch.cuda.device_count()}"
    torch.cuda.set_device(device)
    return device
