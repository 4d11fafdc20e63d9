"""Pictures from the row to the batch, indexed data."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from inlay.core.errors import ConfigError, DataError
from inlay.data import store
from inlay.data.loader import WindowLoader
from inlay.data.sft import ChatDataset

BLANK = 5  # tokens of the eyes' blank picture


@pytest.fixture
def tokenizer(make_tokenizer):
    return make_tokenizer(special=("<|im_end|>",))


@pytest.fixture
def build(tmp_path, tokenizer, make_eyes):
    eyes = make_eyes(tokenizer)

    def build(sources, **options):
        options = {
            "template": "qwen_chat",
            "cache_dir": tmp_path / "cache",
            "image_processor": eyes,
            **options,
        }
        return ChatDataset(sources, tokenizer, **options)

    return build


def row(text, answer, *images):
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **({"images": list(images)} if images else {})}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def mixed(tmp_path, draw):
    """A file of rows with no, one and two pictures; row i has a colour of its own."""
    rows = []
    for i in range(30):
        names = [
            draw(tmp_path / f"{i}_{k}.png", 90 if i % 5 == 0 else 20, 20, (i, k, 0))
            for k in range(i % 3)
        ]
        rows.append(row("<image>" * len(names) + f"q{i}", "a" * (i + 1), *names))
    return write(tmp_path / "rows.jsonl", rows)


def batches(dataset, batch_size=2, workers=0, **options):
    return list(WindowLoader(dataset, batch_size, num_workers=workers, **options).batches())


def test_batch_holds_pictures_and_their_positions(mixed, build):
    dataset = build(mixed, max_length=300)
    image, end = dataset._opener.processor.image_token_id, dataset._opener.processor.end
    for items, batch in zip([[0, 1], [2, 3]], batches(dataset), strict=False):
        samples = [s for i in items for s in dataset.item(i, 0)]
        ids = np.concatenate([s.ids for s in samples])
        assert batch.inputs["input_ids"][0].tolist() == ids.tolist()
        at = batch.inputs["image_positions"].tolist()
        assert at == np.flatnonzero(ids == image).tolist()
        assert (batch.inputs["labels"][0][at] == -100).all()
        assert (batch.inputs["labels"][0][ids == end] == -100).all()
        lengths = [len(s.ids) for s in samples]
        positions = [p for n in lengths for p in range(n)]
        assert batch.inputs["position_ids"][0].tolist() == positions
        pixels = batch.inputs["images"]["pixel_values"].numpy()
        assert len(pixels) * 4 == len(at) == 4 * sum(s.tiles for s in samples)
        assert batch.num_images == sum(len(s.images) for s in samples) > 0
        found = [p["pixel_values"][0] for s in samples if s.images for p in s.pixels]
        assert {tuple(p) for p in found} <= {tuple(p) for p in pixels}


def test_order_of_appearance(mixed, build):
    dataset = build(mixed, pack_to_max_length=False)
    (batch,) = batches(dataset, 30)
    colours = [[i, k, 0] for i in range(30) for k in range(i % 3)]
    pixels = batch.inputs["images"]["pixel_values"].tolist()
    first = [p for p in pixels if p[2] == 0]  # the others are draws, of second tiles
    assert first == colours
    assert batch.num_images == len(colours)
    assert len(pixels) == len(colours) + sum(i % 3 for i in range(0, 30, 5))


def test_tokens_and_tiles_bound_a_pack(mixed, build):
    dataset = build(mixed, max_length=300, max_tiles=3)
    items = [dataset.item(i, 0) for i in range(len(dataset))]
    assert max(sum(s.tiles for s in item) for item in items) == 3
    assert max(sum(len(s.ids) for s in item) for item in items) <= 300
    assert dataset.report.dropped == {"more than max_tiles tiles": 2}  # of 4 tiles
    assert sum(map(len, items)) == 28
    assert dataset.has_image.tolist() == [any(s.images for s in item) for item in items]
    assert dataset.item_lengths.tolist() == [sum(len(s.ids) for s in item) for item in items]


def test_text_gets_a_blank_picture(tmp_path, build):
    dataset = build(write(tmp_path / "a.jsonl", [row("q", "aa"), row("q2", "a")]))
    (batch,) = batches(dataset, 2)
    samples = [s for i in range(len(dataset)) for s in dataset.item(i, 0)]
    real = sum(len(s.ids) for s in samples)
    assert batch.inputs["doc_starts"].tolist()[-2:] == [real, real + BLANK]
    assert batch.inputs["position_ids"][0, real:].tolist() == list(range(BLANK))
    assert (batch.inputs["labels"][0, real:] == -100).all()
    assert batch.inputs["image_positions"].tolist() == list(range(real, real + 4))
    assert batch.inputs["images"]["pixel_values"].shape == (1, 3)
    units = sum(int(s.mask.sum()) for s in samples)
    assert (batch.loss_units, batch.num_samples, batch.num_tokens) == (units, 2, real)
    assert batch.num_images == 0
    idle = dataset.stand_in(dataset.item(0, 0))
    assert idle.inputs["images"]["pixel_values"].shape == (1, 3)
    assert (idle.loss_units, idle.num_samples, idle.num_tokens, idle.num_images) == (0, 0, 0, 0)
    assert (idle.inputs["labels"] == -100).all()


@pytest.mark.parametrize("packed", [True, False])
def test_workers_give_the_same_bits(mixed, build, packed):
    dataset = build(mixed, max_length=300, pack_to_max_length=packed)

    def bits(workers):
        loader = WindowLoader(dataset, 2, num_workers=workers, seed=3)
        return [
            [b.inputs["images"]["pixel_values"].numpy().tobytes() for b in w.batches]
            for epoch in (0, 1)
            for w in loader.windows(epoch, 0, 2)
        ]

    alone = bits(0)
    assert bits(2) == alone
    assert len({bit for window in alone for bit in window}) > 6, "epochs draw anew"


def test_sample_reads_no_picture(mixed, build, tmp_path):
    dataset = build(mixed)
    for path in tmp_path.glob("*.png"):
        path.unlink()
    sample = dataset.sample(2)
    assert [os.path.basename(ref.path) for ref in sample.images] == ["2_0.png", "2_1.png"]
    assert sample.tiles == 2
    assert sample.images[0].place.endswith("rows.jsonl, line 3")
    number = next(i for i in range(len(dataset)) if dataset.has_image[i])
    with pytest.raises(DataError, match=r"rows.jsonl, line \d+: the picture .* cannot be read"):
        dataset.item(number, 0)


def test_changed_pictures(mixed, build, tmp_path, draw):
    dataset = build(mixed, pack_to_max_length=False)
    path = tmp_path / "4_0.png"
    before = dataset.item(4, 0)[0].pixels[0]["pixel_values"]
    os.utime(path, (0, 0))  # a copy: other times, the same bytes
    assert (dataset.item(4, 0)[0].pixels[0]["pixel_values"] == before).all()
    draw(path, 20, 20, "white")
    with pytest.raises(DataError, match=r"line 5: .*4_0.png is no longer the one.*delete"):
        dataset.item(4, 0)


def test_bad_pictures_are_bad_rows(tmp_path, build, draw):
    rows = [row("<image>q", "a", draw(tmp_path / f"{i}.png", colour=(i, 0, 0))) for i in range(8)]
    rows[1]["images"] = ["missing.png"]
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "2.png")
    whole = (tmp_path / "2.png").read_bytes()
    (tmp_path / "2.png").write_bytes(whole[: len(whole) // 2])  # the header is there
    rows[3]["images"] = ["../outside.png"]
    draw(tmp_path.parent / "outside.png")
    draw(tmp_path / "4.png", 300, 2)  # the eyes refuse it
    rows[5]["images"] = []
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: .*missing\.png"):
        build(path)
    report = build(path, max_bad_rows=5).report
    assert [bad["line"] for bad in report.bad_rows] == [2, 3, 4, 5, 6]
    assert (report.rows, report.bad, report.kept) == (8, 5, 3)
    assert "too flat" in report.bad_rows[3]["reason"]
    trusting = build(path, max_bad_rows=5, verify_images=False, pack_to_max_length=False)
    assert trusting.report.bad == 4
    with pytest.raises(DataError, match=r"line 3: .*2\.png"):
        trusting.item(1, 0)


def test_pictures_without_eyes(mixed, build):
    with pytest.raises(DataError, match=r"line 2: .*no image_processor"):
        build(mixed, image_processor=None)


def test_limits(mixed, build):
    dataset = build(mixed, max_images=1)
    assert dataset.report.dropped == {"more than max_images pictures": 10}
    with pytest.raises(ConfigError, match="max_images"):
        build(mixed, max_images=0)


def test_truncation_never_cuts_pictures(tmp_path, build, tokenizer, draw):
    name = draw(tmp_path / "a.png")
    rows = [
        row("<image>q", "a" * 100, name),  # the text behind is cut
        row("q" * 60 + "<image>", "a" * 100, name),  # the cut would fall into the picture
        row("q" * 80 + "<image>", "a", name),  # or before it
        row("<image>" + "q" * 90, "a", name),  # nothing trained is left
        row("q", "a"),
    ]
    path = write(tmp_path / "a.jsonl", rows)
    whole = build(path, pack_to_max_length=False)
    ids = whole.sample(1).ids.tolist()
    end = max(i for i, token in enumerate(ids) if token == whole._opener.processor.image_token_id)
    limit = end + 1  # one token short: the picture's end token would go
    cut = build(path, max_length=limit)
    assert cut.report.dropped == {
        "pictures do not fit max_length": 2,
        "no trained token after truncation": 1,
    }
    assert (cut.report.kept, cut.report.truncated) == (2, 1)
    first = cut.sample(0)
    assert len(first.ids) == limit
    assert first.ids.tolist() == whole.sample(0).ids[:limit].tolist()
    assert (first.ids == whole._opener.processor.image_token_id).sum() == 4
    just = build(path, max_length=limit + 1).report
    assert just.dropped["pictures do not fit max_length"] == 1
    dropped = build(path, max_length=limit, overlong="drop").report
    assert dropped.dropped == {"longer than max_length": 4}
    with pytest.raises(DataError, match="line 1: the conversation has"):
        build(path, max_length=limit, overlong="error")


def test_cache(mixed, build, tmp_path, tokenizer, make_eyes, monkeypatch):
    build(mixed)
    calls = []
    real = store._write
    monkeypatch.setattr(store, "_write", lambda *a: calls.append(1) or real(*a))
    build(mixed)
    build(mixed, max_tiles=None, seed=1)
    assert not calls, "the same data are indexed once"
    build(mixed, image_processor=make_eyes(tokenizer, version="2"))
    build(mixed, max_images=1)
    build(mixed, verify_images=False)
    shutil.copytree(tmp_path, tmp_path / "other", ignore=shutil.ignore_patterns("cache"))
    build({"path": mixed, "image_folder": str(tmp_path / "other")})
    moved = build(str(tmp_path / "other" / "rows.jsonl"))
    assert len(calls) == 5
    assert str(tmp_path / "other") in moved.sample(1).images[0].path


def test_identity_covers_the_pictures(mixed, build, tmp_path, tokenizer, make_eyes, draw):
    base = build(mixed).identity()
    assert set(base) == {"data", "template", "tokenizer", "packing", "image_processor"}

    def changed(**options):
        other = build(mixed, **options).identity()
        return {key for key in base if base[key] != other[key]}

    assert changed(image_processor=make_eyes(tokenizer, version="2")) == {"image_processor"}
    assert changed(max_tiles=100) == {"packing"}
    draw(tmp_path / "4_0.png", 20, 20, "white")
    assert changed(cache_dir=tmp_path / "new") == {"data"}


def test_embedded_pictures(tmp_path, build, draw):
    """FineVision's layout; the bytes lie in the store, and the file may go."""
    names = [draw(tmp_path / f"{i}.png", 20, 20, (i, 0, 0)) for i in range(6)]
    data = [(tmp_path / name).read_bytes() for name in names]
    rows = [
        {
            "images": [{"bytes": d, "path": None}],
            "texts": [{"user": f"q{i}", "assistant": "a"}, {"user": "more", "assistant": "b"}],
            "relevance_ratings": [i, 5],
            "formatting_ratings": [5, i],
        }
        for i, d in enumerate(data)
    ]
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    one = build(str(path), pack_to_max_length=False)
    two = build(str(path), pack_to_max_length=False, num_proc=2, cache_dir=tmp_path / "two")
    path.unlink()
    for dataset in (one, two):
        assert dataset.report.kept == 6
        for i in range(6):
            (sample,) = dataset.item(i, 0)
            assert bytes(sample.images[0].data) == data[i]
            assert sample.pixels[0]["pixel_values"].tolist() == [[i, 0, 0]]
            assert sample.images[0].place.endswith(f"rows.parquet, line {i + 1}")


