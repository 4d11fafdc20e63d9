"""Evaluation of models that point: beside the scores, files for a judge and a page of masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from inlay.app.evaluate.items import Evaluator, Found
from inlay.evaluation.ask import Result
from inlay.evaluation.records import ItemTask, Pointer


class Pointing(Evaluator):
    """Runs tasks in ``evaluation.POINTING``.

    Args:
        model: answers and points.
        asked, work_dir: see ``Evaluator``.
        page: HTML file for the best, the median and the worst masks.
    """

    def __init__(
        self, model: Pointer, asked: Any, work_dir: Path, page: Path | None = None
    ) -> None:
        super().__init__(model, asked, work_dir)
        self.page = page
        self._sections: list[dict[str, Any]] = []

    def conclude(self, name: str, task: ItemTask, found: Found, console: Console) -> Result:
        """Score rows, print the result, write the files for the benchmark's own judge and the page
        of pictures."""
        from inlay.evaluation.viscot import VisualCoT

        result = super().conclude(name, task, found, console)
        if isinstance(task, VisualCoT):
            task.write_results(self.folder(name, task.identity) / "judge", found)
        if self.page is not None:
            from inlay.app.pages.masks import sections, write_segment_page

            self._sections += sections(name, task, found, result)
            write_segment_page(self.page, self._sections)
        return result
