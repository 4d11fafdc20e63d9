from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys

import numpy as np
import pytest

from inlay.core.errors import ConfigError, DataError
from inlay.data import store
from inlay.data.loader import WindowLoader
from inlay.data.sft import ChatDataset


@pytest.fixture(scope="module")
def tokenizer(make_tokenizer):
    return make_tokenizer(special=("<|im_end|>",))


@pytest.fixture
def build(tmp_path, tokenizer):
    def build(sources, **options):
        options = {"template": "qwen_chat", "cache_dir": tmp_path / "cache", **options}
        return ChatDataset(sources, tokenizer, **options)

    return build


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def alpaca(count, name="q"):
    return [
        {"instruction": f"{name}{i}", "input": "", "output": "a" * (i % 40 + 1)}
        for i in range(count)
    ]


def texts(dataset, tokenizer):
    samples = map(dataset.sample, range(dataset.num_samples_total))
    return [tokenizer.decode(s.ids) for s in samples]


def test_items_are_packs_of_whole_samples(tmp_path, build, tokenizer):
    dataset = build(write(tmp_path / "a.jsonl", alpaca(50)), max_length=300)
    found = []
    for index in range(len(dataset)):
        item = dataset.item(index, 0)
        assert sum(len(s.ids) for s in item) <= 300
        assert dataset.loss_units[index] == sum(int(s.mask.sum()) for s in item)
        assert dataset.num_samples[index] == len(item)
        found += [tokenizer.decode(s.ids) for s in item]
    assert sorted(found) == sorted(texts(dataset, tokenizer))
    assert len(dataset) < 50 == dataset.num_samples_total == dataset.report.kept
    alone = build(write(tmp_path / "a.jsonl", alpaca(50)), max_length=300, pack_to_max_length=False)
    assert len(alone) == 50


def test_batch_is_one_flat_row(tmp_path, build):
    dataset = build(write(tmp_path / "a.jsonl", alpaca(9)), max_length=200)
    batch = next(iter(WindowLoader(dataset, 2).batches()))
    samples = dataset.item(0, 0) + dataset.item(1, 0)
    lengths = [len(s.ids) for s in samples]
    starts = np.cumsum([0, *lengths])
    inputs = {k: v if isinstance(v, int) else v.numpy() for k, v in batch.inputs.items()}
    assert inputs["longest_document"] == max(lengths)
    assert inputs["doc_starts"].dtype == np.int32
    assert inputs["doc_starts"].tolist() == starts.tolist()
    assert inputs["input_ids"].tolist() == [np.concatenate([s.ids for s in samples]).tolist()]
    assert inputs["position_ids"].tolist() == [[p for n in lengths for p in range(n)]]
    trained = np.concatenate([s.mask for s in samples])
    assert (inputs["labels"][0] != -100).tolist() == trained.tolist()
    assert (inputs["labels"][0] == inputs["input_ids"][0])[trained].all()
    assert inputs["trained_positions"].tolist() == (np.flatnonzero(trained) - 1).tolist()
    assert (batch.loss_units, batch.num_samples, batch.num_tokens) == (
        int(trained.sum()),
        len(samples),
        int(starts[-1]),
    )
    idle = dataset.stand_in(dataset.item(0, 0))
    assert (idle.inputs["labels"] == -100).all()
    assert len(idle.inputs["trained_positions"]) == 0
    assert (idle.loss_units, idle.num_samples, idle.num_tokens) == (0, 0, 0)


def test_overlong(tmp_path, build, tokenizer):
    rows = [*alpaca(2), {"instruction": "q" * 90, "input": "", "output": "lost"}]
    rows.append({"instruction": "q", "input": "", "output": "b" * 100})
    path = write(tmp_path / "a.jsonl", rows)
    cut = build(path, max_length=90)
    assert (cut.report.kept, cut.report.truncated) == (3, 1)
    assert cut.report.dropped == {"no trained token after truncation": 1}
    assert cut.lengths.max() == 90
    assert not texts(cut, tokenizer)[-1].endswith("<|im_end|>\n")
    dropped = build(path, max_length=90, overlong="drop")
    assert dropped.report.dropped == {"longer than max_length": 2}
    with pytest.raises(DataError, match=r"a.jsonl, line 3: the conversation has \d+ tokens"):
        build(path, max_length=90, overlong="error")


