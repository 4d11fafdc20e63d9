from __future__ import annotations

import json

import pytest

from inlay.core.errors import ConfigError, DataError
from inlay.data.stream import StreamDataset, StreamLoader


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer):
    return make_tokenizer(special=("<|im_end|>",))


@pytest.fixture
def stream(tmp_path, tokenizer):
    def make(sources, **options):
        options = {"template": "qwen_chat", "max_length": 150, "block_size": 20, **options}
        return StreamDataset(sources, tokenizer, **options)

    return make


def write(path, count, name="q"):
    rows = [{"input": f"{name}{i}.", "output": "a" * (i % 30 + 1)} for i in range(count)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def drawn(loader, epoch=0, start=0, accumulate=2, hint=None):
    return [
        (
            (w.start, w.stop, w.loss_units, w.num_batches, w.hint),
            [b.inputs["input_ids"].tolist() for b in w.batches],
        )
        for w in loader.windows(epoch, start, accumulate, hint)
    ]


def questions(windows, tokenizer):
    text = "".join(tokenizer.decode(ids[0]) for _, batches in windows for ids in batches)
    return [part.split(".")[0] for part in text.split("user\n")[1:]]


def test_each_row_once_in_another_order_each_epoch(tmp_path, stream, tokenizer):
    loader = StreamLoader(stream(write(tmp_path / "a.jsonl", 70)), 2)
    epochs = [questions(drawn(loader, epoch), tokenizer) for epoch in (0, 1)]
    assert all(sorted(e) == sorted(f"q{i}" for i in range(70)) for e in epochs)
    assert epochs[0] != epochs[1]
    other = StreamLoader(loader.dataset, 2, seed=1)
    assert epochs[0] != questions(drawn(other), tokenizer)
    assert set(epochs[0][:15]) <= {f"q{i}" for i in range(20)}, "shuffled inside blocks"


@pytest.mark.parametrize("packed", [True, False])
def test_resume_at_every_window(tmp_path, stream, packed):
    path = write(tmp_path / "a.jsonl", 70)
    whole = drawn(StreamLoader(stream(path, pack_to_max_length=packed), 1), 1)
    assert len(whole) > 5
    for number, ((_, stop, _, _, hint), _) in enumerate(whole):
        hint = json.loads(json.dumps(hint))
        fresh = StreamLoader(stream(path, pack_to_max_length=packed), 1)
        assert drawn(fresh, 1, stop, 2, hint) == whole[number + 1 :]
        assert drawn(fresh, 1, stop, 2) == whole[number + 1 :], "without a hint, only slower"


def test_ranks_share_a_window(tmp_path, stream):
    path = write(tmp_path / "a.jsonl", 45)
    alone = drawn(StreamLoader(stream(path), 2), 0, 0, 1)
    parts = [drawn(StreamLoader(stream(path), 1, 0, rank, 2), 0, 0, 1) for rank in range(2)]
    for (head, batches), *ranks in zip(alone, *parts, strict=True):
        assert all(rank[0] == head for rank in ranks)
        ids = [i for rank in ranks for batch in rank[1] for i in batch[0]]
        assert ids[: len(batches[0][0])] == batches[0][0]


def test_weights_interleave(tmp_path, stream, tokenizer):
    a, b = write(tmp_path / "a.jsonl", 60, "a"), write(tmp_path / "b.jsonl", 60, "b")
    sources = [{"path": a, "weight": 3}, {"path": b, "weight": 1}]
    found = questions(drawn(StreamLoader(stream(sources), 1)), tokenizer)
    assert [q[0] for q in found[:40]].count("a") == 30
    assert len(found) == 120


def test_bad_rows(tmp_path, stream):
    path = tmp_path / "a.jsonl"
    write(path, 30)
    path.write_text(path.read_text() + '\n{"input": ')
    with pytest.raises(DataError, match=r"a\.jsonl, line 31: malformed JSON"):
        drawn(StreamLoader(stream(str(path)), 1))
    dataset = stream(str(path), max_bad_rows=0.05)
    drawn(StreamLoader(dataset, 1))
    assert (dataset.report.bad, dataset.report.kept) == (1, 30)


def test_empty_and_repeat(tmp_path, stream):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataError, match="stream is empty"):
        drawn(StreamLoader(stream(str(tmp_path / "a.json")), 1))
    with pytest.raises(ConfigError, match="use weight"):
        stream({"path": "x", "repeat": 2})
