"""Panoptic narrative grounding: a mask for every phrase of a long caption.

Gonzalez et al., Panoptic Narrative Grounding (ICCV 2021, arXiv 2109.04988).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inlay.core.errors import DataError
from inlay.data.grounding.png import PNG
from inlay.evaluation.ask import Result
from inlay.evaluation.files import one_file, picture_folder
from inlay.evaluation.mask_metrics import average_recall, precision_at
from inlay.evaluation.mask_task import MaskTask, entry_caption, left_out
from inlay.evaluation.records import problems

_PICTURES = ("images", "val2017", "train2017")


def load(path: Path, image_folder: Path | None = None, limit: int | None = None) -> Narratives:
    """Read narratives and panoptic maps.

    Args:
        path: the narratives (``png_coco_val2017.json``), or their folder. Beside them lie the
            panoptic annotations (``panoptic*.json``) and, in a folder of the same name, the maps.
        image_folder: of the pictures; by default ``images`` or ``val2017`` beside them.
        limit: take the first narratives only.

    Raises:
        DataError: files are missing or malformed.
    """
    narratives = one_file(path, ("png*.json", "narratives*.json"), "narratives")
    annotations = _annotations(narratives)
    pictures = picture_folder(image_folder, narratives.parent, _PICTURES)
    return Narratives(PNG(narratives, annotations, annotations.with_suffix(""), pictures), limit)


class Narratives(MaskTask):
    """The task: average recall over IoU thresholds, which is the mean IoU, of all phrases and of
    those that name one thing or several (``singular``, ``plural``), things or stuff.

    Every phrase counts alike. As in F-LMM's evaluation phrases in the plural count as things.

    Args:
        limit: take the first narratives only.

    Raises:
        DataError: there is no narrative with a mask.
    """

    def __init__(self, source: PNG, limit: int | None = None) -> None:
        if not len(source):
            raise DataError(
                f"{source.share.path}: there is no narrative with a mask. {source.report}"
            )
        self.source = source
        captions = [
            entry_caption(source, index, f"{entry.line}", _groups(source, index))
            for index, entry in enumerate(source.entries[:limit])
        ]
        super().__init__(captions, source.content())

    def score(self, found: Mapping[str, Mapping[str, Any]]) -> Result:
        """Return ``average_recall`` and ``P@0.5`` by group of phrases, ``num_phrases`` likewise,
        ``not_run`` (row -> why) and ``left_out``, rows of the data that cannot be used."""
        rows = self.rows(found)
        groups = {
            "overall": rows,
            "singular": [row for row in rows if not row["plural"]],
            "plural": [row for row in rows if row["plural"]],
            "things": [row for row in rows if row["thing"]],
            "stuff": [row for row in rows if not row["thing"]],
        }
        values = {name: [row["iou"] for row in those] for name, those in groups.items() if those}
        recalls = {name: average_recall(ious) for name, ious in values.items()}
        shares = {name: precision_at(ious)[0.5] for name, ious in values.items()}
        scores = {
            "average_recall": recalls,
            "P@0.5": shares,
            "num_phrases": {name: len(ious) for name, ious in values.items()},
            "not_run": problems(found),
            "left_out": left_out([self.source]),
        }
        lines = {n: {"average recall": recalls[n], "P@0.5": shares[n]} for n in values}
        return Result(scores, rows, {"phrases": lines})


def _groups(source: PNG, index: int) -> list[dict[str, Any]]:
    return [{"plural": one.plural, "thing": one.thing} for one in source.phrases(index)]


def _annotations(narratives: Path) -> Path:
    """``panoptic_val2017.json`` for ``png_coco_val2017.json``, else the only one there is."""
    part = narratives.stem.rpartition("_")[2]
    exact = narratives.with_name(f"panoptic_{part}.json")
    if exact.is_file():
        return exact
    return one_file(narratives.parent, ("panoptic*.json",), "panoptic annotations")
