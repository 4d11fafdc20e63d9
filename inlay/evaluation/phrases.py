"""Phrases of captions and their masks: any set of pictures, such as ``inlay scenes`` draws."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inlay.core.errors import DataError
from inlay.data.grounding.phrases import PhraseSet
from inlay.evaluation.ask import Result
from inlay.evaluation.mask_task import MaskTask, entry_caption, left_out, summary
from inlay.evaluation.records import problems


def load(path: Path, image_folder: Path | None = None, limit: int | None = None) -> Phrases:
    """Read captions, phrases and masks.

    Args:
        path: whatever ``PhraseSet`` reads.
        image_folder: of the pictures; by default ``images`` beside the file, or else its folder.
        limit: take the first captions only.

    Raises:
        DataError: files are missing or malformed.
    """
    beside = path if path.is_dir() else path.absolute().parent
    usual = beside / "images"
    folder = image_folder or (usual if usual.is_dir() else beside)
    return Phrases(PhraseSet(path, folder), limit)


class Phrases(MaskTask):
    """The task: mIoU, cIoU, P@0.5 to P@0.9 over all phrases.

    Args:
        limit: take the first captions only.

    Raises:
        DataError: there is no phrase with a mask.
    """

    def __init__(self, source: PhraseSet, limit: int | None = None) -> None:
        if not len(source):
            raise DataError(f"{source.share.path}: there is no phrase with a mask. {source.report}")
        self.source = source
        captions = [
            entry_caption(source, index, str(index), [{}] * int(source.num_masks[index]))
            for index in range(len(source))[:limit]
        ]
        super().__init__(captions, source.content())

    def score(self, found: Mapping[str, Mapping[str, Any]]) -> Result:
        """Return the metrics, ``num_phrases``, ``not_run`` (key -> why) and ``left_out``, rows of
        the data that cannot be used."""
        rows = self.rows(found)
        metrics = summary(rows)
        scores = {
            **metrics,
            "num_phrases": len(rows),
            "not_run": problems(found),
            "left_out": left_out([self.source]),
        }
        return Result(scores, rows, {"": {"overall": metrics}})
