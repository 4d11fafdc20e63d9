"""Questions about pictures from a local JSON file: open ones, and multiple choice."""

from __future__ import annotations

import json
import string
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlay.core.errors import DataError
from inlay.core.types import ImageRef
from inlay.data.json_rows import Row, read_json, read_jsonl
from inlay.data.vision.rows import row_images
from inlay.evaluation.ask import Question, Reply, Result, problems
from inlay.evaluation.choices import choice_prompt
from inlay.evaluation.metrics import chosen_option, mean_by, vqa_score

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(slots=True)
class Item:
    """One row: a question and what is right.

    Attributes:
        references: right answers; the right letter alone where there are ``options``.
        options: letter -> text; empty for an open question.
    """

    place: str
    question: str
    references: list[str]
    options: dict[str, str]
    images: list[ImageRef]
    category: str | None


def load(path: Path, image_folder: Path | None = None, limit: int | None = None) -> VQA:
    """Read a JSON array, or JSON lines (``.jsonl``), of rows.

    A row has ``question``, ``answer`` (or ``answers``, texts or dicts with ``answer``), and, as
    needed, ``image`` or ``images`` (as the rows of data sets have them), ``options`` (a list, or
    letter -> text; ``answer`` is then a letter, or the text of an option), ``hint``, ``category``.

    Args:
        image_folder: where pictures are looked for; the file's own folder by default.
        limit: read the first rows only.

    Raises:
        DataError: with file and line: no JSON, a field is missing or of the wrong kind.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: there is no such file; expected questions in .json or .jsonl")
    rows = read_jsonl(str(path)) if path.suffix == ".jsonl" else read_json(str(path))
    items: list[Item] = []
    for row in rows:
        if limit is not None and len(items) == limit:
            break
        items.append(_item(row))
    if not items:
        raise DataError(f"{path}: there are no questions")
    return VQA(items, image_folder or path.absolute().parent)


class VQA:
    """The task.

    Open questions are scored as VQAv2 does, see ``metrics.vqa_score``; a question with options is
    right if the chosen one is. A question that could not be asked is a wrong one, and is named.

    Args:
        image_folder: pictures must lie inside it.
    """

    max_new_tokens = 100

    def __init__(self, items: list[Item], image_folder: Path) -> None:
        self.items = items
        self.image_folder = image_folder
        self.questions = [self._question(number, item) for number, item in enumerate(items)]

    def score(self, replies: dict[str, Reply]) -> Result:
        """Score replies: ``accuracy``, ``category`` (name -> accuracy), counts, ``not_asked``."""
        rows = [self._scored(item, replies[str(i)]) for i, item in enumerate(self.items)]
        overall = sum(row["score"] for row in rows) / len(rows)
        categories = mean_by((r["category"], r["score"]) for r in rows if r["category"])
        unasked = {self.items[int(key)].place: why for key, why in problems(replies).items()}
        scores = {
            "accuracy": overall,
            "category": categories,
            "num_questions": len(rows),
            "num_choices": sum(bool(item.options) for item in self.items),
            "not_asked": unasked,
        }
        lines = {"overall": overall, **categories}
        return Result(scores, rows, {"": {name: {"accuracy": x} for name, x in lines.items()}})

    def _question(self, number: int, item: Item) -> Question:
        text = choice_prompt(item.question, item.options) if item.options else item.question
        return Question(str(number), text, self._opener(item))

    def _opener(self, item: Item) -> Callable[[], list[Image]]:
        def pictures() -> list[Image]:
            from inlay.data.vision.files import open_image, resolve

            folder = self.image_folder
            return [open_image(resolve(image, str(folder), folder)) for image in item.images]

        return pictures

    def _scored(self, item: Item, reply: Reply) -> dict[str, Any]:
        if item.options:
            score = float(chosen_option(reply.text, item.options) == item.references[0])
        else:
            score = vqa_score(reply.text, item.references) if reply.problem is None else 0.0
        return {
            "question": item.question,
            **({"options": item.options} if item.options else {}),
            "images": [image.path for image in item.images],
            "prediction": reply.text,
            "references": item.references,
            "category": item.category,
            "score": score,
        }


def _item(row: Row) -> Item:
    place = f"{row.file}, line {row.line}"
    try:
        if row.problem is not None:
            raise DataError(row.problem)
        if not isinstance(row.value, dict):
            raise DataError(f"expected an object with question and answer, found {row.value!r:.80}")
        json.dumps(row.value, ensure_ascii=False).encode()
        question = _text(row.value, "question")
        if "hint" in row.value:
            question = f"{_text(row.value, 'hint')}\n{question}"
        options = _options(row.value.get("options"))
        references = _references(row.value)
        if options:
            references = [_right_letter(references, options)]
        images = [replace(image, place=place) for image in row_images(row.value) or ()]
        category = row.value.get("category")
    except DataError as error:
        raise DataError(f"{place}: {error}") from error
    except UnicodeEncodeError as error:
        raise DataError(f"{place}: half a surrogate pair is no text: {error}") from error
    return Item(
        place, question, references, options, images, None if category is None else str(category)
    )


def _text(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"expected a text as {name!r}, found {value!r:.80}")
    return value


def _options(value: Any) -> dict[str, str]:
    """Letter -> text; letters are given to a list's entries in order."""
    if not value:
        return {}
    if isinstance(value, list) and len(value) <= len(string.ascii_uppercase):
        value = dict(zip(string.ascii_uppercase, value, strict=False))
    letters = set(string.ascii_uppercase)
    if not isinstance(value, dict) or not value.keys() <= letters or len(value) < 2:
        raise DataError(
            f"expected 'options' as a list of two to 26 texts, or a dict from capital letters, "
            f"found {value!r:.80}"
        )
    return {letter: str(text) for letter, text in value.items()}


def _references(row: dict[str, Any]) -> list[str]:
    found = row.get("answers", row.get("answer"))
    values = found if isinstance(found, list) else [found]
    texts = [value.get("answer") if isinstance(value, dict) else value for value in values]
    if not texts or not all(isinstance(x, (str, int, float)) for x in texts):
        raise DataError(f"expected 'answer' (a text) or 'answers' (texts), found {found!r:.80}")
    return [str(text) for text in texts]


def _right_letter(references: list[str], options: dict[str, str]) -> str:
    answer = references[0].strip()
    if len(references) != 1:
        raise DataError(f"expected one answer among the options, found {len(references)}")
    if answer in options:
        return answer
    same = [letter for letter, text in options.items() if text == answer]
    if len(same) != 1:
        raise DataError(f"the answer {answer!r} is none of the options {options}")
    return same[0]
