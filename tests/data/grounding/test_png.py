"""Panoptic narrative grounding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from inlay.core.errors import ConfigError, DataError
from inlay.data import PNG
from inlay.data.grounding.png import Phrase


@pytest.fixture
def load(narratives, tmp_path):
    def load(*rows, **options):
        return PNG(**narratives(list(rows)), **{"local_path": tmp_path / "photos", **options})

    return load


def test_narrative(load, examples):
    source = load(examples.narrative)
    assert source.pieces(0) == [
        ("A", -1),
        (" dog", 0),
        (" under the", -1),
        (" sky", 1),
        (" with", -1),
        (" animals", 2),
        (".", -1),
    ]
    left, right_top = np.zeros((20, 40), np.uint8), np.zeros((20, 40), np.uint8)
    left[:, :20], right_top[:10, 20:] = 1, 1
    masks = source.masks(0)
    assert masks.dtype == np.uint8
    assert np.array_equal(masks, np.stack([left, right_top, 1 - right_top]))
    assert source.phrases(0) == (
        Phrase((1_000_000,), False, True),
        Phrase((70_000,), False, False),
        Phrase((1_000_000, 5), True, True),
    )
    assert (source.num_masks.tolist(), source.periods.tolist()) == ([3], [1])
    assert source.image(0).size == (40, 20)


def test_narratives_without_masks_are_left_out(load, examples):
    empty = {"image_id": 9, "segments": [examples.said("Nothing here.")]}
    source = load(empty, examples.narrative, empty)
    assert len(source) == 1
    assert source.report.dropped == {"narratives without a mask": 2}
    assert source.pieces(0)[1] == (" dog", 0)
    source.report.check(0)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([(" dog", 4)], r"picture 9 has no panoptic segment \[4\]"),
        ([(" ", 5)], "has no text"),
        ([(" dog", "x")], "not a narrative"),
    ],
)
def test_bad_narratives(load, examples, segments, message):
    bad = {"image_id": "9", "segments": [examples.said(*segment) for segment in segments]}
    source = load(examples.narrative, bad)
    assert len(source) == 1
    with pytest.raises(DataError, match=rf"png\.json, line 2: .*{message}"):
        source.report.check(0)


def test_bad_rows_of_other_kinds(load, examples):
    rows = [3, {"image_id": "9"}, {**examples.narrative, "image_id": "10"}]
    report = load(*rows).report
    assert report.bad == 3
    assert "no picture 10" in report.bad_rows[2]["reason"]


def test_missing_files(load, narratives, examples, tmp_path):
    source = load(examples.narrative)
    assert len(source) == 1
    (tmp_path / "maps" / "9.png").rename(tmp_path / "maps" / "8.png")
    files = {**narratives([examples.narrative]), "local_path": tmp_path / "photos"}
    (tmp_path / "maps" / "9.png").unlink()
    with pytest.raises(DataError, match=r"line 1: .*'9\.png' is not a file"):
        PNG(**files).report.check(0)
    with pytest.raises(DataError, match="panoptic annotations of PNG: there is no file"):
        PNG(**{**files, "panoptic_json_file": tmp_path / "none.json"})
    with pytest.raises(DataError, match="panoptic_png_path: there is no folder"):
        PNG(**{**files, "panoptic_png_path": tmp_path / "none"})
    with pytest.raises(DataError, match="narratives of PNG: there is no file"):
        PNG(**{**files, "json_file": tmp_path / "none.json"})
    with pytest.raises(ConfigError, match="needs a folder of pictures"):
        PNG(**narratives([]))
    with pytest.raises(ConfigError, match="two names of one folder"):
        PNG(**files, image_folder=tmp_path)


def test_maps_that_do_not_fit(load, examples, tmp_path):
    source = load(examples.narrative)
    path = tmp_path / "maps" / "9.png"
    Image.new("RGB", (40, 20)).save(path)
    with pytest.raises(DataError, match=r"row 1: an empty mask: .*'9\.png' .*\[1000000\]"):
        source.masks(0)
    Image.new("RGB", (40, 21)).save(path)
    with pytest.raises(DataError, match=r"'9\.png' is 40 x 21 px, its picture 40 x 20"):
        source.masks(0)


def test_ceph_path(load, examples, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    load(examples.narrative)
    red = tmp_path / "red.jpg"
    Image.new("RGB", (40, 20), "red").save(red)
    memory.pipe("/coco/9.jpg", red.read_bytes())
    source = load(examples.narrative, ceph_path="openmmlab:memory://coco")
    assert source.image(0).getpixel((3, 3))[0] > 200
    assert load(examples.narrative).image(0).getpixel((3, 3))[2] > 200
    memory.rm("/coco", recursive=True)
    folder = load(examples.narrative, ceph_path="nosuch://coco")
    assert Path(folder.files.folder) == tmp_path / "photos"


def test_content(load, examples):
    base = load(examples.narrative).content()
    assert load(examples.narrative).content() == base
    assert load(examples.narrative, examples.narrative).content() != base
