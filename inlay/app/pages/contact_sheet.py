"""The pictures of samples on one PNG, each with its number, its size and what is trained on it."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlay.app.pages.sample_view import Box, boxes, runs
from inlay.core.errors import DataError
from inlay.core.io import write_bytes
from inlay.core.types import ImageProcessor, Sample
from inlay.data.vision.files import open_image

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 256
"""Side of a picture's place, px."""
_GAP, _LINE, _LINES, _LETTERS = 12, 16, 4, 38  # px, px, lines of a caption, letters of a line
_MOST_COLUMNS = 8


def write_contact_sheet(
    path: Path, samples: Sequence[Sample], tokenizer: Any, processor: ImageProcessor | None
) -> None:
    """Write a PNG with a place for every picture of ``samples``, row by row.

    Raises:
        DataError: there is no picture in them, or one cannot be opened.
    """
    from PIL import Image, ImageDraw, ImageFont

    found: list[tuple[Box, list[str]]] = []
    for number, sample in enumerate(samples):
        in_sample = boxes(sample, processor)
        parts = runs(sample, tokenizer, in_sample)
        trained = " ".join(str(part) for is_trained, part in parts if is_trained)
        found += [(box, _caption(number, box, trained)) for box in in_sample]
    if not found:
        raise DataError(f"there is no picture in the first {len(samples)} samples; show more (-n)")
    columns = min(math.ceil(math.sqrt(len(found))), _MOST_COLUMNS)
    rows = math.ceil(len(found) / columns)
    width, height = SIDE + _GAP, SIDE + _LINES * _LINE + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for place, (box, caption) in enumerate(found):
        row, column = divmod(place, columns)
        left, top = _GAP + column * width, _GAP + row * height
        image = _scaled(open_image(box.ref))
        sheet.paste(image, (left + (SIDE - image.width) // 2, top + SIDE - image.height))
        for line, text in enumerate(caption):
            draw.text((left, top + SIDE + 2 + line * _LINE), text, "black", font)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def _scaled(image: Image) -> Image:
    """Fit a picture into its place; a small one keeps its pixels."""
    image.thumbnail((SIDE, SIDE))
    return image


def _caption(number: int, box: Box, trained: str) -> list[str]:
    """A line of facts, then the start of the trained text."""
    facts = f"{number}: {box.width}x{box.height}, {box.stop - box.start} tokens"
    return [facts, *textwrap.wrap(trained, _LETTERS, max_lines=_LINES - 1, placeholder=" ...")]
