"""Overlays: pixels, colours and run lengths, each against what they must be."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco
from rich.console import Console

from inlay.chat.overlay import colour_words, draw, mask_records, palette, write_masks
from inlay.core.rle import box_of, decode_mask, encode_mask


@pytest.fixture
def masks() -> np.ndarray:
    found = np.zeros((2, 40, 60), bool)
    found[0, 5:35, 5:55] = True
    found[1, 10:20, 10:30] = True
    return found


def test_fill_outline_and_the_rest_of_the_picture(masks: np.ndarray) -> None:
    image = Image.new("RGB", (60, 40), (100, 100, 100))
    red, blue = (200, 0, 0), (0, 0, 200)
    pixels = np.asarray(draw(image, masks, [red, blue]))
    assert pixels.shape == (40, 60, 3)
    assert tuple(pixels[0, 0]) == (100, 100, 100)
    assert tuple(pixels[5, 30]) == red and tuple(pixels[10, 15]) == blue, "outlines"
    assert tuple(pixels[30, 50]) == (150, 50, 50), "half transparent"
    assert tuple(pixels[15, 20]) == (75, 25, 125), "the small one lies over the large one"
    swapped = draw(image, masks[::-1], [blue, red])
    assert np.array_equal(np.asarray(swapped), pixels), "whatever their order"
    assert image.getpixel((30, 20)) == (100, 100, 100), "a copy is drawn on"


def test_a_mask_at_the_border_and_an_empty_one(masks: np.ndarray) -> None:
    image = Image.new("RGB", (60, 40), (100, 100, 100))
    whole = np.ones((1, 40, 60), bool)
    pixels = np.asarray(draw(image, whole, [(0, 0, 0)]))
    assert not pixels[0].any() and not pixels[:, -1].any() and pixels[1, 1].tolist() == [50] * 3
    empty = np.zeros((1, 40, 60), bool)
    assert draw(image, empty, [(0, 0, 0)]).tobytes() == image.tobytes()
    assert draw(image, empty[:0], []).tobytes() == image.tobytes()
    with pytest.raises(ValueError, match=r"expected 1 masks, .* found shape \(2, 40, 60\)"):
        draw(image, masks, [(0, 0, 0)])


def test_a_legend_is_added_below(masks: np.ndarray) -> None:
    image = Image.new("RGB", (60, 40), (100, 100, 100))
    colours = palette(2)
    bare = draw(image, masks, colours)
    drawn = draw(image, masks, colours, ["a dog", "a very long phrase\nthat does not fit"])
    assert drawn.width == 60 and drawn.height > 40
    assert drawn.crop((0, 0, 60, 40)).tobytes() == bare.tobytes()
    legend = {colour for _, colour in drawn.crop((0, 40, 60, drawn.height)).getcolors(10**6)}
    assert set(colours) <= legend and any(max(ink) < 40 for ink in legend), "swatches and text"
    repeated = draw(image, masks, colours, ["a dog", "a very long phrase\nthat does not fit"])
    assert repeated.tobytes() == drawn.tobytes()
    assert draw(image, masks[:0], [], []).size == (60, 40)


def lightness_and_hue(rgb: tuple[int, int, int], sees_red: bool = True) -> np.ndarray:
    """CIELAB after linear sRGB; without ``sees_red`` as a protanope sees (Vienot et al., 1999)."""
    share = np.array(rgb) / 255
    linear = np.where(share > 0.04045, ((share + 0.055) / 1.055) ** 2.4, share / 12.92)
    if not sees_red:
        simulated = [[0.11238, 0.88762, 0], [0.11238, 0.88762, 0], [0.00401, -0.00401, 1]]
        linear = np.clip(np.array(simulated) @ linear, 0, 1)
    to_xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x, y, z = np.array(to_xyz) @ linear / [0.9505, 1, 1.089]
    fx, fy, fz = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array([116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)])


def nearest(colours: list[tuple[int, int, int]], sees_red: bool = True) -> float:
    places = [lightness_and_hue(colour, sees_red) for colour in colours]
    return min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(places, 2))


def test_colours_can_be_told_apart() -> None:
    assert palette(0) == [] and palette(3) == palette(30)[:3] == palette(3)
    assert nearest(palette(30)) > 20, "2.3 is a just noticeable difference"
    assert nearest(palette(7), sees_red=False) > 9
    assert len(set(palette(300))) == 300
    assert len(palette(1000)) == 1000


def test_words_have_their_masks_colour() -> None:
    colours = palette(2)
    text = colour_words("a dog on [b]grass", [(0, 5), (12, 17)], colours)
    assert text.plain == "a dog on [b]grass"
    out = io.StringIO()
    Console(file=out, force_terminal=True, color_system="truecolor", width=80).print(text)
    first, second = (";".join(map(str, colour)) for colour in colours)
    assert f"48;2;{first}ma dog\x1b[0m on [b]" in out.getvalue()
    assert f"48;2;{second}mgrass\x1b[0m" in out.getvalue()
    plain = io.StringIO()
    Console(file=plain).print(text)
    assert plain.getvalue() == "a dog on [b]grass\n"


def test_masks_as_run_lengths(masks: np.ndarray, tmp_path: Path) -> None:
    random = np.random.default_rng(0).random((3, 31, 17)) < 0.4
    for mask in [*masks, *random, np.zeros((5, 7), bool), np.ones((5, 7), bool)]:
        rle = json.loads(json.dumps(encode_mask(mask)))
        assert rle["size"] == list(mask.shape)
        assert np.array_equal(coco.decode(rle), mask) and np.array_equal(decode_mask(rle), mask)
    assert box_of(encode_mask(masks[1])) == (10, 10, 30, 20)
    assert box_of(encode_mask(np.zeros((5, 7), bool))) is None
    write_masks(tmp_path / "m.json", ["a dog", "gras ü"], np.array([0.5, 0.25]), masks)
    found = json.loads((tmp_path / "m.json").read_text(encoding="utf-8"))
    assert [row["phrase"] for row in found] == ["a dog", "gras ü"]
    assert found[1] == {"phrase": "gras ü", "score": 0.25, "rle": encode_mask(masks[1])}
    assert mask_records([], np.zeros(0), masks[:0]) == []