def test_ratings(tmp_path, build, draw, tokenizer):
    draw(tmp_path / "a.png")
    rows = [
        {
            "images": ["a.png"],
            "texts": [{"user": "q1", "assistant": "a1"}, {"user": "q2", "assistant": "a2"}],
            "relevance_ratings": [i, 2],
        }
        for i in range(1, 5)
    ]
    path = write(tmp_path / "a.jsonl", rows)
    whole = build(path).report
    dataset = build(path, min_ratings={"relevance": 3})
    assert (dataset.report.kept, dataset.report.shortened) == (2, 2)
    assert dataset.report.dropped == {"below min_ratings": 2}
    assert "2 of them lost turns to min_ratings" in str(dataset.report)
    assert "q2" not in tokenizer.decode(dataset.sample(0).ids)
    assert (whole.kept, whole.shortened) == (4, 0)
    with pytest.raises(ConfigError, match="relevance"):
        build(path, min_ratings={"relevanc": 3})


def test_split_keeps_a_picture_on_one_side(tmp_path, build, draw):
    names = [draw(tmp_path / f"{i}.png", colour=(i, 9, 0)) for i in range(40)]
    first = [row("<image>first", f"{i}", name) for i, name in enumerate(names)]
    second = [row("<image>second", f"{i}", name) for i, name in enumerate(names[::-1])]
    text = [row(f"text {i}", "a") for i in range(20)]
    sources = [write(tmp_path / f"{k}.jsonl", rows) for k, rows in enumerate((first, second, text))]

    def sides(**options):
        parts = [build(sources, part=part, **options) for part in ("train", "val")]
        shown = [
            {ref.path for i in range(p.num_samples_total) for ref in p.sample(i).images}
            for p in parts
        ]
        assert not shown[0] & shown[1]
        assert len(shown[0] | shown[1]) == 40
        assert sum(p.num_samples_total for p in parts) == 100
        return parts[1].num_samples_total

    assert 5 < sides(val_fraction=0.2) < 40
    assert sides(val_size=20) in (20, 21)
    with pytest.raises(ConfigError, match="give one of them"):
        build(sources, val_fraction=0.1, val_size=3)
    with pytest.raises(DataError, match="train side of the split is empty: val_size=100"):
        build(sources, val_size=100)


