"""Runs that keep what their frozen networks give: told beforehand, the same numbers, less work."""

from __future__ import annotations

import json
import logging
import pickle
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import published_deepseek
import pytest
import runs
from PIL import Image
from runs import EXACT, trained
from safetensors.torch import load_file
from tiny_sam import SIDE, WIDTH, tiny_sam

from inlay.app.feature_cache import _readable, check_room
from inlay.engine import checkpoint as ckpt
from inlay.models import DeepSeekVLAdapter, FeatureCache, SamRefiner

RECIPE = "frozen_deepseek_vl_1_3b_chat_unet_sam_l_refcoco_png"
SIZES = [(60, 40), (40, 60), (50, 50), (90, 30), (48, 36)]
EPOCHS, BATCHES = 4, 3  # five pictures, two in a batch
LOSS, NORM = EXACT.index("loss"), EXACT.index("grad_norm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DeepSeek-VL, a tiny SAM, and five pictures with two or three sentences each."""
    folder = tmp_path_factory.mktemp("grounding")
    published_deepseek.publish(folder / "lmm", hybrid=False)
    tiny_sam().save_pretrained(folder / "sam")
    images, annotations, refs = [], [], []
    for number, (width, height) in enumerate(SIZES):
        name = f"{number}.png"
        Image.radial_gradient("L").resize((width, height)).convert("RGB").rotate(90 * number).save(
            folder / name
        )
        images.append(dict(id=number, file_name=name, width=width, height=height))
        left, right = 5 + number, 25 + number
        corners = [left, 4, right, 4, right, 26, left, 26]
        annotations.append(
            dict(id=number, image_id=number, bbox=[left, 4, 20, 22], segmentation=[corners])
        )
        for again in range(1 + number % 2):
            said = [dict(sent=f"block {number} {again}"), dict(sent="the thing in the middle")]
            about = dict(ann_id=number, image_id=number, split="train", sentences=said)
            refs.append(dict(ref_id=len(refs), **about))
    (folder / "instances.json").write_text(
        json.dumps(dict(images=images, annotations=annotations, categories=[]))
    )
    (folder / "refs(unc).p").write_bytes(pickle.dumps(refs))
    return folder


def words(folder: Path, work: Path, *more: str) -> list[str]:
    """``inlay train`` of the recipe on what is in ``folder``, in float32, a line an iteration."""
    files = {"instances": str(folder / "instances.json"), "refs": str(folder / "refs(unc).p")}
    source = {"type": "RefCOCO", **files, "image_folder": str(folder)}
    options = [
        f"pretrained_model_name_or_path={folder / 'lmm'}",
        f"sam_checkpoint={folder / 'sam'}",
        f"picture_size={SIDE}",
        "image_size=32",
        "patch_size=8",
        "model.mask_head.base_channels=8",
        "model.lmm.dtype=float32",
        "datasets_list=[]",  # of the recipe, now replaced
        f"train_dataloader.dataset.sources=[{source!r}]",
        "optim_wrapper.dtype=float32",
        "default_hooks.logger.interval=1",
        "randomness.seed=5",
        f"max_epochs={EPOCHS}",
        "dataloader_num_workers=0",
        "batch_size=2",
    ]
    return ["train", RECIPE, "--work-dir", str(work), "--cfg-options", *options, *more]


def run(
    folder: Path, work: Path, *more: str, before: Callable[[], None] | None = None
) -> tuple[int, str]:
    return runs.inlay(words(folder, work, *more), work.parent, before)


def good(folder: Path, work: Path, *more: str, before: Callable[[], None] | None = None) -> str:
    code, text = run(folder, work, *more, before=before)
    assert code == 0, text
    return text


def counting(into: Path) -> Callable[[], None]:
    """For ``before``: a line for every run of a frozen network."""

    def note(what: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any) -> Any:
            with into.open("a") as file:
                file.write(f"{what}\n")
            return method(*args)

        return noted

    def patch() -> None:
        DeepSeekVLAdapter.look = note("look", DeepSeekVLAdapter.look)  # type: ignore[method-assign]
        SamRefiner._encode = note("encode", SamRefiner._encode)  # type: ignore[method-assign]

    return patch


@pytest.fixture(scope="module")
def plain(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run without a cache."""
    work = tmp_path_factory.mktemp("plain") / "w"
    assert "cache" not in good(folder, work)
    return work


def test_pictures_are_encoded_in_the_first_epoch_alone(
    folder: Path, plain: Path, tmp_path: Path
) -> None:
    cache, calls = tmp_path / "cache", tmp_path / "calls"
    more = [f"cache_dir={cache}", "dataloader_num_workers=2"]
    text = good(folder, tmp_path / "w", *more, before=counting(calls))
    assert trained(tmp_path / "w") == trained(plain), "to the bit"
    blank = 1  # its size is measured
    counts = Counter(calls.read_text().split())
    assert counts == {"look": EPOCHS * BATCHES, "encode": blank + len(SIZES)}
    size = WIDTH * (SIDE // 16) ** 2 * 4
    files = [path.stat().st_size for path in cache.rglob("*.safetensors")]
    assert len(files) == len(SIZES) and all(size <= file < size + 300 for file in files)
    told = re.search(r"cache: up to 5 pictures of 4\.61 kB in (\S+): 23 kB are still .* free", text)
    assert told is not None and told[1] == str(cache)
    assert text.index(told[0]) < text.index("Iter(train)")


def test_after_all_sentences_no_frozen_network_runs(
    folder: Path, plain: Path, tmp_path: Path
) -> None:
    cache, calls = tmp_path / "cache", tmp_path / "calls"
    more = [f"cache_dir={cache}", "cache_texts=True", "dataloader_num_workers=2"]
    text = good(folder, tmp_path / "w", *more, before=counting(calls))
    counts = Counter(calls.read_text().split())
    assert counts == {"look": 2 * BATCHES, "encode": 1 + len(SIZES)}
    ours, theirs = trained(tmp_path / "w"), trained(plain)
    for a, b in zip(ours, theirs, strict=True):
        assert a[LOSS] == pytest.approx(b[LOSS], rel=1e-3)
    files = sorted(path.parts[-3].split("-")[0] for path in cache.rglob("*.safetensors"))
    assert Counter(files) == {"image": 5, "text": 10}
    sizes = [sum(t.nbytes for t in load_file(p).values()) for p in cache.glob("text-*/*/*")]
    told = re.search(r"and 10 texts of ([\d.]+) kB", text)
    assert told is not None
    assert float(told[1]) * 1000 == pytest.approx(sum(sizes) / len(sizes), rel=0.2)


def test_a_run_that_was_stopped_goes_on_with_its_cache(
    folder: Path, plain: Path, tmp_path: Path
) -> None:
    cache = f"cache_dir={tmp_path / 'cache'}"
    work = tmp_path / "w"
    code, text = run(folder, work, cache, before=runs.stop_at(BATCHES + 2))
    assert code == 143, text
    first = next((tmp_path / "cache").rglob("*.safetensors"))
    first.write_bytes(first.read_bytes()[:-7])
    code, text = runs.inlay([*words(folder, work, cache), "--resume"], tmp_path)
    assert code == 0, text
    assert text.count(f"{first} is damaged; it is computed anew") == 1
    assert " 0 B are still to be written" in text
    assert trained(work) == trained(plain)


@pytest.mark.parametrize("texts", [False, True])
def test_two_ranks_of_uneven_data_make_the_run_of_one(
    folder: Path, plain: Path, tmp_path: Path, texts: bool
) -> None:
    """The fifth picture leaves a rank with a stand-in in every epoch."""
    more = ["batch_size=1", f"cache_dir={tmp_path / 'cache'}", f"cache_texts={texts}"]
    children = runs.start_ranks(words(folder, tmp_path / "w", *more), tmp_path, 2)
    assert [child.wait() for child in children] == [0, 0], "\n".join(c.text for c in children)
    one, two = trained(plain), trained(tmp_path / "w")
    tolerance = 1e-3 if texts else 1e-5
    for a, b in zip(one, two, strict=True):
        assert a[:LOSS] == b[:LOSS] and a[NORM + 1 :] == b[NORM + 1 :]
        assert b[LOSS] == pytest.approx(a[LOSS], rel=tolerance)
    weights = [ckpt.load_weights(work) for work in (plain, tmp_path / "w")]
    assert weights[0].keys() == weights[1].keys()
    if not texts:
        assert all((weights[0][k] - weights[1][k]).abs().max() < 1e-4 for k in weights[0])


def room(free: int) -> Callable[[], None]:
    """For ``before``: a disk with so many bytes left."""

    def patch() -> None:
        shutil.disk_usage = lambda path: SimpleNamespace(free=free)  # type: ignore[assignment]

    return patch


def test_what_does_not_fit_is_refused_before_it_starts(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    code, text = run(folder, tmp_path / "w", f"cache_dir={cache}", before=room(20_000))
    assert code == 1 and "Iter(train)" not in text and not cache.exists()
    assert (
        f"the cache does not fit: 5 pictures of 4.61 kB in {cache} take 23 kB more, 20 kB are "
        "free. Either name a folder on a larger disk (cache_dir), or keep nothing (cache_dir=None)"
    ) in text
    more = [f"cache_dir={cache}", "cache_texts=True"]
    code, text = run(folder, tmp_path / "w2", *more, before=room(30_000))
    assert code == 1 and "Iter(train)" not in text and not cache.exists()
    assert "5 pictures of 4.61 kB and 10 texts of" in text
    assert "keep pictures alone, 23 kB (cache_texts=False), or keep nothing" in text


def test_a_cache_that_keeps_nothing_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger("inlay"), "propagate", True)
    model = SimpleNamespace(cache=FeatureCache(tmp_path))
    runner: Any = SimpleNamespace(model=model, train_dataloader=None, val_dataloader=None)
    check_room(runner)
    assert f"cache: {tmp_path} keeps nothing" in caplog.text


def test_bytes_are_readable() -> None:
    found = [_readable(n) for n in (0, 999, 1000, 23_040, 4_194_304, 999_600_000, 2.5e12, 3e15)]
    assert found == ["0 B", "999 B", "1 kB", "23 kB", "4.19 MB", "1 GB", "2.5 TB", "3e+03 TB"]
