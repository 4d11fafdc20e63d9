"""Pictures in streams: threads, resume, and a split that cannot leak."""

from __future__ import annotations

import json
import threading

import pytest

from inlay.core.errors import ConfigError, DataError
from inlay.data.stream import StreamDataset
from inlay.data.stream_loader import StreamLoader, ahead


@pytest.fixture
def tokenizer(make_tokenizer):
    return make_tokenizer(special=("<|im_end|>",))


@pytest.fixture
def stream(tokenizer, make_eyes):
    eyes = make_eyes(tokenizer)

    def make(sources, **options):
        options = {
            "template": "qwen_chat",
            "max_length": 150,
            "block_size": 20,
            "image_processor": eyes,
            **options,
        }
        return StreamDataset(sources, tokenizer, **options)

    return make


def row(text, answer, *images):
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return {"messages": turns, **({"images": list(images)} if images else {})}


@pytest.fixture
def mixed(tmp_path, draw):
    """70 rows; every second one shows one of 20 pictures, every tenth a second one, too."""
    names = [
        draw(tmp_path / f"{i}.png", 90 if i % 5 == 0 else 20, 20, (i, 0, 0)) for i in range(20)
    ]
    rows = []
    for i in range(70):
        shown = [names[i * 7 % 20]] if i % 2 else []
        shown += [names[(i * 7 + 3) % 20]] if i % 10 == 1 else []
        rows.append(row("<image>" * len(shown) + f"q{i % 60}.", "a" * (i % 30 + 1), *shown))
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def drawn(loader, epoch=0, start=0, accumulate=2, hint=None):
    return [
        (
            (w.start, w.stop, w.loss_units, w.num_batches, w.hint),
            [
                (b.inputs["input_ids"].tolist(), b.inputs["images"]["pixel_values"].tolist())
                for b in w.batches
            ],
        )
        for w in loader.windows(epoch, start, accumulate, hint)
    ]


def contents(dataset):
    """What a pass shows: paths of pictures, and texts of samples without any."""
    samples = [s for item in dataset.items(0, 0) for s in item.samples]
    pictures = {ref.path for s in samples for ref in s.images}
    return len(samples), pictures, {bytes(s.ids) for s in samples if not s.images}


@pytest.mark.parametrize("workers", [0, 3])
def test_resume_at_every_window(mixed, stream, workers):
    options = {"max_tiles": 4, "max_sample_length": 120}
    whole = drawn(StreamLoader(stream(mixed, **options), 1), 1)
    assert len(whole) > 5
    assert drawn(StreamLoader(stream(mixed, **options), 1, num_workers=workers), 1) == whole
    for number, ((_, stop, _, _, hint), _) in enumerate(whole):
        hint = json.loads(json.dumps(hint))
        fresh = StreamLoader(stream(mixed, **options), 1, num_workers=workers)
        assert drawn(fresh, 1, stop, 2, hint) == whole[number + 1 :]
    assert drawn(fresh, 1, whole[2][0][1]) == whole[3:], "without a hint, only slower"


def test_packs_are_bounded_by_tiles(mixed, stream):
    dataset = stream(mixed, max_tiles=3, max_images=1, max_length=400)
    packs = [item.samples for item in dataset.items(0, 0)]
    assert max(sum(s.tiles for s in pack) for pack in packs) == 3
    assert dataset.report.dropped == {"more than max_images pictures": 7}
    assert sum(map(len, packs)) == 63 == dataset.report.kept


@pytest.mark.parametrize("workers", [0, 2])
def test_ranks_share_a_window(mixed, stream, workers):
    alone = drawn(StreamLoader(stream(mixed), 2), 0, 0, 1)
    parts = [
        drawn(StreamLoader(stream(mixed), 1, 0, rank, 2, num_workers=workers), 0, 0, 1)
        for rank in range(2)
    ]
    for (head, batches), *ranks in zip(alone, *parts, strict=True):
        assert all(rank[0] == head for rank in ranks)
        ids = [i for rank in ranks for batch, _ in rank[1] for i in batch[0]]
        first = ranks[0][1][0][0][0]
        assert batches[0][0][0][: len(first) - 5] == first[: len(first) - 5]
        assert len(ids) >= len(batches[0][0][0])


