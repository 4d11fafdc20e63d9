"""RefCOCO: expressions by picture, all sentences over epochs, no target, several, boxes only."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from inlay.core.errors import ConfigError, DataError
from inlay.data import RefCOCO


def box(left, top, side, size=(40, 30)):
    mask = np.zeros(size[::-1], np.uint8)
    mask[top : top + side, left : left + side] = 1
    return mask


def texts(source, index, epoch):
    return [text for text, number in source.pieces(index, epoch) if number >= 0]


def test_entries(coco):
    source = RefCOCO(**coco())
    assert [entry.image for entry in source.entries] == ["seven.png", "eight.png"]
    assert source.entries[0].size == (40, 30)
    assert source.num_masks.tolist() == [4, 1]
    assert source.pieces(0) == [
        ("the left box", 0),
        (".", -1),
        ("the other", 1),
        (".", -1),
        ("both boxes", 2),
        (".", -1),
        ("a dog", 3),
        (".", -1),
    ]
    assert source.image(0).size == (40, 30)
    assert source.image(0).mode == "RGB"


def test_masks(coco):
    source = RefCOCO(**coco())
    masks = source.masks(0)
    assert masks.dtype == np.uint8
    left, right = box(2, 3, 10), box(20, 10, 8)
    expected = [left, right, left | right, np.zeros((30, 40))]
    assert np.array_equal(masks, np.stack(expected))
    assert np.array_equal(source.masks(1), box(5, 5, 6, (90, 20))[None])


def test_every_sentence_is_seen_and_captions_repeat(coco):
    source = RefCOCO(**coco())
    assert source.periods.tolist() == [3, 1]
    epochs = [texts(source, 0, epoch) for epoch in range(9)]
    assert epochs[:3] == epochs[3:6] == epochs[6:]
    seen = [set(column) for column in zip(*epochs[:3], strict=True)]
    assert seen == [
        {"the left box", "box on the left", "left"},
        {"right box", "the other"},
        {"both boxes"},
        {"a dog"},
    ]
    assert {tuple(texts(source, 1, epoch)) for epoch in range(4)} == {("a tile",)}


@pytest.mark.parametrize("counts", [(3, 2), (5, 4, 3, 2, 1), (1, 1), (4, 4, 4), (7, 2, 5)])
def test_as_many_epochs_as_the_most_sentences(coco, examples, counts):
    refs = [
        examples.ref(n, 7, 1, *(f"{n} {s}" for s in range(count))) for n, count in enumerate(counts)
    ]
    source = RefCOCO(**coco(refs))
    (period,) = source.periods
    assert period == max(counts)
    seen = {text for epoch in range(period) for text in texts(source, 0, epoch)}
    assert len(seen) == sum(counts)
    for epoch in range(period):
        assert source.pieces(0, epoch) == source.pieces(0, epoch + period)
        assert len(texts(source, 0, epoch)) == source.num_masks[0] == len(counts)


def test_first_sentences_only(coco):
    source = RefCOCO(**coco(), sentences="first")
    assert source.periods.tolist() == [1, 1]
    for epoch in range(3):
        assert texts(source, 0, epoch) == ["the left box", "right box", "both boxes", "a dog"]


def test_expressions_for_evaluation(coco):
    pictures = list(RefCOCO(**coco()).expressions())
    assert [picture.image_id for picture in pictures] == [7, 8]
    first, second = pictures
    assert [r.ref_id for r in first.references] == [0, 2, 3, 4]
    assert first.references[0].sentences == ("the left box", "box on the left", "left")
    assert first.references[2].box == (2, 3, 28, 18)
    assert first.references[3].box is None
    assert not first.references[3].mask().any()
    only = second.references[1]
    assert (only.ref_id, only.mask(), only.box) == (5, None, (50, 2, 60, 12))


def test_boxes_only_are_counted(coco):
    report = RefCOCO(**coco()).report
    assert (report.rows, report.kept, report.bad) == (6, 5, 0)
    assert report.dropped == {"expressions with a box only (kept for evaluation)": 1}
    assert (report.entries, report.masks) == (2, 5)
    assert "6 rows read, 5 kept: 2 pictures with 5 masks" in str(report)


def test_splits(coco):
    source = RefCOCO(**coco(), split="val")
    assert [entry.image for entry in source.entries] == ["eight.png"]
    with pytest.raises(DataError, match=r"no split 'vla', only train, val\. Did you mean 'val'"):
        RefCOCO(**coco(), split="vla")


def test_json_references(coco):
    files = coco()
    path = Path(files["refs"]).with_name("grefs(unc).json")
    refs = [
        {"ref_id": 1, "image_id": 7, "ann_id": [], "no_target": True, "split": "train"}
        | {"sentences": [{"raw": "a cat"}]}
    ]
    path.write_text(json.dumps(refs))
    source = RefCOCO(files["instances"], path, files["image_folder"])
    assert source.masks(0).sum() == 0
    assert source.pieces(0) == [("a cat", 0), (".", -1)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"ann_id": 5}, "annotation 5: the mask lies outside of the 90 x 20 px picture"),
        ({"ann_id": 6}, "annotation 6: the mask is empty"),
        ({"ann_id": 7}, "annotation 7: run lengths are of the size"),
        ({"ann_id": 8}, "neither a segmentation nor a bbox"),
        ({"ann_id": 99}, "no annotation 99"),
        ({"image_id": 99}, "no picture 99"),
        ({"image_id": 9}, "gone.png"),
        ({"sentences": []}, "ref 50 has no sentence"),
        ({"sentences": [{"raw": " "}]}, "ref 50 has no sentence"),
        ({"sentences": ["text"]}, "not a reference"),
        ({"image_id": [7]}, "not a reference"),
    ],
)
def test_bad_references(coco, examples, bad, message, monkeypatch):
    more = [
        {"id": 6, "image_id": 8, "segmentation": [[1.1, 1.1, 1.2, 1.1, 1.2, 1.2]]},
        {"id": 7, "image_id": 8, "segmentation": {"size": [9, 9], "counts": [81]}},
        {"id": 8, "image_id": 8, "segmentation": []},
    ]
    refs = [examples.refs[0], {**examples.ref(50, 8, 3, "broken"), **bad}]
    files = coco(refs, [*examples.annotations, *more])
    instances = json.loads(Path(files["instances"]).read_text())
    instances["images"].append({"id": 9, "file_name": "gone.png", "width": 4, "height": 4})
    Path(files["instances"]).write_text(json.dumps(instances))
    source = RefCOCO(**files)
    assert (source.report.rows, source.report.kept, source.report.bad) == (2, 1, 1)
    assert len(source) == 1
    with pytest.raises(DataError, match=rf"refs\(unc\)\.p, row 2: .*{message}|line 2: .*{message}"):
        source.report.check(0)


def test_missing_and_foreign_files(coco, tmp_path):
    files = coco()
    with pytest.raises(DataError, match=r"no file '.*instance\.json'\. Did you mean"):
        RefCOCO(**{**files, "instances": str(tmp_path / "instance.json")})
    with pytest.raises(DataError, match=r"no file .*Did you mean 'refs\(unc\)\.p'"):
        RefCOCO(**{**files, "refs": str(tmp_path / "refs(umd).p")})
    with pytest.raises(DataError, match="expected a COCO file with a list 'images'"):
        other = tmp_path / "other.json"
        other.write_text("[]")
        RefCOCO(**{**files, "instances": str(other)})
    with pytest.raises(DataError, match="expected a list of references"):
        RefCOCO(**coco({"a": 1}))
    with pytest.raises(ConfigError, match="'all' or 'first'"):
        RefCOCO(**files, sentences="frist")


def test_another_picture_than_annotated(coco, draw):
    files = coco()
    draw(Path(files["image_folder"]) / "seven.png", 41, 30)
    with pytest.raises(DataError, match=r"row 1: .*'seven\.png' is 41 x 30 px, .* of 40 x 30"):
        RefCOCO(**files).image(0)


def test_content(coco, examples):
    base = RefCOCO(**coco()).content()
    assert RefCOCO(**coco()).content() == base
    assert RefCOCO(**coco(), split="val").content() != base
    assert RefCOCO(**coco(), sentences="first").content() != base
    assert RefCOCO(**coco(examples.refs[:-1])).content() != base