def test_bad_rows_are_counted_and_located(tmp_path, build):
    path = tmp_path / "a.jsonl"
    lines = [json.dumps(row) for row in alpaca(20)]
    lines[3] = '{"instruction": '
    lines[7] = json.dumps({"instruction": "q", "input": "", "output": None})
    lines[9] = json.dumps({"instruction": "q", "input": "", "output": "\ud83d"})
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"a\.jsonl, line 4: malformed JSON"):
        build(str(path))
    report = build(str(path), max_bad_rows=3).report
    assert [row["line"] for row in report.bad_rows] == [4, 8, 10]
    assert (report.rows, report.bad, report.kept) == (20, 3, 17)
    assert build(str(path), max_bad_rows=0.15).report.bad == 3
    for limit in (2, 0.14):  # found in the cache, judged again
        with pytest.raises(DataError, match="3 of 20 rows"):
            build(str(path), max_bad_rows=limit)


def test_rows_without_anything_to_train(tmp_path, build):
    rows = [
        {"messages": [{"role": "user", "content": "Q"}]},
        {
            "messages": [
                {"role": "user", "content": "Q"},
                {"role": "assistant", "content": "A", "loss": False},
            ]
        },
    ]
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError, match="no assistant turn"):
        build(path)
    with pytest.raises(DataError, match=r"(?s)no assistant turn.*no assistant turn is trained"):
        build(path, max_bad_rows=1)
    with pytest.raises(DataError, match="data set is empty: 2 rows read, 2 of them unusable"):
        build(path, max_bad_rows=2)


def test_empty_and_unusable(tmp_path, build):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(DataError, match="data set is empty"):
        build(str(tmp_path / "a.json"))
    dropped = [{"instruction": "q", "input": "", "output": "<nooutput>"}]
    with pytest.raises(DataError, match="1 dropped by its format"):
        build(write(tmp_path / "b.jsonl", dropped))
    with pytest.raises(ConfigError, match="no chat template"):
        build(write(tmp_path / "c.jsonl", alpaca(1)), template=None, max_bad_rows=1)
    with pytest.raises(ConfigError, match="Did you mean 'drop'"):
        build(str(tmp_path / "a.json"), overlong="dorp")


def test_split_cannot_leak(tmp_path, build, tokenizer):
    rows = alpaca(200)
    first = write(tmp_path / "a.jsonl", rows)
    # The same conversations again, in another format and order.
    second = write(
        tmp_path / "b.jsonl",
        [{"input": row["instruction"] + " ", "output": row["output"]} for row in rows[::-1]],
    )
    sides = {part: build([first, second], val_fraction=0.2, part=part) for part in ("train", "val")}

    def questions(dataset):
        return {text.split()[1] for text in texts(dataset, tokenizer)}

    train, val = questions(sides["train"]), questions(sides["val"])
    assert not train & val
    assert len(train | val) == 200
    assert 0.1 < len(val) / 200 < 0.3
    more = build(
        [write(tmp_path / "c.jsonl", rows + alpaca(100, "new"))], val_fraction=0.2, part="val"
    )
    assert {q for q in questions(more) if not q.startswith("new")} == val


def test_empty_side_of_a_split(tmp_path, build):
    path = write(tmp_path / "a.jsonl", alpaca(1))
    sides = []
    for part in ("train", "val"):
        try:
            build(path, val_fraction=0.5, part=part)
        except DataError as error:
            sides.append(str(error))
    assert len(sides) == 1
    assert "side of the split is empty" in sides[0]
    with pytest.raises(DataError, match="val_fraction is 0"):
        build(path, part="val")


def test_system_text_of_a_source(tmp_path, build, tokenizer):
    rows = [{"conversation": [{"system": s, "input": "Q", "output": "A"}]} for s in ("", "own")]
    path = write(tmp_path / "a.jsonl", rows)
    found = texts(build({"path": path, "system": "given"}), tokenizer)
    assert ["given" in text for text in found] == [True, False]


def test_mixing(tmp_path, build, tokenizer):
    a, b = (
        write(tmp_path / "a.jsonl", alpaca(30, "a")),
        write(tmp_path / "b.jsonl", alpaca(10, "b")),
    )

    def counts(sources, **options):
        found = texts(build(sources, **options), tokenizer)
        return [sum(f"user\n{name}" in text for text in found) for name in "ab"]

    assert counts([{"path": a}, {"path": b, "repeat": 2.5}]) == [30, 25]
    assert counts([{"path": a, "weight": 1}, {"path": b, "weight": 3}]) == [10, 30]
    sources = [{"path": a, "repeat": 0.5}, {"path": b}]
    assert texts(build(sources), tokenizer) == texts(build(sources), tokenizer)


