"""Sources of several parts, and pictures inside tables."""

from __future__ import annotations

import io
import logging

import datasets
import pytest
from PIL import Image

from inlay.core.errors import DataError
from inlay.data.readers import open_hub
from inlay.data.sources import Source, open_source


def png(colour):
    file = io.BytesIO()
    Image.new("RGB", (4, 3), colour).save(file, "PNG")
    return file.getvalue()


def save(folder, *texts):
    datasets.Dataset.from_list([{"text": text} for text in texts]).save_to_disk(str(folder))


def texts(source):
    return [row.value["text"] for row in open_source(source).rows()]


def test_shards_in_the_order_of_their_numbers(tmp_path):
    for number in range(11):
        save(tmp_path / f"shard_{number}", f"row {number}")
    for name in (None, "shards", ("shards",)):
        assert texts(Source(str(tmp_path), name=name)) == [f"row {n}" for n in range(11)]


def test_missing_shards_are_named(tmp_path, caplog):
    for number in (0, 2, 4):
        save(tmp_path / f"shard_{number}", f"row {number}")
    (tmp_path / "shard_4" / "state.json").write_text("broken")
    with pytest.raises(DataError, match=r"(?s)3 of 5.*shard_1.*shard_3.*shard_4.*skip_failing"):
        open_source(Source(str(tmp_path)))
    with caplog.at_level(logging.WARNING, "inlay"):
        assert texts(Source(str(tmp_path), skip_failing=True)) == ["row 0", "row 2"]
    assert [n for n in range(5) if f"shard_{n}" in caplog.text] == [1, 3, 4]


def test_subsets_of_a_folder(tmp_path, caplog):
    for name in ("ai2d", "chartqa", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "ai2d" / "a.jsonl").write_text('{"text": "a"}')
    (tmp_path / "chartqa" / "c.jsonl").write_text('{"text": "c"}')
    assert texts(Source(str(tmp_path), name=["chartqa", "ai2d"])) == ["c", "a"]
    with pytest.raises(DataError, match=r"(?s)2 of 3.*Did you mean 'ai2d'.*empty.*holds no \.json"):
        open_source(Source(str(tmp_path), name=["ai2", "chartqa", "empty"]))
    with pytest.raises(DataError, match=r"1 of 3.*\n.*empty"):
        open_source(Source(str(tmp_path), name="all"))
    with caplog.at_level(logging.WARNING, "inlay"):
        assert texts(Source(str(tmp_path), name="all", skip_failing=True)) == ["a", "c"]
    assert "empty" in caplog.text
    with pytest.raises(DataError, match="not the name of a folder"):
        open_source(Source(str(tmp_path / "ai2d"), name="../chartqa"))
    with pytest.raises(DataError, match="2 of 2"):
        open_source(Source(str(tmp_path), name=["x", "y"], skip_failing=True))


@pytest.mark.parametrize("streaming", [False, True])
def test_configurations_on_the_hub(monkeypatch, caplog, streaming):
    """Loads as the hub does, from memory."""

    def load(path, name, split, streaming):
        if name == "gone":
            raise ValueError("no such configuration")
        data = datasets.Dataset.from_list([{"text": f"{path} {name} {split}"}])
        return data.to_iterable_dataset() if streaming else data

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda path: ["a", "gone", "b"])
    found = open_source(Source("me/data", name=["b", "a"], split="val"), streaming).rows()
    assert [row.value["text"] for row in found] == ["me/data b val", "me/data a val"]
    with pytest.raises(DataError, match=r"(?s)1 of 3 parts.*me/data \(gone\).*no such config"):
        open_source(Source("me/data", name="all"), streaming)
    with caplog.at_level(logging.WARNING, "inlay"):
        reader = open_source(Source("me/data", name="all", skip_failing=True), streaming)
    assert len(list(reader.rows())) == 2
    assert "gone" in caplog.text
    assert reader.content() != open_source(Source("me/data", name="a"), streaming).content()


def test_a_subset_that_fails_at_its_first_row_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}')
    (tmp_path / "b.json").write_text("[broken")
    paths = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.json")]
    with pytest.raises(DataError, match=r"(?s)1 of 2 parts.*b\.json.*malformed JSON"):
        open_source(Source(paths))
    assert texts(Source(paths, skip_failing=True)) == ["a"]


def table(**columns):
    pictures = [{"bytes": png(c), "path": None} for c in ("red", "blue")]
    feature = datasets.Image()
    features = {
        "images": datasets.List(feature),
        "image": feature,
        "parts": datasets.List({"type": datasets.Value("string"), "image": feature}),
    }
    row = {
        "images": pictures,
        "image": pictures[0],
        "parts": [{"type": "image", "image": pictures[1]}],
    }
    return datasets.Dataset.from_list([row] * 20, features=datasets.Features(features)), row


def test_pictures_inside_a_saved_data_set_are_not_decoded(tmp_path):
    data, row = table()
    data.save_to_disk(str(tmp_path / "saved"))
    found = [r.value for r in open_source(Source(str(tmp_path / "saved"))).rows()]
    assert found == [row] * 20


def test_pictures_inside_parquet_and_streams_are_not_decoded(tmp_path):
    data, row = table()
    data.to_parquet(str(tmp_path / "a.parquet"))
    reader = open_source(Source(str(tmp_path / "a.parquet")))
    assert [r.value for r in reader.rows()] == [row] * 20
    (tmp_path / "README.md").write_text("")
    stream = open_hub(str(tmp_path), None, "train", streaming=True)
    assert [r.value for r in stream.rows()] == [row] * 20


def test_json_columns_beside_pictures_stay_objects(tmp_path):
    data = datasets.Dataset.from_dict(
        {"image": [{"bytes": png("red"), "path": None}], "extra": [{"a": [1, "x"]}]},
        features=datasets.Features({"image": datasets.Image(), "extra": datasets.Json()}),
    )
    data.save_to_disk(str(tmp_path / "saved"))
    (row,) = open_source(Source(str(tmp_path / "saved"))).rows()
    assert row.value["extra"] == {"a": [1, "x"]}
    assert row.value["image"]["bytes"] == png("red")
