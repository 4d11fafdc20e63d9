"""Visual chain of thought: find where to look, look there again, answer.

The benchmark is that of Visual CoT (Shao et al., arXiv 2403.16999); the three ways to use grounding
for it are those of F-LMM (arXiv 2406.05821, section 4.3).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlay.core.errors import ConfigError, DataError, InlayError
from inlay.core.io import file_sha256, write_json
from inlay.core.types import ImageRef
from inlay.evaluation.ask import Result
from inlay.evaluation.mask_metrics import box_iou, mask_box
from inlay.evaluation.metrics import normalise
from inlay.evaluation.records import Pointer, problems

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

VERSIONS = ("v1", "v2", "v3")
"""v1: the model names the object to look at; v2: the question itself is grounded; v3: no second
look."""

THOUGHT = "The object most relevant to the question is"
_THINK = "First think which object in this image is most relevant to the question."
_TWO_PICTURES = "the whole image, the image region that might help you answer the question: "
_SHORTLY = "\nAnswer the question using a single word or phrase."
_BOX_REQUEST = (
    "Please provide the bounding box coordinate of the region that can help you answer the "
    "question better."
)
_THOUGHT_TOKENS, _ANSWER_TOKENS = 16, 32
_LEAST_HALF = 8
_BOX = re.compile(r"\[\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*,\s*(-?\d+)\s*\]$")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question of the benchmark.

    Attributes:
        data_set: name of its file.
        image: as the file names it, relative to the image folder.
        box: what to look at, px of the picture.
        answer: what is right.
    """

    data_set: str
    question_id: Any
    question: str
    image: str
    box: tuple[int, int, int, int]
    answer: str


def load(
    path: Path, image_folder: Path | None = None, limit: int | None = None, version: str = "v1"
) -> VisualCoT:
    """Read the benchmark: one of its JSON files, or a folder of them.

    Args:
        image_folder: what the files' picture names start from; their own folder by default.
        limit: take the first questions of each file only.
        version: one of ``VERSIONS``.

    Raises:
        ConfigError: another version.
        DataError: no file, or one that is malformed.
    """
    if version not in VERSIONS:
        raise ConfigError(f"visual CoT has {', '.join(VERSIONS)}, found '{version}'")
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files or not all(file.is_file() for file in files):
        raise DataError(f"{path}: expected a JSON file of the benchmark, or a folder of them")
    asked = [one for file in files for one in _read(file)[:limit]]
    folder = image_folder or (path if path.is_dir() else path.absolute().parent)
    hashes = [[file.stem, file_sha256(file)] for file in files]
    return VisualCoT(asked, folder, version, [version, hashes])


class VisualCoT:
    """The task.

    An answer is scored without a judge: ``exact`` if it is the right one, and ``contained`` if the
    right one's words stand in it in a row, both after VQAv2's normalisation. ``box`` is the mean
    IoU of the looked-at box with the annotated one. ``write_results`` writes what the benchmark's
    own judge reads.

    Args:
        image_folder: pictures must lie inside it.
        version: one of ``VERSIONS``.
        identity: of the data, see ``ItemTask``.
    """

    def __init__(
        self, asked: Sequence[Asked], image_folder: Path, version: str, identity: Any = None
    ) -> None:
        self.asked = {f"{one.data_set}/{one.question_id}": one for one in asked}
        if len(self.asked) < len(asked):
            raise DataError("a question_id stands twice in a file of the benchmark")
        self.keys = list(self.asked)
        self.image_folder, self.version, self.identity = image_folder, version, identity

    def run(self, key: str, model: Pointer) -> dict[str, Any]:
        """Return ``thought``, ``box`` and ``answer``.

        Raises:
            DataError: the picture cannot be read.
        """
        image = self.picture(key)
        question = self.asked[key].question
        try:
            thought, box, answer = look_and_answer(image, question, model, self.version)
        except InlayError as error:
            whole = (0, 0, *image.size)
            return {"thought": "", "box": list(whole), "answer": "", "problem": str(error)}
        return {"thought": thought, "box": list(box), "answer": answer}

    def picture(self, key: str) -> Image:
        """Open the picture of a question, RGB.

        Raises:
            DataError: it cannot be read.
        """
        from inlay.data.vision.files import open_image, resolve

        ref = ImageRef(self.asked[key].image, place=f"question {key}")
        return open_image(resolve(ref, str(self.image_folder), self.image_folder))

    def score(self, found: Mapping[str, Mapping[str, Any]]) -> Result:
        """Return ``exact``, ``contained`` and ``box`` over all questions, and by data set."""
        rows = [self._scored(key, found[key]) for key in self.keys]
        names = sorted({one.data_set for one in self.asked.values()})
        lines = {name: _means([row for row in rows if row["data_set"] == name]) for name in names}
        lines["all"] = _means(rows)
        scores = {
            **lines["all"],
            "version": self.version,
            "data_sets": {name: lines[name] for name in names},
            "num_questions": len(rows),
            "not_asked": problems(found),
        }
        return Result(scores, rows, {"data set": lines})

    def write_results(self, folder: Path, found: Mapping[str, Mapping[str, Any]]) -> list[Path]:
        """Write ``<data set>.json`` as the benchmark's judge reads and completes it: a list of
        ``question``, ``gt``, ``answer``, and what led there."""
        by_name: dict[str, list[dict[str, Any]]] = {}
        for key, asked in self.asked.items():
            row = found[key]
            entry = {name: row[name] for name in ("thought", "box", "answer")}
            entry |= {"gt_bbox": list(asked.box), "question_id": asked.question_id}
            entry |= {"question": asked.question, "image": asked.image, "gt": asked.answer}
            by_name.setdefault(asked.data_set, []).append(entry)
        paths = {folder / f"{name}.json": entries for name, entries in by_name.items()}
        for path, entries in paths.items():
            write_json(path, entries, indent=4)
        return list(paths)

    def _scored(self, key: str, row: Mapping[str, Any]) -> dict[str, Any]:
        asked = self.asked[key]
        said, right = normalise(row["answer"]), normalise(asked.answer)
        exact = said == right
        box = tuple(map(float, row["box"]))
        return {
            "key": key,
            "data_set": asked.data_set,
            "question": asked.question,
            "image": asked.image,
            "thought": row["thought"],
            "prediction": row["answer"],
            "answer": asked.answer,
            "box": row["box"],
            "right_box": list(asked.box),
            "exact": float(exact),
            "contained": float(exact or (bool(right) and f" {right} " in f" {said} ")),
            "box_iou": box_iou(box, asked.box) if "problem" not in row else 0.0,  # type: ignore[arg-type]
        }


