"""Masks drawn over a picture, and the words that they belong to in the same colours."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlay.core.io import write_json
from inlay.core.rle import encode_mask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray
    from PIL.Image import Image
    from rich.text import Text

Colour = tuple[int, int, int]
"""Red, green, blue in 0..255."""

# Okabe and Ito's colours, told apart with any colour vision: "Color Universal Design", 2008.
_DISTINCT: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
_WHITE = (0.9505, 1.0, 1.089)
_FILL = 0.5
_PX_PER_LINE = 320
_LEAST_SIDE = 400


def palette(count: int) -> list[Colour]:
    """Return ``count`` colours, always the same; the first seven suit any colour vision.

    Each further one is the colour of a grid of 343 that looks least like all before it; they come
    round again when the grid is used up.
    """
    if count <= len(_DISTINCT):
        return list(_DISTINCT[:count])
    colours = _all_colours()
    return [colours[number % len(colours)] for number in range(count)]


@lru_cache(maxsize=1)
def _all_colours() -> list[Colour]:
    import numpy as np

    levels = np.linspace(20, 235, 7).round().astype(int)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1).reshape(-1, 3)
    colours = np.concatenate([np.array(_DISTINCT), grid])
    places = _perceived(colours)
    taken = list(range(len(_DISTINCT)))
    distances = np.linalg.norm(places[:, None] - places[taken], axis=-1).min(1)
    while distances.max() > 0:
        taken.append(int(distances.argmax()))
        distances = np.minimum(distances, np.linalg.norm(places - places[taken[-1]], axis=-1))
    return [(int(red), int(green), int(blue)) for red, green, blue in colours[taken]]


def _perceived(colours_N3: NDArray[np.int_]) -> NDArray[np.float64]:
    """sRGB in CIELAB (white D65), where distances are those that people see."""
    import numpy as np

    share = colours_N3 / 255
    linear = np.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    x, y, z = (linear @ np.array(_XYZ).T / np.array(_WHITE)).T
    f_x, f_y, f_z = (np.where(v > 0.008856, np.cbrt(v), 7.787 * v + 16 / 116) for v in (x, y, z))
    return np.stack([116 * f_y - 16, 500 * (f_x - f_y), 200 * (f_y - f_z)], -1)


def enlarged(image: Image, masks_MHW: NDArray[np.bool_]) -> tuple[Image, NDArray[np.bool_]]:
    """Return a picture and its masks a whole number of times as large, where it is too small for
    outlines and a legend."""
    times = max(1, _LEAST_SIDE // max(image.size))
    large = image.resize((times * image.width, times * image.height))
    return large, masks_MHW.repeat(times, 1).repeat(times, 2)


def draw(
    image: Image,
    masks: NDArray[np.bool_],
    colours: Sequence[Colour],
    labels: Sequence[str] | None = None,
) -> Image:
    """Return an RGB copy of a picture with its masks half transparent and outlined.

    Small masks lie over large ones.

    Args:
        masks: bool ``[M, H, W]`` at the picture's size.
        colours: one a mask.
        labels: one a mask: a legend is added below the picture.

    Raises:
        ValueError: masks of another size, or not one colour (and label) for each.
    """
    import numpy as np
    from PIL import Image as pil

    masks = np.asarray(masks, bool)
    if masks.shape != (len(colours), image.height, image.width):
        raise ValueError(
            f"expected {len(colours)} masks, one for each colour, of {image.height} rows and "
            f"{image.width} columns; found shape {masks.shape}"
        )
    pixels = np.asarray(image.convert("RGB"), np.float32).copy()
    width = max(1, round(max(image.size) / _PX_PER_LINE))
    for index in np.argsort(-masks.sum((1, 2)), kind="stable"):
        colour = np.array(colours[index], np.float32)
        inside = masks[index]
        pixels[inside] = pixels[inside] * (1 - _FILL) + colour * _FILL
        pixels[_outline(inside, width)] = colour
    drawn = pil.fromarray(pixels.round().astype(np.uint8))
    return drawn if labels is None else _with_legend(drawn, colours, labels)


def outlined(mask_HW: NDArray[np.bool_], colour: Colour) -> Image:
    """Return a mask as a picture to lay over another one, as ``draw`` would: half transparent
    inside, opaque at the edge, clear elsewhere. Three colours in a palette keep its file small.
    """
    import numpy as np
    from PIL import Image as pil

    width = max(1, round(max(mask_HW.shape) / _PX_PER_LINE))
    layer = mask_HW.astype(np.uint8) + _outline(mask_HW, width)
    image = pil.fromarray(layer)
    image.putpalette(colour * 3)
    image.info["transparency"] = bytes([0, round(255 * _FILL), 255])
    return image


def _outline(mask_HW: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The ``width`` outermost px of a mask; beyond the picture's border nothing is inside."""
    import numpy as np

    inner = mask_HW
    for _ in range(width):
        padded = np.pad(inner, 1)
        inner = inner & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask_HW & ~inner