def test_cache(tmp_path, build, tokenizer, monkeypatch):
    path = write(tmp_path / "a.jsonl", alpaca(5))
    before = texts(build(path), tokenizer)
    calls = []
    real = store._write
    monkeypatch.setattr(store, "_write", lambda *a: calls.append(1) or real(*a))
    assert texts(build(path), tokenizer) == before
    assert not calls, "the same data are tokenised once"
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes((tmp_path / "a.jsonl").read_bytes())
    build(str(copy))
    assert not calls, "the path plays no part"
    build(path, max_length=50)
    build(path, template="default")
    build({"path": path, "system": "S"})
    assert len(calls) == 3
    write(tmp_path / "a.jsonl", alpaca(6))
    assert len(texts(build(path), tokenizer)) == 6
    assert len(calls) == 4


def test_damaged_cache_is_built_again(tmp_path, build, tokenizer):
    path = write(tmp_path / "a.jsonl", alpaca(5))
    before = texts(build(path), tokenizer)
    (ids,) = (tmp_path / "cache").glob("*/ids")
    ids.write_bytes(ids.read_bytes()[:-4])
    (ids.parent.parent / f".{ids.parent.name}.dead.tmp").mkdir()  # of a build that was killed
    assert texts(build(path), tokenizer) == before
    assert not list((tmp_path / "cache").glob(".*.tmp"))


def test_unwritable_cache(tmp_path, build, tokenizer, caplog):
    path = write(tmp_path / "a.jsonl", alpaca(5))
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING, "inlay"):
        assert len(texts(build(path, cache_dir=tmp_path / "file" / "x"), tokenizer)) == 5
    assert "cannot be written" in caplog.text


def test_processes_that_build_at_once(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    path = write(tmp_path / "a.jsonl", alpaca(300))
    code = (
        "from transformers import AutoTokenizer; from inlay.data import ChatDataset\n"
        f"t = AutoTokenizer.from_pretrained({str(tmp_path / 'tokenizer')!r})\n"
        f"d = ChatDataset({path!r}, t, 'qwen_chat', cache_dir={str(tmp_path / 'cache')!r})\n"
        "print(d.num_samples_total, d.identity())"
    )
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) for _ in range(2)
    ]
    outputs = {run.communicate()[0] for run in runs}
    assert len(outputs) == 1
    assert outputs.pop().startswith(b"300 ")


def test_several_processes_give_the_same(tmp_path, build, tokenizer):
    path = write(tmp_path / "a.jsonl", alpaca(2500))
    one = build(path, cache_dir=tmp_path / "one")
    two = build(path, cache_dir=tmp_path / "two", num_proc=2)
    assert texts(one, tokenizer) == texts(two, tokenizer)
    assert one.report == two.report


def test_pickled_data_set_holds_no_data(tmp_path, build, tokenizer):
    dataset = build(write(tmp_path / "a.jsonl", alpaca(200)))
    data = pickle.dumps(dataset)
    assert len(data) < 20_000
    assert texts(pickle.loads(data), tokenizer) == texts(dataset, tokenizer)


def test_identity_names_what_changed(tmp_path, build):
    path = write(tmp_path / "a.jsonl", alpaca(5))
    base = build(path).identity()
    assert set(base) == {"data", "template", "tokenizer", "packing"}

    def changed(**options):
        other = build(options.pop("sources", path), **options).identity()
        return {key for key in base if base[key] != other[key]}

    assert changed() == set()
    assert "packing" in changed(max_length=100)
    assert changed(pack_to_max_length=False) == {"packing"}
    assert changed(seed=1) == {"packing"}
    assert "template" in changed(template="default")
    assert changed(sources=write(tmp_path / "b.jsonl", alpaca(6))) == {"data"}
    assert changed(sources={"path": path, "repeat": 2}) == {"data"}


@pytest.mark.shared
def test_every_shared_text(shared_data, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_data / "tokenizers" / "qwen2")
    kept = {
        "alpaca_en_demo.json": 999,
        "alpaca_zh_demo.json": 1000,
        "identity.json": 91,
        "openai_messages.jsonl": 128,
        "psychology_multi_turn_zh.json": 1600,
        "sharegpt.json": 500,
        "xtuner_multi_turn_2.json": 2,
    }
    sources = [str(shared_data / "text" / name) for name in kept]
    dataset = ChatDataset(sources, tokenizer, cache_dir=tmp_path)
    assert dataset.report.kept == dataset.report.rows == sum(kept.values())
    assert 0.4 < dataset.report.share < 0.9