def look_and_answer(
    image: Image, question: str, model: Pointer, version: str
) -> tuple[str, tuple[int, int, int, int], str]:
    """Answer a question about a picture with a second look at a part of it.

    The thought of v1 has at most 16 tokens, an answer 32.

    Returns:
        The thought (empty but for v1), the box that was looked at (px) and the answer.
    """
    if version == "v3":
        return "", (0, 0, *image.size), _answer(model, [image], question)
    thought = ""
    if version == "v1":
        asked = question + _THINK
        thought = model.answer([image], asked, _THOUGHT_TOKENS, prefix=f" {THOUGHT}").strip()
    if thought:
        pieces = [(f" {THOUGHT}", False), (f" {thought}", True)]
        masks, _ = model.segment(image, pieces, prompt=f"<image>{asked}")
    else:  # nothing said is nothing to point at
        masks, _ = model.segment(image, [(question, True)])
    box = crop_box(masks[0])
    return thought, box, _answer(model, [image, image.crop(box)], _TWO_PICTURES + question)


def crop_box(mask_HW: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """Return the box around a mask, at least 8 px from its centre to each side, inside the
    picture; the whole picture for an empty mask."""
    height, width = mask_HW.shape
    box = mask_box(mask_HW)
    if box is None:
        return 0, 0, width, height
    left, right = _widened(box[0], box[2], width)
    top, bottom = _widened(box[1], box[3], height)
    return left, top, right, bottom


def _widened(start: float, stop: float, size: int) -> tuple[int, int]:
    centre, half = (start + stop) / 2, max((stop - start) / 2, _LEAST_HALF)
    return max(0, math.floor(centre - half)), min(size, math.ceil(centre + half))


def _answer(model: Pointer, pictures: list[Image], text: str) -> str:
    return model.answer(pictures, text + _SHORTLY, _ANSWER_TOKENS).strip()


def _means(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    names = {"exact": "exact", "contained": "contained", "box": "box_iou"}
    return {name: sum(row[key] for row in rows) / len(rows) for name, key in names.items()}


def _read(file: Path) -> list[Asked]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is no JSON file: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{file}: expected a list of questions, found {type(rows).__name__}")
    found = []
    for number, row in enumerate(rows):
        try:
            found.append(_asked(file.stem, row))
        except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                f"{file}, row {number}: expected question_id, image (a name, and a name with "
                f"'###[left, top, right, bottom]') and conversations as the benchmark has them: "
                f"{error!r}"
            ) from error
    return found


def _asked(data_set: str, row: Mapping[str, Any]) -> Asked:
    image, boxed = row["image"]
    box = _BOX.search(boxed)
    if box is None:
        raise ValueError(f"no box at the end of {boxed!r}")
    left, top, right, bottom = map(int, box.groups())
    turns = [turn["value"] for turn in row["conversations"]]
    question = turns[0].replace(_BOX_REQUEST, "").replace("<image>", "").strip()
    where = (left, top, right, bottom)
    return Asked(data_set, row["question_id"], question, image, where, turns[-1].strip())