def _with_legend(image: Image, colours: Sequence[Colour], labels: Sequence[str]) -> Image:
    """Rows of a swatch and a label each, under the picture; a label that is too wide is cut."""
    from PIL import Image as pil
    from PIL import ImageDraw, ImageFont

    size = min(max(round(image.width / 40), 11), 28)
    font, gap, line = ImageFont.load_default(size), size // 2, round(1.6 * size)
    places: list[tuple[int, int, str]] = []
    x, y = gap, gap // 2
    for label in labels:
        text = _fitting(label, image.width - 4 * gap - size, font)
        width = size + gap + round(font.getlength(text))
        if x > gap and x + width + gap > image.width:
            x, y = gap, y + line
        places.append((x, y, text))
        x += width + 2 * gap
    height = y + line if places else 0
    page = pil.new("RGB", (image.width, image.height + height), "white")
    page.paste(image)
    brush = ImageDraw.Draw(page)
    for (x, y, text), colour in zip(places, colours, strict=True):
        top = image.height + y
        brush.rectangle((x, top, x + size - 1, top + size - 1), fill=colour)
        brush.text((x + size + gap, top + size / 2), text, "black", font, anchor="lm")
    return page


def _fitting(text: str, width: float, font: Any) -> str:
    """A label on one line, its end cut off where it is wider than ``width`` px."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text.rstrip() + "…"


def colour_words(text: str, spans: Sequence[tuple[int, int]], colours: Sequence[Colour]) -> Text:
    """Return a text for the terminal, each span on its colour; black or white, whichever is read
    better.

    Args:
        spans: ``(start, end)`` in characters, one a colour.
    """
    from rich.text import Text

    coloured = Text(text)
    for (start, end), (red, green, blue) in zip(spans, colours, strict=True):
        is_light = 0.299 * red + 0.587 * green + 0.114 * blue > 128
        ink = "rgb(0,0,0)" if is_light else "rgb(255,255,255)"
        coloured.stylize(f"{ink} on rgb({red},{green},{blue})", start, end)
    return coloured


def mask_records(
    phrases: Sequence[str], scores: ArrayLike, masks: NDArray[np.bool_]
) -> list[dict[str, Any]]:
    """Return ``{phrase, score, rle: {size, counts}}`` of each mask; the size is height and width.

    Args:
        scores: ``[M]``, higher is surer.
        masks: bool ``[M, H, W]``.
    """
    import numpy as np

    return [
        {"phrase": phrase, "score": round(float(score), 6), "rle": encode_mask(mask)}
        for phrase, score, mask in zip(phrases, np.asarray(scores), masks, strict=True)
    ]


def write_masks(
    path: str | Path, phrases: Sequence[str], scores: ArrayLike, masks: NDArray[np.bool_]
) -> None:
    """Write ``mask_records`` as JSON."""
    write_json(path, mask_records(phrases, scores, masks))