def test_open_turns_and_their_pictures_are_left_out(tmp_path, build, draw):
    value = row("<image>q", "a", draw(tmp_path / "a.png"), "never-opened.png")
    value["messages"].append({"role": "user", "content": "<image>?"})
    dataset = build(write(tmp_path / "a.jsonl", [value]))
    assert len(dataset.sample(0).images) == 1


def test_sampler_orders_the_epochs(mixed, build):
    class Longest:
        def order(self, lengths, has_image, seed, epoch, world_size):
            self.seen = has_image, seed, epoch, world_size
            return np.argsort(-lengths, kind="stable")

    dataset = build(mixed, pack_to_max_length=False)
    sampler = Longest()
    loader = WindowLoader(dataset, 4, seed=5, sampler=sampler)
    windows = [[b.num_tokens for b in w.batches] for w in loader.windows(2, 0, 1)]
    assert windows == sorted(windows, reverse=True)
    assert sampler.seen[0].tolist() == [bool(i % 3) for i in range(30)]
    assert sampler.seen[1:] == (5, 2, 1)
    rest = [[b.num_tokens for b in w.batches] for w in loader.windows(2, 12, 1)]
    assert rest == windows[3:]


def test_max_items_and_max_sample_length(mixed, build):
    whole = build(mixed, max_length=300)
    few = build(mixed, max_length=300, max_items=2)
    assert len(few) == 2 < len(whole)
    assert few.loss_units.tolist() == whole.loss_units[:2].tolist()
    short = build(mixed, max_length=300, max_sample_length=70, overlong="drop")
    assert short.lengths.max() <= 70 < short.item_lengths.max()
    with pytest.raises(ConfigError, match="max_sample_length"):
        build(mixed, max_length=300, max_sample_length=301)
    with pytest.raises(ConfigError, match="max_items"):
        build(mixed, max_items=0)


def test_length_of_the_text_alone(tmp_path, build, draw):
    path = write(tmp_path / "long.jsonl", [row("<image>q", "a" * 500, draw(tmp_path / "a.png"))])
    options = {"max_length": 100, "pack_to_max_length": False}
    whole, text = build(path, **options), build(path, pictures_in_length=False, **options)
    tokens = len(whole.image_processor.plan(1, 1).ids)
    assert tokens > 1
    assert whole.lengths.tolist() == [100]
    assert text.lengths.tolist() == [100 + tokens - 1]
    assert whole.identity()["packing"] != text.identity()["packing"]
