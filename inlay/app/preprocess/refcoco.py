"""`inlay preprocess refcoco`: RefCOCO's expressions become conversations about boxes."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlay.core.errors import DataError
from inlay.core.io import write_json
from inlay.data.grounding.pickles import load_pickle
from inlay.data.grounding.source import by_id, load_json, size_of
from inlay.evaluation.text_boxes import PICTURES, text_box, write_box

SETS = {"refcoco": "unc", "refcoco+": "unc", "refcocog": "umd"}
"""Data set -> the authors of its split, as its files are named."""
QUESTIONS = (
    "[refer] {}",
    "[refer] give me the location of {}",
    "[refer] where is {} ?",
    "[refer] from this image, tell me the location of {}",
    "[refer] the location of {} is",
    "[refer] could you tell me the location for {} ?",
    "[refer] where can I locate the {} ?",
)
"""MiniGPT-v2's ways to ask for a box."""
SHOWN = 10  # bad references that are named
Note = Callable[[str], None]


def preprocess_refcoco(ann_path: str, image_path: str, save_path: str, note: Note) -> int:
    """Write ``train.json``: every sentence of the training splits that are there, once a picture.

    A row has ``id, image, sents, bbox, height, width`` as XTuner writes them, and
    ``conversations``, so that it also is a row of LLaVA: one of seven questions, chosen by the
    row's id, and the box as text.

    Args:
        ann_path: folder of ``refcoco``, ``refcoco+``, ``refcocog``, each with ``instances.json``
            and ``refs(unc).p`` or ``refs(umd).p``.
        image_path: folder of COCO's pictures, ``<12 digits>.jpg``.
        save_path: folder for ``train.json``.
        note: told of data sets that are not there and of references that cannot be used.

    Returns:
        Number of rows.

    Raises:
        DataError: nothing is there, a file is malformed, or no row is left.
    """
    root, pictures = Path(ann_path).expanduser(), Path(image_path).expanduser()
    there = [name for name in SETS if (root / name).is_dir()]
    if not there:
        raise DataError(f"{root}: expected a folder of {', '.join(SETS)}, found none")
    for name in SETS.keys() - set(there):
        note(f"{root / name}: not there, left out")
    if not pictures.is_dir():
        raise DataError(f"{pictures}: there is no such folder; expected COCO's pictures")
    rows: dict[str, dict[str, Any]] = {}
    for name in there:
        for row in _References(root / name, SETS[name], pictures, note).rows():
            rows.setdefault(row["id"], row)
    if not rows:
        raise DataError(f"{root}: no reference could be used")
    target = Path(save_path).expanduser() / "train.json"
    try:
        write_json(target, list(rows.values()), indent=4)
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror}") from error
    return len(rows)


@dataclass
class _References:
    """The training split of one data set."""

    folder: Path
    split_by: str
    pictures: Path
    note: Note

    def rows(self) -> Iterator[dict[str, Any]]:
        file = self.folder / f"refs({self.split_by}).p"
        instances = self.folder / "instances.json"
        found = load_json(instances, "instances of RefCOCO")
        images: dict[Any, Any] = dict(by_id(found, "images", instances))
        annotations: dict[Any, Any] = dict(by_id(found, "annotations", instances))
        refs = load_pickle(file)
        if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
            raise DataError(f"{file}: expected a list of references, found {type(refs).__name__}")
        bad = 0
        for number, ref in enumerate(refs, 1):
            if ref.get("split") != "train":
                continue
            try:
                yield from self._rows(ref, images, annotations)
            except DataError as error:
                bad += 1
                if bad <= SHOWN:
                    self.note(f"{file}, row {number}: {error}")
        if bad:
            self.note(f"{file}: {bad} references were left out")

    def _rows(
        self, ref: dict[str, Any], images: dict[Any, Any], annotations: dict[Any, Any]
    ) -> Iterator[dict[str, Any]]:
        image, annotation = images.get(ref.get("image_id")), annotations.get(ref.get("ann_id"))
        if image is None or annotation is None:
            raise DataError(
                f"image_id {ref.get('image_id')!r} or ann_id {ref.get('ann_id')!r} is not in "
                "instances.json"
            )
        width, height = size_of(image)
        box = write_box(text_box(annotation.get("bbox"), width, height))
        name = f"{image['id']:0>12}.jpg"
        if not (self.pictures / name).is_file():
            raise DataError(f"there is no picture '{self.pictures / name}'")
        for sentence in ref.get("sentences") or ():
            text = sentence.get("raw") or sentence.get("sent")
            if not text:
                raise DataError("a sentence has no text")
            key = (
                f"{self.folder.name}-{self.split_by}-{image['id']:0>12}-{'_'.join(text.split(' '))}"
            )
            question = QUESTIONS[zlib.crc32(key.encode()) % len(QUESTIONS)].format(text)
            yield {
                "id": key,
                "image": f"{PICTURES}/{name}",
                "sents": text,
                "bbox": annotation["bbox"],
                "height": height,
                "width": width,
                "conversations": [
                    {"from": "human", "value": f"{question}\n<image>"},
                    {"from": "gpt", "value": box},
                ],
            }
