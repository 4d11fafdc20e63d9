"""Boxes as text, in hundredths of a picture's sides: ``{<left><top><right><bottom>}``.

MiniGPT-v2's form, which XTuner trains and evaluates on RefCOCO.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlay.core.errors import DataError
from inlay.core.types import ImageRef
from inlay.data.grounding.masks import box_of
from inlay.data.grounding.source import size_of
from inlay.data.json_rows import Row, read_json
from inlay.evaluation.ask import Question, Reply, Result, problems

if TYPE_CHECKING:
    from PIL.Image import Image

PARTS = 100
"""Steps of a coordinate, over a picture's side."""
QUESTION = "[refer] give me the location of {}"
LEAST_IOU = 0.5
PICTURES = "coco/train2017"  # in the folder of LLaVA's pictures

TextBox = tuple[int, int, int, int]
"""Left, top, right, bottom in hundredths, rounded down."""


@dataclass(frozen=True)
class Item:
    """An expression and the box that is meant."""

    text: str
    box: TextBox
    image: str
    place: str


def text_box(bbox: Any, width: int, height: int) -> TextBox:
    """Return COCO's ``[left, top, width, height]`` in px as a box in hundredths.

    Raises:
        DataError: these are not four numbers.
    """
    left, top, right, bottom = box_of(bbox)
    # In this order: 0.29 * 100 is below 29, and the data of others are rounded so, too.
    sides = left / width, top / height, right / width, bottom / height
    return tuple(int(side * PARTS) for side in sides)  # type: ignore[return-value]


def write_box(box: TextBox) -> str:
    """Return a box as a model says it."""
    return "{" + "".join(f"<{side}>" for side in box) + "}"


def read_box(answer: str) -> TextBox | None:
    """Return the box in an answer: its whole numbers, where there are four of them."""
    numbers = [int(digits) for digits in re.findall(r"\d{1,9}", answer)]
    return (numbers[0], numbers[1], numbers[2], numbers[3]) if len(numbers) == 4 else None


def iou(a: TextBox, b: TextBox) -> float:
    """Return intersection over union, in [0, 1]; both ends of a side belong to a box, as XTuner
    counts. 0 where the sides of a box are the wrong way round."""
    inside = _area((max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])))
    return inside / (_area(a) + _area(b) - inside) if _area(a) and _area(b) else 0.0


def _area(box: TextBox) -> int:
    return max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0)


def load(path: Path, image_folder: Path, limit: int | None = None) -> TextBoxes:
    """Read a JSON array of ``{"sents", "bbox", "width", "height"}`` with ``img_id``
    (``COCO_train2014_000000581857_16``) or ``image`` (a path in ``image_folder``).

    Args:
        image_folder: of LLaVA: pictures lie in ``coco/train2017`` in it, or in it itself.
        limit: the first rows only.

    Raises:
        DataError: with file and line: no JSON, or a field is missing or of the wrong kind.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; expected expressions of RefCOCO as JSON")
    items: list[Item] = []
    for row in read_json(str(path)):
        if limit is not None and len(items) == limit:
            break
        items.append(_item(row))
    if not items:
        raise DataError(f"{path}: there are no expressions")
    return TextBoxes(items, image_folder)


class TextBoxes:
    """The task: a box is right if its IoU with the annotated one exceeds 0.5.

    An answer without exactly four numbers is a wrong one, and so is a question that could not be
    asked; both are counted.

    Args:
        image_folder: pictures must lie inside it.
    """

    max_new_tokens = 100

    def __init__(self, items: Sequence[Item], image_folder: Path) -> None:
        self.items = items
        self.image_folder = image_folder
        self.questions: Sequence[Question] = [
            Question(str(i), QUESTION.format(item.text), self._opener(item))
            for i, item in enumerate(items)
        ]

    def score(self, replies: dict[str, Reply]) -> Result:
        """Score replies: ``accuracy``, ``num_questions``, ``not_a_box``, ``not_asked``."""
        rows = [self._scored(item, replies[str(i)].text) for i, item in enumerate(self.items)]
        accuracy = sum(row["score"] for row in rows) / len(rows)
        scores = {
            "accuracy": accuracy,
            "num_questions": len(rows),
            "not_a_box": sum(row["box"] is None for row in rows),
            "not_asked": {self.items[int(k)].place: why for k, why in problems(replies).items()},
        }
        return Result(scores, rows, {"": {"boxes": {"IoU > 0.5": accuracy}}})

    def _scored(self, item: Item, text: str) -> dict[str, Any]:
        box = read_box(text)
        overlap = 0.0 if box is None else iou(box, item.box)
        return {
            "question": item.text,
            "image": item.image,
            "prediction": text,
            "box": box,
            "answer": write_box(item.box),
            "iou": overlap,
            "score": float(overlap > LEAST_IOU),
        }

    def _opener(self, item: Item) -> Callable[[], list[Image]]:
        def pictures() -> list[Image]:
            from inlay.data.vision.files import open_image, resolve

            name = item.image
            if not (self.image_folder / name).exists():
                name = Path(name).name
            folder = self.image_folder
            return [open_image(resolve(ImageRef(name, None, item.place), str(folder), folder))]

        return pictures


def _item(row: Row) -> Item:
    place = f"{row.file}, line {row.line}"
    try:
        if not isinstance(row.value, dict):
            raise DataError(f"expected an object, found {row.value!r:.80}")
        text = row.value.get("sents")
        if not isinstance(text, str) or not text.strip():
            raise DataError(f"expected a text as 'sents', found {text!r:.80}")
        box = text_box(row.value.get("bbox"), *size_of(row.value))
        return Item(text, box, _image(row.value), place)
    except DataError as error:
        raise DataError(f"{place}: {error}") from None


def _image(row: dict[str, Any]) -> str:
    name, number = row.get("image"), row.get("img_id")
    if isinstance(name, str) and name:
        return name
    parts = number.split("_") if isinstance(number, str) else []
    if len(parts) < 2:
        raise DataError(
            f"expected 'image' (a path) or 'img_id' (COCO_train2014_000000581857_16), found "
            f"{number!r:.80}"
        )
    return f"{PICTURES}/{parts[-2]}.jpg"
