"""Plain phrase sets: those of ``inlay scenes``, rows of one's own, COCO files."""

from __future__ import annotations

import json

import numpy as np
import pytest

from inlay.core.errors import DataError
from inlay.data import PhraseSet
from inlay.data.grounding.phrases import cut_caption
from inlay.data.scenes import build
from inlay.data.scenes.draw import mask


@pytest.fixture
def load(tmp_path, draw):
    """``load(*rows)``: a phrase set about a picture of 20 x 10 px."""

    def load(*rows, name="rows.jsonl", **options):
        draw(tmp_path / "a.png", 20, 10)
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return PhraseSet(path, tmp_path, **options)

    return load


def square(left, top, side):
    right, bottom = left + side, top + side
    return {"segmentation": [[left, top, right, top, right, bottom, left, bottom]]}


def filled(*squares):
    found = np.zeros((10, 20), np.uint8)
    for left, top, side in squares:
        found[top : top + side, left : left + side] = 1
    return found


OBJECTS = [square(1, 1, 3), square(10, 2, 5), {"bbox": [1, 2, 3, 4]}]
ROW = {
    "image": "a.png",
    "caption": "A cup, two mugs and the table.",
    "phrases": [
        {"text": "A cup", "start": 0, "end": 5, "object": 0},
        {"text": "two mugs", "objects": [0, 1]},
        {"text": "the table", "segmentation": square(3, 3, 4)["segmentation"]},
    ],
    "objects": OBJECTS,
}


def test_rows_of_scenes(tmp_path):
    path = build.write(tmp_path, "train", 24, seed=3)
    source = PhraseSet(path, tmp_path / "images")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    told = [number for number, row in enumerate(rows) if row["caption"]]
    assert 0 < len(told) < 24
    assert [entry.line - 1 for entry in source.entries] == told
    assert source.report.dropped == {"rows without phrases": 24 - len(told)}
    for index, number in enumerate(told):
        row, scene = build.row("train", 3, number)
        pieces = source.pieces(index)
        assert "".join(text for text, _ in pieces) == row["caption"]
        named = [text.lstrip(" ") for text, name in pieces if name >= 0]
        assert named == [phrase["text"] for phrase in row["phrases"]]
        masks = source.masks(index)
        for phrase, found in zip(row["phrases"], masks, strict=True):
            assert np.array_equal(found, mask(scene.things[phrase["object"]]))
        assert source.image(index).size == source.entries[index].size


def test_rows_of_ones_own(load):
    source = load(ROW)
    assert source.pieces(0) == [
        ("A cup", 0),
        (",", -1),
        (" two mugs", 1),
        (" and", -1),
        (" the table", 2),
        (".", -1),
    ]
    expected = [filled((1, 1, 3)), filled((1, 1, 3), (10, 2, 5)), filled((3, 3, 4))]
    assert np.array_equal(source.masks(0), np.stack(expected))
    assert source.entries[0].size == (20, 10), "from the picture"


def test_without_a_caption(load):
    source = load({**ROW, "caption": ""})
    assert source.pieces(0) == [
        ("A cup", 0),
        (".", -1),
        (" two mugs", 1),
        (".", -1),
        (" the table", 2),
        (".", -1),
    ]


def test_boxes_only(load):
    boxed = {"text": "A cup", "object": 2}
    source = load({**ROW, "phrases": [boxed, ROW["phrases"][1]]}, {**ROW, "phrases": [boxed]})
    assert source.pieces(0)[:3] == [("A cup", -1), (",", -1), (" two mugs", 0)]
    assert source.num_masks.tolist() == [1]
    assert source.report.dropped == {
        "phrases with a box only (kept as words)": 1,
        "rows without a mask": 1,
    }


def test_the_same_words_twice(load):
    row = {**ROW, "caption": "a cup and a cup", "phrases": [{"text": "a cup", "object": 0}] * 2}
    assert load(row).pieces(0) == [("a cup", 0), (" and", -1), (" a cup", 1)]


