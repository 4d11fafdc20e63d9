"""Where pictures come from: folders and object storage (fsspec's, in memory)."""

from __future__ import annotations

import logging

import fsspec
import numpy as np
import pytest
from PIL import Image

from inlay.core.errors import DataError
from inlay.data.grounding import files as module
from inlay.data.grounding.files import PictureFiles, refiner_picture, storage_or_folder


@pytest.fixture
def folder(tmp_path, draw):
    (tmp_path / "train2014").mkdir()
    draw(tmp_path / "train2014" / "a.png", 9, 5, "red")
    draw(tmp_path / "outside.png", 9, 5, "green")
    return tmp_path / "train2014"


@pytest.fixture
def bucket(tmp_path, draw):
    """A folder in object storage whose ``a.png`` is blue."""
    memory = fsspec.filesystem("memory")
    memory.pipe(
        "/bucket/train2014/a.png", (tmp_path / draw(tmp_path / "b.png", 9, 5, "blue")).read_bytes()
    )
    yield "memory://bucket/train2014"
    memory.rm("/bucket", recursive=True)


def colour(files, name="a.png"):
    return files.open(name, "rows.json, row 3").getpixel((0, 0))


def test_folder(folder):
    files = PictureFiles(folder)
    assert colour(files) == (255, 0, 0)
    assert files.size("a.png", "") == (9, 5)
    files.check("a.png", "")
    for name in ("b.png", "../outside.png", str(folder.parent / "outside.png")):
        with pytest.raises(DataError, match=r"rows\.json, row 3: "):
            colour(files, name)
    with pytest.raises(DataError, match=r"rows\.json, row 3: .*is not a file"):
        files.check("b.png", "rows.json, row 3")


def test_relative_folder(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert colour(PictureFiles("train2014/")) == (255, 0, 0)


def test_object_storage(bucket):
    files = PictureFiles(bucket)
    assert colour(files) == (0, 0, 255)
    for name in ("none.png", "../a.png", "/bucket/a.png", "a.png::file:///etc/passwd"):
        with pytest.raises(DataError, match="row 3"):
            colour(files, name)


def test_path_mapping(folder, bucket, monkeypatch, caplog):
    monkeypatch.chdir(folder.parent)
    mapping = {"train2014/": f"openmmlab:{bucket}/"}
    assert colour(PictureFiles("train2014", mapping)) == (0, 0, 255)
    assert colour(PictureFiles("train2014", {"val2014/": bucket})) == (255, 0, 0)
    (folder.parent / "moved").mkdir()
    (folder / "a.png").rename(folder.parent / "moved" / "a.png")
    assert colour(PictureFiles("train2014", {"train2014/": "moved/"})) == (255, 0, 0)
    with pytest.raises(DataError, match="leads out"):
        colour(PictureFiles("train2014", {"train2014/": "moved/"}), "../outside.png")
    # without a client paths stay as they are, and it is said
    with caplog.at_level(logging.WARNING, "inlay"):
        assert colour(PictureFiles("moved", {"moved/": "nosuch://bucket/"})) == (255, 0, 0)
    assert "path_mapping is left aside" in caplog.text
    assert "nosuch" in caplog.text


def test_storage_or_folder(folder, bucket, caplog):
    assert storage_or_folder(f"openmmlab:{bucket}", folder) == f"openmmlab:{bucket}"
    assert storage_or_folder(None, folder) == folder
    with caplog.at_level(logging.WARNING, "inlay"):
        assert storage_or_folder("nosuch://bucket", folder) == folder
    assert "ceph_path is left aside" in caplog.text
    with pytest.raises(DataError, match="no client for 'nosuch'"):
        PictureFiles(storage_or_folder("nosuch://bucket", None))
    assert module.address("openmmlab:petrel://a/b") == "s3://a/b"
    assert module.address("C:/photos") == "C:/photos"


def test_keys_are_of_the_bytes(folder, bucket, monkeypatch, draw):
    files = PictureFiles(folder)
    key, _ = files.key("a.png", "")
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes())
    draw(folder / "c.png", 9, 5, "blue")
    assert files.key("b.png", "")[0] == key
    assert files.key("c.png", "")[0] != key
    assert PictureFiles(bucket).key("a.png", "")[0] == files.key("c.png", "")[0]
    with monkeypatch.context() as patch:
        patch.setattr("inlay.data.vision.files.read", lambda ref: pytest.fail("read again"))
        assert files.key("a.png", "")[0] == key
    draw(folder / "a.png", 9, 5, "white")
    assert files.key("a.png", "")[0] != key


def test_remote_pictures_are_fetched_once(bucket, monkeypatch):
    asked = []
    real = module._fetch
    monkeypatch.setattr(module, "_fetch", lambda *a: asked.append(a) or real(*a))
    files = PictureFiles(bucket)
    _, ref = files.key("a.png", "")
    assert files.open("a.png", "", ref).size == (9, 5)
    assert files.key("a.png", "")[1] is None
    assert len(asked) == 1


@pytest.mark.parametrize("size", [(640, 427), (375, 500), (31, 31), (2, 500)])
def test_refiner_picture(size):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8))
    found = refiner_picture(image, 100)
    assert found.dtype == np.uint8
    longest = max(size)
    width, height = (max(1, int(np.floor(side * 100 / longest + 0.5))) for side in size)
    assert found.shape == (3, height, width)
    expected = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    assert np.array_equal(found, expected.transpose(2, 0, 1))
