"""Plain phrase sets: captions with marked phrases and masks, as ``inlay scenes`` writes them.

A row of JSON or JSON lines is::

    {"image": "a.png", "width": 64, "height": 48,
     "caption": "A red disc and a cup.",
     "phrases": [{"text": "A red disc", "start": 0, "end": 10, "object": 0}],
     "objects": [{"bbox": [left, top, width, height], "segmentation": polygons or run lengths}]}

``width`` and ``height`` may be missing, ``start`` and ``end`` too: the text is then looked for in
the caption, behind the phrase before it. Without a caption the phrases stand one after the other,
a full stop behind each. In place of ``object`` a phrase may have ``objects`` (their union is
meant) or a ``segmentation`` of its own.

A COCO file is read, too: phrases are the ``tokens_positive`` of its annotations (spans of the
picture's ``caption``), or their ``phrase``, or the names of their categories. Annotations of one
picture with the same phrase are joined.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from inlay.core.errors import DataError
from inlay.data.grounding.files import PictureFiles
from inlay.data.grounding.masks import Counts, Size, compress, union
from inlay.data.grounding.source import Entry, GroundingSource, Words, by_id, size_of
from inlay.data.json_rows import Row
from inlay.data.readers import Reader, open_local
from inlay.data.report import Dropped

Span = tuple[int, int]
"""First character of a phrase and the one behind it."""


@dataclass(frozen=True)
class PhraseRow(Entry):
    """A caption in pieces.

    Attributes:
        words: its pieces, each with the number of its mask or -1.
        counts: for each mask the compressed masks of its objects.
    """

    words: tuple[Words, ...]
    counts: tuple[tuple[Counts, ...], ...]


class PhraseSet(GroundingSource):
    """One entry for each row that has a phrase with a mask; the others are left out and counted.

    A phrase with boxes only stays in the caption without a mask, and is counted.

    Args:
        path: a JSON or JSON-lines file, a folder or glob of these, or a COCO file.
        image_folder: where names of pictures start, see ``PictureFiles``.
        path_mapping: see ``PictureFiles``.
        weight, repeat: share of an epoch, see ``inlay.data.sources.Source``.

    Raises:
        DataError: a file is missing or malformed.
    """

    is_text = True

    def __init__(
        self,
        path: str | Path,
        image_folder: str | Path,
        *,
        path_mapping: Mapping[str, str] | None = None,
        weight: float | None = None,
        repeat: float = 1,
    ) -> None:
        super().__init__(str(path), PictureFiles(image_folder, path_mapping), weight, repeat)
        self._reader: Reader = open_local(str(path), "train")
        self._rows: list[PhraseRow] = []
        for row in _rows(self._reader):
            self.report.rows += 1
            with self.report.losing(row):
                self._rows.append(self._entry(row))
                self.report.kept += 1
        self._take(self._rows, [len(row.counts) for row in self._rows], [1] * len(self._rows))

    def pieces(self, index: int, epoch: int = 0) -> list[Words]:
        """Return the caption cut at its phrases, the same in every epoch."""
        return list(self._rows[index].words)

    def masks(self, index: int) -> np.ndarray:
        """Return uint8 ``[M, H, W]``: for each phrase the union of its objects."""
        row = self._rows[index]
        return np.stack([union(counts, row.size) for counts in row.counts])

    def content(self) -> str:
        """Fingerprint of the files."""
        return self._reader.content()

    def _entry(self, row: Row) -> PhraseRow:
        if row.problem is not None:
            raise DataError(row.problem)
        try:
            return self._made(row, row.value)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"not a row of a phrase set: {error!r}") from None

    def _made(self, row: Row, value: dict[str, Any]) -> PhraseRow:
        phrases = value.get("phrases") or ()
        if not phrases:
            raise Dropped("rows without phrases")
        image, where = value["image"], f"{row.file}, row {row.line}"
        if not isinstance(image, str):
            raise DataError(f"the name of a picture is text, found {image!r}")
        self.files.check(image, where)
        known = "width" in value and "height" in value
        size = size_of(value) if known else self.files.size(image, where)
        objects = value.get("objects") or ()
        counts = [_masks(phrase, objects, size) for phrase in phrases]
        numbers = np.cumsum([bool(c) for c in counts]) - 1
        if numbers[-1] < 0:
            raise Dropped("rows without a mask")
        if boxes := counts.count(()):
            why = "phrases with a box only (kept as words)"
            self.report.dropped[why] = self.report.dropped.get(why, 0) + boxes
        names = [int(n) if c else -1 for n, c in zip(numbers, counts, strict=True)]
        words = _words(value.get("caption") or "", phrases, names)
        kept = tuple(c for c in counts if c)
        return PhraseRow(image, size, row.file, row.line, tuple(words), kept)


def cut_caption(caption: str, spans: Sequence[tuple[Span, int]]) -> list[Words]:
    """Cut a caption at its phrases; the pieces joined are the caption.

    Spaces stand in front of the piece that follows them, as byte-level tokenizers have it.

    Args:
        spans: each phrase's place in the caption, and the number of its mask or -1.

    Raises:
        DataError: a span is empty or outside of the caption, or two overlap.
    """
    found: list[Words] = []
    position = 0
    for (start, end), number in sorted(spans):
        if not 0 <= start < end <= len(caption):
            raise DataError(
                f"a phrase from character {start} to {end} in a caption of {len(caption)}"
            )
        if start < position:
            raise DataError(f"two phrases overlap at {caption[start:end]!r} (character {start})")
        begin = position + len(caption[position:start].rstrip())
        if begin > position:
            found.append((caption[position:begin], -1))
        found.append((caption[begin:end], number))
        position = end
    if position < len(caption):
        found.append((caption[position:], -1))
    return found


def _words(caption: str, phrases: Sequence[Any], names: list[int]) -> list[Words]:
    if not caption.strip():
        return [
            piece
            for number, (phrase, name) in enumerate(zip(phrases, names, strict=True))
            for piece in ((" " * bool(number) + _text(phrase), name), (".", -1))
        ]
    spans: list[tuple[Span, int]] = []
    behind = 0
    for phrase, name in zip(phrases, names, strict=True):
        places = _places(phrase, caption, behind)
        spans += [(place, name) for place in places]
        behind = max(end for _, end in places)
    return cut_caption(caption, spans)


def _places(phrase: dict[str, Any], caption: str, behind: int) -> list[Span]:
    """Where a phrase stands in a caption."""
    if "spans" in phrase:
        return [(int(start), int(end)) for start, end in phrase["spans"]]
    text = _text(phrase)
    if "start" in phrase:
        start = phrase["start"]
        end = phrase.get("end", start + len(text))
        if caption[start:end] != text:
            raise DataError(
                f"the phrase {text!r} is not what the caption has from character {start} to {end}: "
                f"{caption[start:end]!r}"
            )
        return [(start, end)]
    start = caption.find(text, behind)
    if start < 0:
        raise DataError(f"the phrase {text!r} is not in the caption behind character {behind}")
    return [(start, start + len(text))]


def _text(phrase: dict[str, Any]) -> str:
    if not phrase["text"].strip():
        raise DataError("a phrase has no text")
    return phrase["text"]


def _masks(phrase: dict[str, Any], objects: Sequence[Any], size: Size) -> tuple[Counts, ...]:
    """The masks of what a phrase names; none where one of them has a box only."""
    numbers = phrase["objects"] if "objects" in phrase else [phrase.get("object")]
    named = [phrase] if numbers == [None] else [_object(objects, number) for number in numbers]
    found = []
    for thing in named:
        if not thing.get("segmentation"):
            if not thing.get("bbox"):
                raise DataError(
                    f"the phrase {phrase.get('text')!r} has neither an object, a segmentation nor "
                    "a bbox"
                )
            return ()
        try:
            found.append(compress(thing["segmentation"], size))
        except DataError as error:
            name = f"annotation {thing['id']}" if "id" in thing else f"{phrase.get('text')!r}"
            raise DataError(f"{name}: {error}") from None
    return tuple(found)


def _object(objects: Sequence[Any], number: Any) -> dict[str, Any]:
    if type(number) is not int or not 0 <= number < len(objects):
        raise DataError(f"a phrase names object {number!r}, the row has {len(objects)}")
    return objects[number]


def _rows(reader: Reader) -> Iterator[Row]:
    """The rows of a source; a COCO file has one for each picture."""
    for row in reader.rows():
        value = row.value
        if isinstance(value, dict) and "images" in value and "annotations" in value:
            yield from _rows_of_coco(row)
        else:
            yield row


def _rows_of_coco(row: Row) -> Iterator[Row]:
    value = row.value
    images = by_id(value, "images", row.file)
    by_id(value, "annotations", row.file)
    names = {c.get("id"): c.get("name") for c in value.get("categories") or ()}
    objects: dict[Any, list[dict[str, Any]]] = {number: [] for number in images}
    for annotation in value["annotations"]:
        objects.setdefault(annotation.get("image_id"), []).append(annotation)
    for line, (number, image) in enumerate(images.items(), 1):
        yield Row(row.file, line, _row_of_coco(image, objects[number], names))


def _row_of_coco(
    image: dict[str, Any], objects: list[dict[str, Any]], names: dict[Any, Any]
) -> dict[str, Any]:
    phrases: dict[Any, dict[str, Any]] = {}
    caption = image.get("caption") or ""
    for number, thing in enumerate(objects):
        spans = [tuple(span) for span in thing.get("tokens_positive") or ()]
        text = thing.get("phrase") or names.get(thing.get("category_id")) or ""
        key = tuple(spans) or text
        made = {"spans": spans} if spans else {"text": text}
        phrases.setdefault(key, {**made, "objects": []})["objects"].append(number)
    if not any("phrase" in o or "tokens_positive" in o for o in objects):
        caption = ""  # names of categories are not words of the caption
    row: dict[str, Any] = {key: image[key] for key in ("width", "height") if key in image}
    row |= {"image": image.get("file_name"), "caption": caption}
    return row | {"phrases": list(phrases.values()), "objects": objects}