def test_cut_caption():
    assert cut_caption("  A b  c ", [((7, 8), 1), ((2, 3), 0)]) == [
        ("  A", 0),
        (" b", -1),
        ("  c", 1),
        (" ", -1),
    ]
    assert cut_caption("ab", [((0, 1), 0), ((1, 2), 1)]) == [("a", 0), ("b", 1)]


PHRASE = ROW["phrases"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"phrases": [{**PHRASE, "start": 2, "end": 7}]},
            "not what the caption has from .* 2 to 7",
        ),
        ({"phrases": [{**PHRASE, "text": "Cups", "start": None}]}, "not a row"),
        ({"phrases": [{"text": "cups", "object": 0}]}, "'cups' is not in the caption"),
        (
            {"phrases": [PHRASE, {**PHRASE, "start": 2, "text": "cup", "end": 5}]},
            "overlap at 'cup'",
        ),
        ({"phrases": [{"text": "A cup", "object": 3}]}, "names object 3, the row has 3"),
        ({"phrases": [{"text": "A cup"}]}, "'A cup' has neither an object"),
        ({"phrases": [{"text": " ", "object": 0}]}, "a phrase has no text"),
        ({"image": "b.png"}, "b.png"),
        ({"image": 3}, "the name of a picture is text"),
        ({"width": 0, "height": 3}, "in px, found 0 and 3"),
        ({"objects": [square(30, 3, 4), *OBJECTS[1:]]}, "'A cup': the mask lies outside"),
        ({"objects": [{**square(30, 3, 4), "id": 77}, *OBJECTS[1:]]}, "annotation 77: the mask"),
    ],
)
def test_bad_rows(load, change, message):
    source = load(ROW, {**ROW, **change})
    assert len(source) == 1
    with pytest.raises(DataError, match=rf"rows\.jsonl, line 2: .*{message}"):
        source.report.check(0)


def test_rows_that_are_no_rows(load, tmp_path):
    assert load(ROW, [1], {"phrases": [1]}).report.bad == 2
    (tmp_path / "broken.jsonl").write_text(json.dumps(ROW) + '\n{"image": \n')
    assert PhraseSet(tmp_path / "broken.jsonl", tmp_path).report.bad == 1
    with pytest.raises(DataError, match="no such file"):
        PhraseSet(tmp_path / "none.jsonl", tmp_path)


COCO = {
    "images": [
        {"id": 5, "file_name": "a.png", "width": 20, "height": 10, "caption": "Cup on a mug"}
    ],
    "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "mug"}],
}


def annotation(number, category, left, **more):
    return {"id": number, "image_id": 5, "category_id": category, **square(left, 1, 3), **more}


def test_coco_file(load):
    things = [annotation(1, 1, 0), annotation(2, 2, 5), annotation(3, 1, 10)]
    source = load({**COCO, "annotations": things}, name="coco.json")
    assert source.pieces(0) == [("cup", 0), (".", -1), (" mug", 1), (".", -1)]
    expected = [filled((0, 1, 3), (10, 1, 3)), filled((5, 1, 3))]
    assert np.array_equal(source.masks(0), np.stack(expected))


def test_coco_file_with_spans(load):
    things = [
        annotation(1, 1, 0, tokens_positive=[[0, 3]]),
        annotation(2, 2, 5, tokens_positive=[[7, 8], [9, 12]]),
        annotation(3, 1, 10, tokens_positive=[[0, 3]]),
    ]
    source = load({**COCO, "annotations": things}, name="coco.json")
    assert source.pieces(0) == [("Cup", 0), (" on", -1), (" a", 1), (" mug", 1)]
    assert np.array_equal(source.masks(0)[0], filled((0, 1, 3), (10, 1, 3)))


def test_coco_file_with_phrases(load):
    things = [annotation(1, 1, 0, phrase="Cup"), annotation(2, 2, 5, phrase="a mug")]
    source = load({**COCO, "annotations": things}, name="coco.json")
    assert source.pieces(0) == [("Cup", 0), (" on", -1), (" a mug", 1)]
