"""Grounding on real photos, end to end: train, SIGKILL, resume, evaluate, point, chat, export.

The published recipes with paths and sizes overridden; the models are tiny and random, of the real
classes, so that what is shown is the way of the data, and not that words are found.
"""

from __future__ import annotations

import io
import json
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grounding_runs as g
import numpy as np
import pytest
import runs
import tiny_vlms
from PIL import Image
from processes import check_equal_after_resume, inlay, records, train_killed_and_resumed
from pycocotools import mask as coco
from safetensors.torch import load_file

from inlay.cli import main

pytestmark = pytest.mark.shared

MODELS: dict[str, Callable[[Path], Path]] = {
    g.DEEPSEEK: g.deepseek,
    g.QWEN: tiny_vlms.qwen_vl,
    g.LLAVA_NEXT: g.llava_next,
}
EVERY_LINE = "default_hooks.logger.interval=1"
PHRASES = ["the person on the left", "a dog"]


@pytest.fixture
def grounding(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of real material; results go to the test's own folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INLAY_CACHE", str(tmp_path / "cache"))
    return shared_data / "grounding"


def overrides(name: str, folder: Path, grounding: Path) -> list[str]:
    """Write tiny models and return the recipe's overrides."""
    model = MODELS[name](folder / "lmm")
    coco = g.link_coco(folder / "coco", grounding)
    more = [*g.SIZES[name], EVERY_LINE, "save_total_limit=2", "batch_size=4", "max_epochs=1"]
    return g.options(coco, model, g.sam(folder / "sam"), *more)


def last(work_dir: Path) -> Path:
    return work_dir / Path((work_dir / "last_checkpoint").read_text().strip()).name


def said(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    """Run a command, which must succeed; return what it printed."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    assert code == 0, err
    return out


def masks(capsys: pytest.CaptureFixture[str], photo: Path, *words: Any) -> np.ndarray:
    """What ``inlay ground`` finds in a photo, bool ``[M, H, W]``."""
    command = ["ground", photo, *PHRASES, "--json", "-", "--out", "overlay.png", *words]
    found = json.loads(said(capsys, *command))
    assert [each["phrase"] for each in found] == PHRASES
    return np.stack([coco.decode(each["rle"]) for each in found]).astype(bool)


def check_checkpoint(folder: Path) -> None:
    """Only what was trained is in it: nothing of the frozen model, nothing of SAM's encoder."""
    weights = load_file(folder / "model.safetensors")
    parts = {name.partition(".")[0] for name in weights}
    assert parts == {"mask_head", "refiner", "text_proj", "text_layer_weights"}
    assert not [name for name in weights if "vision_encoder" in name]


def check_use(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    grounding: Path,
    words_of_eval: list[str],
    counts: dict[str, Any],
) -> None:
    """Evaluate, point, talk and export with the last checkpoint of ``folder/whole``.

    Args:
        words_of_eval: further ones. counts: what its scores hold, by path.
    """
    checkpoint, photo = last(folder / "whole"), grounding / "refcoco/images/000000009590.jpg"
    data = [str(grounding / name) for name in ("refcoco", "png")]
    words = ["eval", "refcoco", "png", "--model", folder / "lmm", "--ground", checkpoint]
    words += ["--data", *data, "--json", "--page", "page.html", *words_of_eval]
    scores = json.loads(said(capsys, *words))
    for path, expected in counts.items():
        assert at(scores, path) == expected, scores
    assert (folder / "page.html").stat().st_size > 1000

    found = masks(capsys, photo, "--checkpoint", checkpoint)
    assert found.shape[1:] == Image.open(photo).size[::-1]
    monkeypatch.setattr("sys.stdin", io.StringIO("What is there?\n\nEXIT\n"))
    chat = ["chat", folder / "lmm", "--ground", checkpoint, "--image", photo]
    assert said(capsys, *chat, "--temperature", "0", "--max-new-tokens", "12").strip()

    config = checkpoint / "config.py"  # overrides of places are in the resolved one alone
    export = ["convert", "pth_to_hf", config, checkpoint]
    assert "largest difference of logits 0" in said(capsys, *export, "light", "--fp32")
    assert np.array_equal(masks(capsys, photo, "--checkpoint", "light"), found)
    out = said(capsys, *export, "flmm.pth", "--fp32", "--save-format", "flmm")
    assert "largest difference of logits 0" in out
    foreign = ["--config", config, "--checkpoint", "flmm.pth"]
    assert np.array_equal(masks(capsys, photo, *foreign), found)


def at(values: Any, path: str) -> Any:
    for key in path.split("."):
        values = values[key]
    return values


def test_a_short_run_is_killed_resumed_and_used(
    grounding: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    files = {"instances": "instances.json", "refs": "refs(real).p", "image_folder": "images"}
    val = {key: str(grounding / "refcoco" / name) for key, name in files.items()}
    png = ["narratives.json", "panoptic.json", "panoptic", "images"]
    keys = ["json_file", "panoptic_json_file", "panoptic_png_path", "image_folder"]
    both = [
        {"type": "RefCOCO", "split": "val", **val},
        {"type": "PNG", **{k: str(grounding / "png" / n) for k, n in zip(keys, png, strict=True)}},
    ]
    options = [*overrides(g.DEEPSEEK, tmp_path, grounding), "save_steps=5"]
    options += [f"train_dataloader.dataset.sources={both!r}", "dataloader_num_workers=0"]
    run = ["train", g.DEEPSEEK, "--cfg-options", *options, "--work-dir"]
    code, text = runs.inlay([*run, "whole"], tmp_path)
    assert code == 0, text
    code, text = runs.inlay([*run, "killed"], tmp_path, runs.stop_at(9, signal.SIGKILL))
    assert code == -signal.SIGKILL, text
    code, text = runs.inlay([*run, "killed", "--resume"], tmp_path)
    assert code == 0 and "Auto resumed" in text, text

    check_equal_after_resume(records(tmp_path / "whole"), records(tmp_path / "killed"))
    ends = [last(tmp_path / name) for name in ("whole", "killed")]
    weights = [(end / "model.safetensors").read_bytes() for end in ends]
    assert ends[0].name == "iter_14" and weights[0] == weights[1]
    check_checkpoint(ends[0])
    check_use(capsys, monkeypatch, tmp_path, grounding, ["--limit", "3"], {"png.not_run": {}})


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", MODELS)
def test_real_photos_train_and_resume_bit_exactly(
    name: str,
    grounding: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = [*overrides(name, tmp_path, grounding), "save_steps=10", "dataloader_num_workers=2"]
    options.append("lr=1e-3")
    run = [name, "--cfg-options", *options]
    whole = inlay("train", name, "--work-dir", "whole", *run[1:], cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    rows = records(tmp_path / "whole")
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == 45, "177 pictures, four at a time"
    assert np.mean(losses[-10:]) < np.mean(losses[:10])
    train_killed_and_resumed(tmp_path, run, "killed", 2, random.Random(1), range(12, 20))
    check_equal_after_resume(rows, records(tmp_path / "killed"))
    ends = [last(tmp_path / work_dir) for work_dir in ("whole", "killed")]
    weights = [(end / "model.safetensors").read_bytes() for end in ends]
    assert weights[0] == weights[1]
    check_checkpoint(ends[0])
    counts = {
        "refcoco.num_expressions.original": {"train": 47, "val": 12},
        "refcoco.num_expressions.standard": {"train": 48, "val": 12},
        "png.num_phrases.overall": 92,
        **{f"{task}.not_run": {} for task in ("refcoco", "png")},
    }
    splits = ["--split", "train", "val"]
    check_use(capsys, monkeypatch, tmp_path, grounding, splits, counts)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_a_few_pictures_can_be_learned(grounding: Path, tmp_path: Path) -> None:
    """Mask head and SAM's decoder learn four references by heart, on a random frozen model."""
    refs = json.loads((grounding / "refcoco/refs.json").read_text())[:4]
    (tmp_path / "refs.json").write_text(json.dumps([ref | {"split": "train"} for ref in refs]))
    few = {
        "type": "RefCOCO",
        "instances": str(grounding / "refcoco/instances.json"),
        "refs": str(tmp_path / "refs.json"),
        "image_folder": str(grounding / "refcoco/images"),
    }
    options = [*overrides(g.DEEPSEEK, tmp_path, grounding), f"train_dataset.sources={[few]!r}"]
    options += ["dataloader_num_workers=0", "save_steps=-1", "max_epochs=100", "lr=3e-3"]
    run = ["train", g.DEEPSEEK, "--work-dir", "few", "--cfg-options", *options]
    code, text = runs.inlay(run, tmp_path)
    assert code == 0, text
    rows = [row for row in records(tmp_path / "few") if "loss" in row]
    first, final = (np.mean([row["loss"] for row in part]) for part in (rows[:5], rows[-5:]))
    assert final < 0.6 * first
    assert np.mean([row["sam_aiou"] for row in rows[-5:]]) > 0.4, "fine masks are there"
