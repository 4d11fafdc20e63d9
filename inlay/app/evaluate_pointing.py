"""Evaluation of models that point: several processes share the items, and a run that is broken off
is gone on with."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from inlay.app.evaluate import report, say
from inlay.core import dist
from inlay.core.io import fingerprint
from inlay.evaluation.ask import Result
from inlay.evaluation.records import (
    Pointer,
    PointingTask,
    Records,
    complete,
    problems,
    read_records,
    run_items,
    share,
)

_PATIENCE = timedelta(days=7)  # the slowest process of a large benchmark


class Pointing:
    """Runs tasks in ``evaluation.POINTING``.

    What is found is kept in ``work_dir/<task>_<fingerprint>``, one file for each process; the
    fingerprint is of model, settings and data. Processes of one ``torchrun`` each run a part of the
    items; the first of them scores all.

    Args:
        model: answers and points.
        asked: JSON values that change with what the model would say.
        work_dir: folder of results.
        page: HTML file for the best, the median and the worst masks.

    Attributes:
        only_helps: this process is not the first one: it neither scores nor writes.
    """

    def __init__(
        self, model: Pointer, asked: Any, work_dir: Path, page: Path | None = None
    ) -> None:
        self.model, self.asked, self.work_dir, self.page = model, asked, work_dir, page
        self.only_helps = dist.rank() != 0
        self._sections: list[dict[str, Any]] = []

    def run(self, name: str, task: PointingTask, console: Console) -> Result | None:
        """Run a task and print what it found; None where this process only helps."""
        folder = self.work_dir / f"{name}_{fingerprint([self.asked, task.identity])}"
        records = Records(folder, dist.rank())
        if not self.only_helps:
            say(console, f"results: {folder.absolute()}")
        mine = share(task.keys, dist.rank(), dist.world_size())
        is_shown = sys.stderr.isatty() and not self.only_helps
        with Progress(console=Console(stderr=True), disable=not is_shown) as progress:
            bar = progress.add_task(name, total=len(mine))
            run_items(task, mine, self.model, records, lambda key: progress.advance(bar))
        wait_for_all()
        if self.only_helps:
            return None
        found = complete(task, read_records(folder))
        result = task.score(found)
        report(console, name, result, problems(found), len(found))
        for line in result.scores.get("left_out", []):
            say(console, f"  left out: {line}")
        self._write(name, task, found, result, folder)
        return result

    def _write(
        self,
        name: str,
        task: PointingTask,
        found: Mapping[str, Mapping[str, Any]],
        result: Result,
        folder: Path,
    ) -> None:
        """Write the files for the benchmark's own judge, and the page of pictures."""
        from inlay.evaluation.viscot import VisualCoT

        if isinstance(task, VisualCoT):
            task.write_results(folder / "judge", found)
        if self.page is not None:
            from inlay.app.segment_page import sections, write_segment_page

            self._sections += sections(name, task, found, result)
            write_segment_page(self.page, self._sections)


def join_processes() -> None:
    """Join the processes that ``torchrun`` started beside this one; alone, do nothing."""
    if dist.world_size() > 1:
        import torch.distributed

        torch.distributed.init_process_group("gloo", timeout=_PATIENCE)


def wait_for_all() -> None:
    """Wait until every process is here."""
    if dist.world_size() > 1:
        import torch.distributed

        torch.distributed.barrier()


def leave_processes() -> None:
    """Part from the processes that ``join_processes`` joined."""
    if dist.world_size() > 1:
        import torch.distributed

        torch.distributed.destroy_process_group()


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