@pytest.mark.parametrize("split", [{"val_size": 12}, {"val_fraction": 0.45}])
def test_split_cannot_leak(mixed, stream, split):
    train, val = (stream(mixed, part=part, **split) for part in ("train", "val"))
    count, pictures, texts = contents(val)
    other_count, other_pictures, other_texts = contents(train)
    assert pictures and texts
    assert other_pictures and other_texts
    assert not pictures & other_pictures
    assert not texts & other_texts
    report = train.report
    assert report.rows == 70 == report.kept + sum(report.dropped.values())
    assert report.kept == other_count
    assert report.dropped["held out for validation"] >= 12
    if "val_size" in split:
        assert (count, val.report.rows) == (12, 12)
        assert report.dropped["also in the validation split"] > 5
    else:
        assert report.dropped["pictures on both sides of the split"] > 0
        assert val.report.dropped["in the training split"] == other_count
    assert contents(train) == (other_count, other_pictures, other_texts), "again the next epoch"
    assert train.report == report


def test_split_by_size_resumes(mixed, stream):
    whole = drawn(StreamLoader(stream(mixed, val_size=12), 1), 1)
    for number, ((_, stop, _, _, hint), _) in enumerate(whole):
        fresh = StreamLoader(stream(mixed, val_size=12), 1)
        assert drawn(fresh, 1, stop, 2, hint) == whole[number + 1 :]


def test_bad_rows_in_the_head_of_the_stream_are_counted(tmp_path, mixed, stream):
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    lines[2] = '{"messages": '
    lines[3] = json.dumps(row("<image>", "a", "missing.png"))
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    train, val = (stream(mixed, part=p, val_size=5, max_bad_rows=2) for p in ("train", "val"))
    assert contents(val)[0] == 5
    assert val.report.rows == 7
    contents(train)
    assert [bad["line"] for bad in train.report.bad_rows] == [3, 4]
    assert train.report.rows == 70 == train.report.kept + 2 + sum(train.report.dropped.values())
    strict = stream(mixed, val_size=5, max_bad_rows=1)
    with pytest.raises(DataError, match=r"rows.jsonl, line 4: .*missing.png"):
        contents(strict)


def test_split_that_leaves_nothing(mixed, stream):
    with pytest.raises(DataError, match=r"(?s)no usable row.*held out for validation"):
        contents(stream(mixed, val_size=100))
    with pytest.raises(DataError, match="val side of the split is empty"):
        stream(mixed, part="val")
    with pytest.raises(ConfigError, match="give one of them"):
        stream(mixed, val_size=3, val_fraction=0.5)
    assert stream(mixed).identity()["data"] != stream(mixed, val_size=3).identity()["data"]


def test_max_items_bounds_a_pass(mixed, stream):
    whole = list(StreamLoader(stream(mixed), 2).batches())
    loader = StreamLoader(stream(mixed, max_items=6), 2)
    found = list(loader.batches())
    assert len(found) == 3 < len(whole)
    for a, b in zip(found, whole, strict=False):
        assert a.inputs["input_ids"].tolist() == b.inputs["input_ids"].tolist()
    windows = drawn(loader, 0, 0, 1)
    assert [w[0][:2] for w in windows] == [(0, 2), (2, 4), (4, 6)]
    assert drawn(loader, 0, 4, 1, windows[1][0][4]) == windows[2:]


def test_text_gets_a_blank_picture(tmp_path, stream):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps(row(f"q{i}", "a")) for i in range(9)))
    for batch in StreamLoader(stream(str(tmp_path / "a.jsonl")), 2).batches():
        assert batch.inputs["images"]["pixel_values"].shape == (1, 3)
        assert batch.num_images == 0


def test_a_picture_that_breaks_later_stops_the_run(mixed, stream, tmp_path):
    loader = StreamLoader(stream(mixed), 1, num_workers=2)
    windows = loader.windows(0, 0, 1)
    list(next(windows).batches)
    for path in tmp_path.glob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match=r"rows\.jsonl, line \d+: .*\.png"):
        for window in windows:
            list(window.batches)


def test_a_given_up_pass_leaves_no_thread(mixed, stream):
    before = threading.active_count()
    windows = StreamLoader(stream(mixed), 1, num_workers=3).windows(0, 0, 2)
    next(next(windows).batches)
    assert threading.active_count() > before
    windows.close()
    assert threading.active_count() == before


def test_ahead_is_ordered_and_bounded():
    begun = []
    found = ahead(lambda x: x * x, (begun.append(i) or i for i in range(50)), 4, depth=6)
    for i, value in enumerate(found):
        assert value == i * i
        assert len(begun) <= i + 7


def test_bad_arguments(mixed, stream):
    with pytest.raises(ConfigError, match="num_workers"):
        StreamLoader(stream(mixed), 1, num_workers=-1)
    with pytest.raises(ConfigError, match="max_items"):
        stream(mixed, max_items=0)
