"""Items and batches of grounding data."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from inlay.core.errors import ConfigError, DataError
from inlay.data import PNG, GroundingDataset, RefCOCO, WindowLoader


class Known:
    """A cache that has what it was given."""

    def __init__(self):
        self.images, self.texts = set(), set()

    def has_image(self, key):
        return key in self.images

    def has_text(self, key):
        return key in self.texts


@pytest.fixture
def build(tokenizer, seeing, coco, narratives, examples, tmp_path):
    """``build(sources, **options)``; by default RefCOCO (4 and 1 masks) and PNG (3)."""
    eyes = seeing(tokenizer)

    def build(sources=None, **options):
        if sources is None:
            png = PNG(**narratives([examples.narrative]), local_path=tmp_path / "photos")
            sources = [RefCOCO(**coco()), png]
        return GroundingDataset(sources, tokenizer, eyes, template="vicuna", **options)

    return build


def test_items(build, tokenizer):
    dataset = build(picture_size=80)
    assert len(dataset) == 3
    assert dataset.loss_units.tolist() == [4, 1, 3]
    assert dataset.num_samples.tolist() == dataset.num_images.tolist() == [1, 1, 1]
    assert dataset.tiles.tolist() == [1, 2, 1]
    assert dataset.has_image.all()
    assert dataset.periods.tolist() == [3, 1, 1]
    item = dataset.item(1, seed=0)
    assert item.size == (90, 20)
    assert item.masks.shape == (1, 20, 90)
    assert item.picture.shape == (3, 18, 80)  # 20 * 80 / 90 = 17.8
    assert [view.box[0] for view in item.views] == [0, 45]
    text = tokenizer.decode(item.tokens.ids.tolist())
    assert text.endswith("give me a description of the image. ASSISTANT:a tile.")
    assert dataset.lengths.tolist() == [len(dataset.item(i, 0).tokens.ids) for i in range(3)]


def test_loss_units_hold_in_every_epoch(build):
    for options in ({}, {"max_masks": 2}):
        dataset = build(**options)
        for epoch in range(7):
            for index, units in enumerate(dataset.loss_units):
                item = dataset.item(index, epoch, epoch)
                assert len(item.masks) == units
                assert set(item.tokens.mask_ids.tolist()) - {-1} == set(range(units))


def test_captions_and_keys_repeat(build):
    dataset = build(max_masks=3)
    for index, period in enumerate(dataset.periods.tolist()):
        keys = [dataset.item(index, 5, epoch).text_key for epoch in range(2 * period)]
        assert keys[:period] == keys[period:]
        assert len(set(keys)) == period
        pictures = {dataset.item(index, 5, epoch).picture_key for epoch in range(3)}
        assert len(pictures) == 1


def test_masks_take_turns(build):
    """Every mask is seen with every sentence, in ``periods`` epochs."""
    whole, dataset = build(), build(max_masks=3)
    assert "1 with more than max_masks" in str(dataset.report)
    assert dataset.periods.tolist() == [6, 1, 1]
    full = whole.item(0, 0).masks
    seen = set()
    for epoch in range(6):
        item = dataset.item(0, 0, epoch)
        plain = whole.sample_tokens(0, epoch)
        assert item.tokens.ids.tolist() == plain.ids.tolist(), "the words stay"
        for number, mask in enumerate(item.masks):
            rows = item.tokens.caption_rows[item.tokens.mask_ids == number]
            (original,) = set(plain.mask_ids[rows - plain.caption_rows[0]].tolist())
            assert np.array_equal(mask, full[original])
            seen.add((original, epoch % 3))
    assert seen == {(mask, turn) for mask in range(4) for turn in range(3)}


def test_batch(build, tokenizer):
    dataset = build(picture_size=64)
    items = [dataset.item(i, 0) for i in (1, 0, 2)]
    batch = dataset.collate(items)
    assert (batch.loss_units, batch.num_samples, batch.num_images) == (8, 3, 3)
    assert batch.num_tokens == dataset.lengths.sum()
    row = batch.inputs["row"]
    ids = row["input_ids"][0]
    starts = row["doc_starts"].tolist()
    assert row["doc_starts"].dtype == torch.int32
    assert starts == [0, *np.cumsum(dataset.lengths[[1, 0, 2]]).tolist()]
    assert row["longest_document"] == dataset.lengths.max()
    assert set(row) == {
        "input_ids",
        "position_ids",
        "doc_starts",
        "longest_document",
        "images",
        "image_positions",
    }
    for start, stop in itertools.pairwise(starts):
        assert row["position_ids"][0, start:stop].tolist() == list(range(stop - start))
    token = dataset.image_processor.image_token_id
    assert row["image_positions"].tolist() == (ids == token).nonzero()[:, 0].tolist()
    assert row["images"]["pixel_values"].shape == (4, 3)
    assert [p.dtype for p in batch.inputs["pictures"]] == [torch.uint8] * 3
    targets = batch.inputs["targets"]
    assert [t.document for t in targets] == [0, 1, 2]
    assert [(t.first_mask, t.num_masks) for t in targets] == [(0, 1), (1, 4), (5, 3)]
    assert [t.size for t in targets] == [(90, 20), (40, 30), (40, 20)]
    assert [tuple(m.shape) for m in batch.inputs["masks"]] == [
        (1, 20, 90),
        (4, 30, 40),
        (3, 20, 40),
    ]
    rows, names = batch.inputs["caption_rows"], batch.inputs["caption_masks"]
    texts = [tokenizer.decode(ids[rows[names == m]].tolist()) for m in range(8)]
    assert texts == [
        "a tile",
        "the left box",
        "the other",
        "both boxes",
        "a dog",
        " dog",
        " sky",
        " animals",
    ]
    assert tokenizer.decode(ids[rows[names == -1]].tolist()) == "." * 5 + "A under the with."


def test_cached_samples_have_no_document(build):
    cache = Known()
    dataset = build(picture_size=64, cache=cache)
    eyes = dataset.image_processor
    first = dataset.item(0, 0)
    cache.texts.add(first.text_key)
    cache.images.add(dataset.item(1, 0).picture_key)
    eyes.opened = 0
    items = [dataset.item(i, 0) for i in range(3)]
    assert eyes.opened == 2
    batch = dataset.collate(items)
    targets = batch.inputs["targets"]
    assert [t.document for t in targets] == [None, 0, 1]
    assert [t.first_mask for t in targets] == [0, 4, 5]
    assert [p.numel() > 0 for p in batch.inputs["pictures"]] == [True, False, True]
    assert sorted(set(batch.inputs["caption_masks"].tolist())) == [-1, 4, 5, 6, 7]
    assert len(batch.inputs["row"]["doc_starts"]) == 3
    assert batch.loss_units == 8
    assert targets[0].text_key == first.text_key
    # a caption of another epoch is not cached
    assert dataset.item(0, 0, epoch=1).pixels is not None


def test_nothing_is_decoded_when_all_is_cached(build, monkeypatch):
    cache = Known()
    dataset = build(picture_size=64, cache=cache)
    items = [dataset.item(i, 0) for i in range(3)]
    cache.texts = {item.text_key for item in items}
    cache.images = {item.picture_key for item in items}
    for source in dataset.sources:
        monkeypatch.setattr(source.files, "open", lambda *a: pytest.fail("decoded"))
    batch = dataset.collate([dataset.item(i, 0) for i in range(3)])
    assert batch.inputs["row"] is None
    assert batch.inputs["caption_rows"].shape == batch.inputs["caption_masks"].shape == (0,)
    assert [p.shape for p in batch.inputs["pictures"]] == [(3, 0, 0)] * 3
    assert batch.loss_units == 8


def test_no_refiner_no_pictures(build):
    cache = Known()
    dataset = build(cache=cache)
    item = dataset.item(0, 0)
    assert item.picture is None
    assert dataset.collate([item]).inputs["pictures"] == []
    cache.texts.add(item.text_key)
    assert dataset.item(0, 0).pixels is None


def test_stand_in(build):
    dataset = build(picture_size=64)
    item = dataset.item(0, 0)
    batch = dataset.stand_in(item)
    assert (batch.loss_units, batch.num_samples, batch.num_tokens, batch.num_images) == (0,) * 4
    assert batch.inputs["trained"] is False
    assert len(batch.inputs["masks"][0]) == 4
    assert "trained" not in dataset.collate([item]).inputs


@pytest.mark.parametrize("num_workers", [0, 2])
def test_through_the_loader(build, num_workers):
    dataset = build(picture_size=32)
    loader = WindowLoader(dataset, batch_size=2, num_workers=num_workers, seed=1)
    for epoch in range(2):
        windows = list(loader.windows(epoch, 0, 1)) if not num_workers else []
        batches = [b for w in loader.windows(epoch, 0, 1) for b in w.batches]
        assert [b.num_samples for b in batches] == [2, 1]
        assert sum(b.loss_units for b in batches) == 8
        for window, batch in zip(windows, batches, strict=False):
            assert window.loss_units == batch.loss_units
    assert [b.num_samples for b in loader.batches()] == [2, 1]
    moved = batches[0].to("cpu")
    assert moved.inputs["targets"] == batches[0].inputs["targets"]


def test_sample(build, tokenizer):
    dataset = build()
    sample = dataset.sample(2)
    assert tokenizer.decode(sample.ids[sample.mask].tolist()) == " dog sky animals"
    assert (sample.tiles, len(sample.images)) == (1, 1)
    assert sample.images[0].path.endswith("9.jpg")
    assert dataset.num_samples_total == 3


def test_mixing(build, coco):
    two = build([RefCOCO(**coco(), repeat=2), {"type": "RefCOCO", **coco(), "split": "val"}])
    assert two.loss_units.tolist() == [4, 1, 4, 1, 1]
    weighted = build(
        [RefCOCO(**coco(), weight=1.0), {"type": RefCOCO, **coco(), "split": "val", "weight": 2.0}]
    )
    assert len(weighted) == 3
    assert weighted.loss_units.tolist()[1:] == [1, 1]
    one = build({"type": "RefCOCO", **coco()})
    assert len(one) == 2
    with pytest.raises(ConfigError, match="either all sources have a weight"):
        build([RefCOCO(**coco(), weight=1.0), RefCOCO(**coco())])
    with pytest.raises(ConfigError, match=r"Did you mean 'RefCOCO'"):
        build({"type": "RefCOCOs", **coco()})
    with pytest.raises(ConfigError, match=r"RefCOCO: .*'fraction'"):
        build({"type": "RefCOCO", **coco(), "fraction": 1})
    with pytest.raises(ConfigError, match="at least one source"):
        build([])


def test_bad_rows(build, coco, examples):
    broken = examples.ref(9, 8, 5, "outside")
    files = coco([*examples.refs, broken])
    with pytest.raises(DataError, match=r"line 8: annotation 5: the mask lies outside"):
        build({"type": "RefCOCO", **files})
    dataset = build({"type": "RefCOCO", **files}, max_bad_rows=1)
    assert dataset.report.bad == 1
    assert len(dataset) == 2


def test_too_long(build, coco, examples):
    source = {"type": "RefCOCO", **coco()}
    lengths = build(source).lengths
    assert lengths[0] > lengths[1]
    # the longest caption is not that of epoch 0
    longest = max(len(build(source).sample_tokens(0, e).ids) for e in range(3))
    assert longest > lengths[0]
    assert len(build(source, max_length=longest)) == 2
    with pytest.raises(
        DataError, match=r"refs\(unc\)\.p, line 1: prompt and caption have .* 'box on"
    ):
        build(source, max_length=longest - 1)
    dataset = build(source, max_length=longest - 1, max_bad_rows=1)
    assert dataset.loss_units.tolist() == [1]
    assert (dataset.report.entries, dataset.report.masks) == (1, 1)
    with pytest.raises(DataError, match="the data set is empty"):
        build(source, max_length=10, max_bad_rows=2)


def test_arguments(build):
    with pytest.raises(ConfigError, match="max_masks must be 1 or more"):
        build(max_masks=0)
    with pytest.raises(ConfigError, match="picture_size must be 1 or more"):
        build(picture_size=0)
    with pytest.raises(ConfigError, match="the prompt must have one picture, has 2"):
        build(prompt="<image> <image_placeholder>")


def test_refused_pictures(build, coco, examples, monkeypatch):
    files = coco([examples.ref(0, 7, 1, "box")])

    def refuse(self, width, height, index=0, count=1):
        raise ValueError("too flat")

    dataset = build({"type": "RefCOCO", **files})
    monkeypatch.setattr(type(dataset.image_processor), "plan", refuse)
    with pytest.raises(DataError, match=r"'seven.png' \(40 x 30 px\) is refused .* too flat"):
        build({"type": "RefCOCO", **files})


def test_identity(build, coco, examples):
    base = build().identity()
    assert base == build(picture_size=64, cache=Known()).identity()
    assert set(base) == {"data", "packing", "template", "tokenizer", "image_processor"}
    assert base["packing"] != build(max_masks=2).identity()["packing"]
    assert base["template"] != build(prompt="<image>?").identity()["template"]
    fewer = build({"type": "RefCOCO", **coco(examples.refs[:3])}).identity()
    assert fewer["data"] != base["data"]
