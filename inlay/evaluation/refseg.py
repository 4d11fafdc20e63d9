"""Referring segmentation: the mask of what an expression means, on RefCOCO, + , g and gRefCOCO.

Two protocols are in use, and their numbers differ. F-LMM's: the first sentence of each reference,
and all expressions of a picture in one caption. The standard one: every sentence on its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from inlay.core.errors import ConfigError, DataError, did_you_mean
from inlay.core.rle import box_of
from inlay.data.grounding.pickles import load_pickle
from inlay.data.grounding.refcoco import RefCOCO, Reference, ReferredPicture
from inlay.data.grounding.source import checked_size, load_json
from inlay.evaluation.ask import Result
from inlay.evaluation.files import one_file, picture_folder
from inlay.evaluation.mask_metrics import box_iou
from inlay.evaluation.mask_task import Caption, MaskTask, entry_caption, left_out, summary
from inlay.evaluation.records import problems

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

PROTOCOLS = ("original", "standard")
_SPLITS = ("val", "testA", "testB", "test")


def load(
    path: Path,
    image_folder: Path | None = None,
    limit: int | None = None,
    protocols: Sequence[str] = PROTOCOLS,
    splits: Sequence[str] = (),
) -> RefSeg:
    """Read expressions and their masks.

    Args:
        path: ``refs(unc).p`` and the like with ``instances.json`` beside it, or their folder.
        image_folder: of the pictures; by default ``images`` or ``train2014`` beside the files.
        limit: take the first captions of each protocol and split only.
        protocols: see ``PROTOCOLS``.
        splits: by default all but ``train``.

    Raises:
        ConfigError: an unknown protocol.
        DataError: files are missing or malformed, or there is no such split.
    """
    for name in protocols:
        if name not in PROTOCOLS:
            hint = did_you_mean(name, PROTOCOLS)
            raise ConfigError(f"there is no protocol '{name}', only {', '.join(PROTOCOLS)}.{hint}")
    refs = one_file(path, ("refs*.p", "grefs*.p", "refs*.json", "grefs*.json"), "references")
    folder = picture_folder(image_folder, refs.parent, ("images", "train2014"))
    instances = refs.parent / "instances.json"
    names = list(splits) or _known_splits(refs)
    sources = {
        name: RefCOCO(instances, refs, folder, split=name, sentences="first") for name in names
    }
    return RefSeg(sources, protocols, limit)


class RefSeg(MaskTask):
    """The task.

    Scores by protocol and split: cIoU, mIoU, P@0.5 to P@0.9; with expressions that mean nothing in
    the picture gIoU, N-acc and T-acc. In the standard protocol also ``box P@0.5``, the share of
    expressions where the box around the mask has an IoU of 0.5 or more with the annotated one;
    expressions that only have a box count there alone.

    Args:
        sources: by split, with the first sentences.
        protocols: see ``PROTOCOLS``.
        limit: captions of each protocol and split.

    Raises:
        DataError: there is nothing to ask.
    """

    def __init__(
        self,
        sources: Mapping[str, RefCOCO],
        protocols: Sequence[str] = PROTOCOLS,
        limit: int | None = None,
    ) -> None:
        captions: list[Caption] = []
        for split, source in sources.items():
            for protocol in protocols:
                found = _PROTOCOLS[protocol](source, split)
                captions += [c for _, c in zip(range(limit or 1 << 62), found, strict=False)]
        if not captions:
            raise DataError("there are no expressions to ask for in these splits")
        self.sources = sources
        super().__init__(captions, [source.content() for source in sources.values()])

    def score(self, found: Mapping[str, Mapping[str, Any]]) -> Result:
        """Return ``scores[protocol][split]``, ``num_expressions`` likewise, ``not_run`` (key ->
        why) and ``left_out``, rows of the data that cannot be used."""
        rows = self.rows(found)
        scores: dict[str, Any] = {}
        counts: dict[str, Any] = {}
        lines: dict[str, dict[str, float]] = {}
        for protocol, split in dict.fromkeys((row["protocol"], row["split"]) for row in rows):
            those = [r for r in rows if (r["protocol"], r["split"]) == (protocol, split)]
            metrics = summary([row for row in those if row["has_mask"]])
            if protocol == "standard":
                metrics |= _box_precision(those, found)
            scores.setdefault(protocol, {})[split] = lines[f"{protocol} {split}"] = metrics
            counts.setdefault(protocol, {})[split] = len(those)
        scores["num_expressions"] = counts
        scores |= {"not_run": problems(found), "left_out": left_out(self.sources.values())}
        return Result(scores, rows, {"split": lines})


def _original(source: RefCOCO, split: str) -> Iterator[Caption]:
    """The first sentences of a picture, a full stop behind each, in one caption."""
    for index in range(len(source)):
        group = {"protocol": "original", "split": split, "has_mask": True, "box": None}
        groups = [group] * int(source.num_masks[index])
        yield entry_caption(source, index, f"original {split} {index}", groups)


def _standard(source: RefCOCO, split: str) -> Iterator[Caption]:
    """Every sentence of every reference, those with a box only too."""
    for picture in source.expressions():
        for place, reference in enumerate(picture.references):
            group = {
                "protocol": "standard",
                "split": split,
                "has_mask": reference.counts is not None,
                "box": reference.box,
            }
            for number, sentence in enumerate(reference.sentences):
                yield Caption(
                    f"standard {split} {picture.image_id} {place}.{number}",
                    ((sentence, True), (".", False)),
                    partial(_open, source, picture),
                    partial(_mask, reference),
                    [group],
                )


_PROTOCOLS = {"original": _original, "standard": _standard}


def _open(source: RefCOCO, picture: ReferredPicture) -> Image:
    return checked_size(source.files.open(picture.image, picture.place), picture)


def _mask(reference: Reference) -> NDArray[np.uint8]:
    """``[1, H, W]``; zeros, which are not scored, where only a box is known."""
    mask = reference.mask()
    return np.zeros((1, *reference.size[::-1]), np.uint8) if mask is None else mask[None]


def _box_precision(
    rows: Sequence[Mapping[str, Any]], found: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    hits = []
    for row in rows:
        if row["box"] is not None:
            said = box_of(found[row["key"]]["rles"][row["place"]])
            hits.append(said is not None and box_iou(said, row["box"]) >= 0.5)
    return {"box P@0.5": sum(hits) / len(hits)} if hits else {}


def _known_splits(refs: Path) -> list[str]:
    read = load_json(refs, "references") if refs.suffix == ".json" else load_pickle(refs)
    found = {str(ref.get("split")) for ref in read} - {"train"}
    return sorted(found, key=lambda name: (name not in _SPLITS, (*_SPLITS, name).index(name)))
