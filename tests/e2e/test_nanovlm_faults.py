"""The fifteen faults of the original nanoVLM loop, and that ours has none of them.

Each test drives the recipe `nanovlm_450m`, through the command line or through the parts that it
is built of, with tiny random backbones.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_vlms
from app import runs
from nanovlm_runs import Backbones, draw, mixed_rows, row, write

from inlay.core.errors import ConfigError, DataError
from inlay.data.pack import best_fit
from inlay.engine import checkpoint as ckpt

PEAK = 5.12e-3  # lr_mp


@pytest.fixture(scope="module", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Import once, in the parent, what every forked run would import."""
    os.environ["INLAY_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    import peft  # noqa: F401
    import torch

    import inlay.app.train
    import inlay.data.sft
    import inlay.data.stream
    import inlay.models.llava  # noqa: F401

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Backbones:
    return Backbones(tmp_path_factory.mktemp("backbones"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 rows, of which 16 have a picture."""
    folder = tmp_path_factory.mktemp("data")
    return write(folder / "rows.jsonl", mixed_rows(folder, 24))


def finished(words: list[Any], folder: Path, before: Callable[[], None] | None = None) -> str:
    code, text = runs.inlay(words, folder, before)
    assert code == 0, text
    return text


def weights(work_dir: Path) -> dict[str, Any]:
    return ckpt.load_weights(work_dir)


def furthest(a: dict[str, Any], b: dict[str, Any]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def texts(tokenizer: Any, batches: Iterator[Any], image_token: int) -> list[str]:
    """The documents of batches in words; tokens of pictures are left out."""
    found = []
    for batch in batches:
        ids = batch.inputs["input_ids"][0]
        for a, b in pairwise(batch.inputs["doc_starts"].tolist()):
            document = ids[a:b]
            found.append(tokenizer.decode(document[document != image_token]))
    return found


# -- 1 to 5 --------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [{}, {"lm_chat_template": None}], ids=["recipe", "tokenizer"])
def test_fault_01_labels_are_never_empty(tmp_path, backbones, data, template) -> None:
    """Under transformers 5 every label was masked, the loss NaN, and the run "completed"."""
    parts = backbones.parts(data, **template)
    dataset, tokenizer = parts.loader("train").dataset, parts.tokenizer()
    rows = [json.loads(line) for line in data.read_text().splitlines()]
    answers = Counter(r["messages"][1]["content"] + "<|im_end|>\n" for r in rows)
    if template:  # the tokenizer's own: what the model says up to its stop token
        answers = Counter({a.removesuffix("\n"): n for a, n in answers.items()})
    found: Counter[str] = Counter()
    for index in range(dataset.num_samples_total):
        sample = dataset.sample(index)
        found[tokenizer.decode(sample.ids[sample.mask])] += 1
    assert found == answers

    finished(backbones.train(data, tmp_path / "w", **template, max_training_steps=1), tmp_path)
    assert all(0 < record[3] < 20 for record in runs.trained(tmp_path / "w"))


@pytest.mark.parametrize("stream", [False, True])
def test_fault_01_no_trained_token_is_an_error(tmp_path, backbones, stream) -> None:
    """A run without a single trained token "completed" with a loss of NaN."""
    rows = [row(i) for i in range(6)]
    for one in rows:
        one["messages"][1]["content"] = "far too long " * 40
    data = write(tmp_path / "rows.jsonl", rows)
    words = backbones.train(data, tmp_path / "w", stream_dataset=stream)
    code, text = runs.inlay(words, tmp_path)
    assert code == 1 and "longer than max_length" in text, text
    assert not runs.trained(tmp_path / "w")


@pytest.mark.parametrize("stream", [False, True])
def test_fault_02_resume_restores_everything(tmp_path, backbones, data, stream) -> None:
    """Only weights were restored: no optimizer, step, learning rate, data position or generator.

    The run stops inside an accumulation window and goes on with workers.
    """
    settings = {"stream_dataset": stream, "max_training_steps": 5, "val_size": 4}
    settings |= {"eval_interval": 2, "eval_batches": 1}
    finished(backbones.train(data, tmp_path / "whole", **settings), tmp_path)
    words = backbones.train(data, tmp_path / "w", **settings)
    code, text = runs.inlay(words, tmp_path, runs.stop_at(6))
    assert code == 143 and len(runs.trained(tmp_path / "w")) == 5, text
    again = backbones.train(data, tmp_path / "w", "--resume", **settings, dataloader_num_workers=2)
    finished(again, tmp_path)
    whole = {record[0]: record for record in runs.trained(tmp_path / "whole")}
    resumed = runs.trained(tmp_path / "w")
    assert {record[0]: record for record in resumed} == whole and len(whole) == 10
    assert all(record == whole[record[0]] for record in resumed)
    judged = [
        {r["iter"]: r["val/loss"] for r in runs.scalars(tmp_path / run) if "val/loss" in r}
        for run in ("whole", "w")
    ]
    assert judged[0] == judged[1] and len(judged[0]) == 3
    assert furthest(weights(tmp_path / "whole"), weights(tmp_path / "w")) == 0
    states = [ckpt.read(tmp_path / run / "iter_10") for run in ("whole", "w")]
    for kind in states[0].tensors:
        assert furthest(*(state.tensors[kind] for state in states)) == 0, kind


def test_fault_03_the_last_updates_are_saved(tmp_path, backbones, data) -> None:
    """Checkpoints came with evaluations only: what was trained after the last one was lost."""
    settings = {"max_training_steps": 5, "eval_interval": 2, "save_total_limit": -1}
    finished(backbones.train(data, tmp_path / "w", **settings), tmp_path)
    saved = ckpt.list_checkpoints(tmp_path / "w")
    assert [path.name for path in saved] == ["iter_4", "iter_8", "iter_10"]
    assert ckpt.read(saved[-1]).state["run"]["update"] == 5
    fourth, fifth = (ckpt.read(path).tensors["model"] for path in saved[1:])
    assert furthest(fourth, fifth) > 0


def test_fault_04_streaming_validation_never_leaks(tmp_path, backbones) -> None:
    """40 of 60 held-out samples were trained on, too.

    Pictures come again under other names and with other questions, texts come again.
    """
    rows = []
    for i in range(60):
        name = draw(tmp_path / f"{i}.png", i % 40)  # 20 pictures stand under two names
        rows.append(row(i % 50, name) if i % 4 else row(i % 30))
    data = write(tmp_path / "rows.jsonl", rows)
    limit = {"eval_batches": 1000, "stream_dataset": True}
    for split in ({"val_size": 12}, {"val_dataloader__dataset__val_fraction": 0.3}):
        if "val_size" not in split:  # a share instead, which the recipe has no setting for
            fraction = {"train_dataloader__dataset__val_fraction": 0.3}
            sizes = {f"{part}_dataloader__dataset__val_size": None for part in ("train", "val")}
            split = {"val_size": 1, **split, **fraction, **sizes}
        parts = backbones.parts(data, **limit, **split)
        sides = {}
        for part in ("train", "val"):
            dataset = parts.loader(part).dataset
            samples = [s for item in dataset.items(0, 0) for s in item.samples]
            pictures = {Path(i.path).read_bytes() for s in samples for i in s.images}
            alone = {s.ids.tobytes() for s in samples if not s.images}
            sides[part] = pictures, alone
            report = dataset.report
            assert report.kept == len(samples) > 0 and pictures and alone
            if part == "train":
                assert report.rows == 60 == report.kept + sum(report.dropped.values())
        assert not sides["train"][0] & sides["val"][0], split
        assert not sides["train"][1] & sides["val"][1], split


def broken_data(folder: Path) -> Path:
    """12 rows; the picture of line 7 ends in the middle."""
    rows = mixed_rows(folder, 12)
    picture = folder / "7.png"
    picture.write_bytes(picture.read_bytes()[:-4000])
    return write(folder / "rows.jsonl", rows)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("verify", [True, False])
def test_fault_05_a_bad_picture_is_an_error_in_seconds(
    tmp_path, backbones, stream, workers, verify
) -> None:
    """One bad picture hung the run for ever."""
    data = broken_data(tmp_path)
    settings = {"stream_dataset": stream, "dataloader_num_workers": workers}
    settings |= {"train_dataloader__dataset__verify_images": verify, "max_training_steps": 8}
    child = runs.start(backbones.train(data, tmp_path / "w", **settings), tmp_path)
    assert child.wait(30) == 1, child.text
    assert f"{data}, line 7" in child.text and "7.png" in child.text
    assert child.text.count("Traceback") == 0, child.text
    if verify:
        settings["train_dataloader__dataset__max_bad_rows"] = 1
        words = backbones.train(data, tmp_path / "w2", **settings)
        text = finished(words, tmp_path)
        assert stream or f"{data}:7" in text


def test_fault_05_a_bad_picture_on_one_of_two_ranks_ends_both(tmp_path, backbones) -> None:
    """The rank without the picture waited for the other one for ever."""
    data = broken_data(tmp_path)
    settings = {"train_dataloader__dataset__verify_images": False, "max_training_steps": 8}
    words = backbones.train(data, tmp_path / "w", **settings)
    began = time.monotonic()
    children = runs.start_ranks(words, tmp_path, 2)
    codes = [child.wait(60) for child in children]
    assert time.monotonic() - began < 30
    assert all(code > 0 for code in codes), [child.text for child in children]
    assert any(f"{data}, line 7" in child.text for child in children)


@pytest.mark.timeout(60)
def test_fault_05_a_killed_process_is_an_error(tmp_path, backbones, data) -> None:
    """A process that dies over a picture (for memory, say) must not be waited for."""
    here = os.getpid()

    def deadly(value: Any) -> Any:
        if os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return value

    dataset = {"sources": [{"path": str(data), "format": deadly}], "num_proc": 2}
    parts = backbones.parts(data)
    node = {**parts.cfg["train_dataloader"]["dataset"], **dataset}
    with pytest.raises(DataError, match="killed"):
        parts.builder.build(node)


# -- 6 to 10 -------------------------------------------------------------------------------------


def judged_logits(model: Any, batch: Any) -> Any:
    """The logits that the model computes for a batch, ``[K, vocabulary]``."""
    seen: list[Any] = []
    handle = model.llm.lm_head.register_forward_hook(lambda _m, _i, out: seen.append(out[0]))
    model(**batch.inputs)
    handle.remove()
    (logits,) = seen
    return logits.detach()


def test_fault_06_packed_samples_do_not_see_each_other(backbones, data) -> None:
    """Packed samples attended to each other, and their positions ran on."""
    import torch

    parts = backbones.parts(data)
    dataset, model = parts.loader("train").dataset, parts.model().eval()
    packs = [index for index in range(len(dataset)) if dataset.num_samples[index] > 2]
    assert any(0 < dataset.num_images[p] < dataset.num_samples[p] for p in packs), "text beside"
    for index in packs:
        samples = dataset.item(index, 0)
        pack = dataset.collate([samples])
        together = judged_logits(model, pack)
        alone = torch.cat([judged_logits(model, dataset.collate([[s]])) for s in samples])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
        counted = [torch.arange(len(s.ids)) for s in samples]
        assert torch.equal(pack.inputs["position_ids"][0, : pack.num_tokens], torch.cat(counted))


def note_images(path: Path) -> Callable[[], None]:
    """For ``before``: the numbers of pictures of this process's micro-batches go to ``path``."""

    def patch() -> None:
        from inlay.engine.parallel.single import SingleDevice

        forward = SingleDevice.forward

        def noted(self: Any, model: Any, batch: Any) -> Any:
            with path.open("a") as file:
                file.write(f"{batch.num_images}\n")
            return forward(self, model, batch)

        SingleDevice.forward = noted  # type: ignore[method-assign]

    return patch


def two_ranks(words: list[Any], folder: Path) -> list[list[int]]:
    """Run on two ranks; return the pictures of each rank's micro-batches."""
    notes = [folder / f"{words[3].name}_{rank}" for rank in (0, 1)]
    children = runs.start_ranks(words, folder, 2, [note_images(path) for path in notes])
    codes = [child.wait(90) for child in children]
    assert codes == [0, 0], "\n".join(child.text for child in children)
    return [[int(line) for line in path.read_text().split()] for path in notes]


def check_same_run(one: Path, other: Path, tolerance: float) -> None:
    """The same weights, and the same gradients at every update."""
    assert furthest(weights(one), weights(other)) <= tolerance
    records = [[r for r in runs.scalars(w) if "loss" in r and r["update"]] for w in (one, other)]
    norms = [{r["update"]: r["grad_norm"] for r in found} for found in records]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert all(records[0][-1][key] == records[1][-1][key] for key in ("samples", "tokens"))


def test_fault_07_no_mean_of_means(tmp_path, backbones, data) -> None:
    """Losses were means of means: over the micro-batches of an update, and over ranks.

    1 x 4, 2 x 2 and 4 x 1 micro-batches, text rows among them, and two ranks, make equal updates.
    """
    common = {"train_dataloader__dataset__pack_to_max_length": False, "max_training_steps": 4}
    common |= {"optim_type": "torch.optim.SGD", "lr_vision_backbone": 0.05}
    common |= {"lr_language_backbone": 0.05, "lr_mp": 0.05}
    works = {}
    for batch, accumulate in ((1, 4), (2, 2), (4, 1)):
        sizes = {"batch_size": batch, "gradient_accumulation_steps": accumulate}
        works[batch] = tmp_path / f"{batch}x{accumulate}"
        finished(backbones.train(data, works[batch], **common, **sizes), tmp_path)
    sizes = {"batch_size": 1, "gradient_accumulation_steps": 2}
    shown = two_ranks(backbones.train(data, tmp_path / "two", **common, **sizes), tmp_path)
    assert any(0 in images for images in shown)
    for work in (works[2], works[4], tmp_path / "two"):
        check_same_run(works[1], work, 1e-6)
    start = weights(works[1] / "iter_16")
    assert all(float(value.abs().max()) > 0 for value in start.values())


def lossy_data(folder: Path) -> Path:
    """Rows of every fate: 9 that stay, and one for each way of being lost."""
    rows = mixed_rows(folder, 9)
    (folder / "torn.png").write_bytes((folder / "1.png").read_bytes()[:300])
    rated = {"texts": [{"user": "q", "assistant": "a"}], "images": [], "relevance_ratings": [0]}
    rows += [
        row(10, "torn.png"),
        row(11, answer="long " * 200),
        row(12, *["1.png"] * 5),
        row(13, *[draw(folder / "large.png", 50, (256, 256))] * 2),
        {"messages": [{"role": "user", "content": "no answer"}]},
    ]
    write(folder / "rated.jsonl", [rated])
    return write(folder / "rows.jsonl", rows)


@pytest.mark.parametrize("stream", [False, True])
def test_fault_08_nothing_is_lost_without_a_word(tmp_path, backbones, stream) -> None:
    """Partial windows, first batches, batches without pictures and long samples vanished."""
    data = lossy_data(tmp_path)
    sources = [{"path": str(data)}, {"path": str(tmp_path / "rated.jsonl")}]
    settings = {
        "stream_dataset": stream,
        "train_dataloader__dataset__sources": sources,
        "train_dataloader__dataset__max_bad_rows": 2,
        "train_dataloader__dataset__pack_to_max_length": False,
        "lm_max_length": 900,
        "max_sample_length": 900,
        "max_images_per_knapsack": 20,
        "train_cfg__max_iters": 5,  # one pass of 9 samples
        "batch_size": 2,
        "gradient_accumulation_steps": 2,
    }
    text = finished(backbones.train(data, tmp_path / "w", **settings), tmp_path)
    assert "15 rows read, 9 kept" in text, text
    for fate in (
        "dropped 1: longer than max_length",
        "dropped 1: more than max_images pictures",
        "dropped 1: more than max_tiles tiles",
        "dropped 1: below min_ratings",
        f"bad 2, the first of them:\n    {data}:10:",
        f"{data}:14: there is no assistant turn",
    ):
        assert fate in text, text
    trained = runs.trained(tmp_path / "w")
    assert len(trained) == 5 and trained[-1][-1] == 9, "the last, short window is trained"
    assert trained[-1][1] == 3, "updates: two windows of two micro-batches, and a short one"


def test_fault_08_batches_without_pictures_are_trained(tmp_path, backbones) -> None:
    """A batch without any picture was passed over."""
    data = write(tmp_path / "rows.jsonl", [row(i) for i in range(12)])
    finished(backbones.train(data, tmp_path / "w"), tmp_path)
    trained = runs.trained(tmp_path / "w")
    assert len(trained) == 8 and trained[-1][-1] >= 12
    assert trained[-1][3] < trained[0][3]


def test_fault_09_the_learning_rate_never_overshoots(tmp_path, backbones, data) -> None:
    """47 updates have 1.41 updates of warm-up: the second one got 1.42 times the peak."""
    settings = {"max_training_steps": 47, "gradient_accumulation_steps": 1}
    finished(backbones.train(data, tmp_path / "w", **settings), tmp_path)
    records = [r for r in runs.scalars(tmp_path / "w") if "loss" in r]
    rates = [r["lr/projector"] for r in records]
    theirs = [original_rate(update, 47) for update in range(47)]
    assert max(theirs) > 1.4 * PEAK
    assert rates == pytest.approx([min(rate, PEAK) for rate in theirs], rel=1e-9)
    assert max(rates) == PEAK
    share = 5e-5 / PEAK
    for part in ("visual_encoder", "llm"):
        assert [r[f"lr/{part}"] for r in records] == pytest.approx([r * share for r in rates])
    # Where the warm-up is a whole number of updates, the original's rule to the last digit.
    parts = backbones.parts(data)
    (schedule,) = parts.schedules()
    from inlay.engine.schedule import learning_rate

    ours = [learning_rate(PEAK, [schedule], update, 1000, 1000) for update in range(1000)]
    wanted = [original_rate(update, 1000) for update in range(1000)]
    assert ours == pytest.approx(wanted, rel=1e-12) and max(wanted) <= PEAK


def original_rate(update: int, total: int) -> float:
    """The original's rule: linear to ``total * 0.03``, half a cosine to a tenth."""
    warm, floor = total * 0.03, PEAK * 0.1
    if update < warm:
        return PEAK * (update + 1) / warm
    turn = math.pi * (update - warm) / (total - warm)
    return floor + 0.5 * (1 + math.cos(turn)) * (PEAK - floor)


def test_fault_10_pictures_are_normalised_for_the_encoder(tmp_path, backbones) -> None:
    """SigLIP was shown pixels in [0, 1]; it was trained on (x - 0.5) / 0.5."""
    from PIL import Image

    for name, value in (("black", 0), ("white", 255)):
        Image.new("RGB", (64, 64), (value,) * 3).save(tmp_path / f"{name}.png")
    data = write(tmp_path / "rows.jsonl", [row(0, "black.png", "white.png")])
    dataset = backbones.parts(data).loader("train").dataset
    seen = dataset.collate([dataset.item(0, 0)]).inputs["images"]["pixel_values"]
    assert seen.shape == (2, 3, 64, 64)
    assert seen[0].unique().tolist() == [-1] and seen[1].unique().tolist() == [1]
    # Another encoder has other numbers: CLIP's.
    clip = tiny_vlms.clip(tmp_path / "clip")
    options = {"vit_model_type": clip, "max_img_size": 112}
    processor = backbones.parts(data, **options).image_processor()
    white = processor.pixels(Image.new("RGB", (56, 56), "white"))["pixel_values"]
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), [0.26862954, 0.26130258, 0.27577711]
    assert white.mean((0, 2, 3)) == pytest.approx((1 - mean) / std, rel=1e-5)


# -- 11 to 15 ------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
def test_fault_11_no_validation_batch_is_never_the_best(tmp_path, backbones, stream) -> None:
    """Without a batch to judge, the validation loss was 0, and 0 was the best checkpoint."""
    rows = [row(i, answer="long " * 100) for i in range(3)] + [row(i) for i in range(3, 9)]
    data = write(tmp_path / "rows.jsonl", rows)
    settings = {"stream_dataset": stream, "eval_interval": 1, "val_size": 3}
    if not stream:  # all that is held out is left out: the length is known before the split
        data = write(tmp_path / "rows.jsonl", rows[:3])
    code, text = runs.inlay(backbones.train(data, tmp_path / "w", **settings), tmp_path)
    assert code == 1 and "empty" in text and "dropped 3" in text.replace("3 dropped", "dropped 3")
    assert not list((tmp_path / "w").glob("best*"))
    assert not [r for r in runs.scalars(tmp_path / "w") if "val/loss" in r]
    assert bool(ckpt.list_checkpoints(tmp_path / "w")) == stream, "what was trained is kept"


SWITCHES = ("compile", "stream_dataset", "resize_to_max_side_len", "eval_in_epochs", "push_to_hub")


def test_fault_12_false_means_false(tmp_path, backbones, data) -> None:
    """`--compile False` was the text "False", and that is true in Python."""
    from inlay.app.train import checked_config

    for text in ("False", "false"):
        options = backbones.options(data, **dict.fromkeys(SWITCHES, text))
        config = checked_config("nanovlm_450m", options)
        assert all(config[name] is False for name in SWITCHES)
        assert config.env_cfg["compile"] is False
    assert checked_config("nanovlm_450m", backbones.options(data, compile="True")).compile is True
    for name in SWITCHES:
        for text in ("'False'", "no", "off"):
            with pytest.raises(ConfigError, match=rf"{name}.*(True or False|expected bool)"):
                checked_config("nanovlm_450m", backbones.options(data, **{name: text}))
    code, text = runs.inlay(backbones.train(data, tmp_path / "w", compile="'False'"), tmp_path)
    assert code == 1 and "compile" in text


def test_fault_13_packs_are_full_and_tiles_are_counted(tmp_path, backbones) -> None:
    """Packs were 58 % full, and the cap on pictures did not see their tiles."""
    random = np.random.default_rng(0)
    text = np.clip(random.lognormal(math.log(200), 1.0, 10_000).astype(np.int64), 8, 2500)
    tiles = random.choice((0, 1, 3, 5, 10, 17), len(text), p=(0.3, 0.25, 0.15, 0.15, 0.1, 0.05))
    lengths = text + 65 * tiles
    packs = best_fit(lengths, 4096, 64, 0, tiles, 63)
    assert packs.sums(lengths).max() <= 4096 and packs.sums(tiles).max() <= 63
    utilisation = lengths.sum() / (4096 * len(packs))
    print(f"utilisation at window 64: {utilisation:.2%}")
    assert utilisation >= 0.98

    # Online: the recipe's stream. Rows of one picture and five tiles, or of text.
    sizes = np.clip(random.lognormal(math.log(60), 0.8, 600).astype(np.int64), 4, 700)
    name = draw(tmp_path / "picture.png", 1, (128, 128))
    rows = [row(i, *[name] * (i % 4 == 0), answer="a" * n) for i, n in enumerate(sizes.tolist())]
    data = write(tmp_path / "rows.jsonl", rows)
    limits = {"lm_max_length": 1024, "max_sample_length": 1024, "max_images_per_knapsack": 15}
    dataset = backbones.parts(data, stream_dataset=True, **limits).loader("train").dataset
    items = [item.samples for item in dataset.items(0, 0)]
    tiles = [sum(s.tiles for s in samples) for samples in items]
    assert max(tiles) == 15, "three pictures of five tiles: the cap binds"
    filled = [sum(len(s.ids) for s in samples) for samples in items]
    assert max(filled) <= 1024 and sum(map(len, items)) == 600
    print(f"utilisation of the stream: {np.mean(filled) / 1024:.2%} of {len(items)} packs")
    assert np.mean(filled) / 1024 >= 0.98
    opened = dataset.collate([dataset.open(next(dataset.items(0, 0)), 0)])
    assert opened.inputs["images"]["pixel_values"].shape[0] == tiles[0]


def test_fault_14_a_small_picture_stays_small() -> None:
    """100 x 100 px were blown up to 2048 x 2048: 17 tiles, 1105 tokens."""
    from PIL import Image

    from inlay.config.load import load_config
    from inlay.data import TiledImageProcessor

    node = dict(load_config("nanovlm_450m").image_processor)
    assert node.pop("type") is TiledImageProcessor
    node |= {"tokenizer": tiny_vlms.byte_tokenizer(), "visual_encoder": None}  # 512 px, 16 a patch
    processor = TiledImageProcessor(**node)
    plan = processor.plan(100, 100)
    assert (plan.tiles, len(plan.ids)) == (1, 65)
    assert plan.ids.count(processor.image_token_id) == 64
    pixels = processor.pixels(Image.new("RGB", (100, 100)))["pixel_values"]
    assert pixels.shape == (1, 3, 512, 512)
    blown_up = TiledImageProcessor(**node | {"resize_to_max": True}).plan(100, 100)
    assert (blown_up.tiles, len(blown_up.ids)) == (17, 1105), "the original's, for its models"


def test_fault_15_logits_at_trained_positions_only(backbones, data) -> None:
    """Logits of the whole vocabulary were computed for every token, pictures included."""
    parts = backbones.parts(data)
    dataset, model = parts.loader("train").dataset, parts.model()
    for index in range(len(dataset)):
        batch = dataset.collate([dataset.item(index, 0)])
        vocabulary = model.llm.config.get_text_config().vocab_size
        assert judged_logits(model, batch).shape == (batch.loss_units, vocabulary)
        assert batch.loss_units < batch.num_tokens


def test_fault_15_nothing_is_read_from_the_device_in_a_micro_step(
    tmp_path, backbones, data
) -> None:
    """`loss.item()` made every micro-step wait for the device."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    from inlay.app.train import build_runner, checked_config

    settings = {"gradient_accumulation_steps": 4, "max_training_steps": 2}
    settings["default_hooks__logger__interval"] = 100
    config = checked_config("nanovlm_450m", backbones.options(data, **settings))
    work_dir, logger = tmp_path / "w", logging.getLogger("test")
    (tmp_path / "log" / "vis_data").mkdir(parents=True)
    device = torch.device("cpu")
    runner = build_runner(config, 0, device, work_dir, tmp_path / "log", logger)
    reads: list[int] = []

    class Reads(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
                reads.append(runner.state.iter)
            return func(*args, **kwargs or {})

    with Reads():
        runner.train()
    assert (runner.state.update, runner.state.iter) == (2, 8)
    assert set(reads) - {8} == {3, 7}, "the norm of an update is read, and nothing else"


def test_fault_15_generation_stops_at_the_stop_token(backbones, data) -> None:
    """`generate` always wrote all its tokens."""
    import torch

    parts = backbones.parts(data)
    tokenizer, model = parts.tokenizer(), parts.model()
    dataset = parts.loader("train").dataset
    batch = dataset.collate([dataset.item(0, 0)[:1]])
    inputs = {k: batch.inputs[k] for k in ("input_ids", "images", "image_positions")}
    prompt = inputs["input_ids"].shape[1]
    steps = [0]

    def third_is_the_stop(_module: Any, _inputs: Any, logits: Any) -> Any:
        steps[0] += 1
        wanted = tokenizer.eos_token_id if steps[0] == 3 else tokenizer.encode("a")[0]
        return logits.index_fill(-1, torch.tensor([wanted]), 1e4)

    model.llm.lm_head.register_forward_hook(third_is_the_stop)
    out = model.generate(**inputs, max_new_tokens=20, do_sample=False)
    assert tokenizer.decode(out[0, prompt:]) == "aa<|im_end|>" and steps[0] == 3


# -- two ranks -----------------------------------------------------------------------------------


def one_picture(folder: Path) -> Path:
    """7 rows: an uneven number, and one picture among them."""
    rows = [row(i) for i in range(7)]
    rows[3] = row(3, draw(folder / "3.png", 3))
    return write(folder / "rows.jsonl", rows)


def nanovlm(folder: Path, data: Path, backbones: Backbones) -> list[Any]:
    settings = {"train_dataloader__dataset__pack_to_max_length": False}
    settings |= {"train_cfg__max_iters": None, "train_cfg__max_epochs": 2}
    return backbones.train(data, folder, **settings)


def llava_lora(folder: Path, data: Path, backbones: Backbones) -> list[Any]:
    values = {
        "llm_name_or_path": backbones.llm,
        "visual_encoder_name_or_path": tiny_vlms.clip(data.parent / "clip"),
        "pretrained_pth": None,
        "data_path": data,
        "image_folder": data.parent,
        "prompt_template": None,
        "evaluation_images": None,
        "evaluation_inputs": [],
        "dataloader_num_workers": 0,
        "max_epochs": 2,
        "batch_size": 1,
        "accumulative_counts": 2,
        "model.llm.dtype": "float32",
        "model.visual_encoder.dtype": "float32",
        "model.llm_lora.lora_dropout": 0,
        "optim_wrapper.dtype": "float32",
        "default_hooks.logger.interval": 1,
        "lr": 1e-3,
        "param_scheduler": [],  # it counts micro-batches
    }
    words = ["train", "llava_v15_7b_finetune_lora", "--work-dir", folder, "--cfg-options"]
    return words + [f"{name}={value}" for name, value in values.items()]


@pytest.mark.parametrize("way", [nanovlm, llava_lora])
def test_a_rank_without_pictures_keeps_up(tmp_path, backbones, way) -> None:
    """Two ranks, seven rows, one picture: no hang, and the updates of one rank."""
    data = one_picture(tmp_path)
    sizes = {nanovlm: "gradient_accumulation_steps", llava_lora: "accumulative_counts"}
    one = way(tmp_path / "one", data, backbones)
    two = [*way(tmp_path / "two", data, backbones), f"{sizes[way]}=1"]
    finished(one, tmp_path)
    shown = two_ranks(two, tmp_path)
    assert sorted(map(sum, shown)) != [0, 0] and any(sum(pair) for pair in zip(*shown, strict=True))
    assert any(min(pair) == 0 < max(pair) for pair in zip(*shown, strict=True)), shown
    assert len(shown[0]) == len(shown[1]) == 8
    check_same_run(tmp_path / "one", tmp_path / "two", 1e-5)
