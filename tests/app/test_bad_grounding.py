"""Grounding runs on bad input: one message that says what and where, and exit code 1."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grounding_runs as g
import numpy as np
import pytest
import torch
from PIL import Image

from inlay.cli import main

NARRATIVES, PANOPTIC = "annotations/png_coco_train2017.json", "annotations/panoptic_train2017"
INSTANCES, REFS = "refcoco/instances.json", "refcoco/refs(unc).p"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models, and COCO's folders with three drawn pictures."""
    folder = tmp_path_factory.mktemp("bad")
    g.write_coco(folder / "coco")
    g.deepseek(folder / "lmm")
    g.sam(folder / "sam")
    return folder


@pytest.fixture
def coco(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the data, to be damaged."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(made / "coco", tmp_path / "coco"))


def options(made: Path, coco: Path) -> list[str]:
    found = g.options(coco, made / "lmm", made / "sam", *g.SIZES[g.DEEPSEEK])
    return [*found, "batch_size=3", "dataloader_num_workers=0"]


def message(capsys: pytest.CaptureFixture[str], *words: Any) -> str:
    """Run a command that must fail; return what it says, without progress bars."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 1
    err = capsys.readouterr().err
    assert err.count("error: ") == 1 and "Traceback" not in err, err
    return err[err.index("error: ") :]


def dry_run(capsys: pytest.CaptureFixture[str], overrides: list[str], *more: str) -> str:
    words = ["train", g.DEEPSEEK, "--dry-run", "--updates", "4", "--cfg-options"]
    return message(capsys, *words, *overrides, *more)


def edit(path: Path, change: Callable[[Any], None]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def polygon(*corners: float) -> Callable[[Path], None]:
    """Give the second annotation another outline."""

    def damage(coco: Path) -> None:
        edit(
            coco / INSTANCES,
            lambda value: value["annotations"][1].update(segmentation=[list(corners)]),
        )

    return damage


def no_masks(coco: Path) -> None:
    """References with boxes alone, and a narrative that names nothing."""
    for folder in ("refcoco", "refcoco+", "refcocog"):
        edit(
            coco / folder / "instances.json",
            lambda value: [a.pop("segmentation") for a in value["annotations"]],
        )
    edit(
        coco / NARRATIVES,
        lambda rows: [s.update(segment_ids=[]) for row in rows for s in row["segments"]],
    )


def empty_segment(coco: Path) -> None:
    """A panoptic map without the segment that its annotations name."""
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(coco / PANOPTIC / "2.png")


def hostile(coco: Path) -> None:
    class Surprise:
        def __reduce__(self) -> Any:
            return (Path.touch, (Path("run.txt"),))

    (coco / REFS).write_bytes(pickle.dumps([Surprise()]))


def long_phrase(coco: Path) -> None:
    edit(
        coco / NARRATIVES,
        lambda rows: rows[1]["segments"][1].update(utterance="a very long " * 400 + "block"),
    )


def other_pictures(coco: Path) -> None:
    edit(coco / NARRATIVES, lambda rows: [row.update(image_id="77") for row in rows])


def other_size(coco: Path) -> None:
    Image.new("RGB", (50, 40)).save(coco / "train2014/3.png")


DAMAGE: dict[str, tuple[Callable[[Path], None], list[str]]] = {
    "a phrase longer than max_length": (
        long_phrase,
        ["png_coco_train2017.json, line 2: ", "4813 tokens, max_length is 4096", "'a very long a"],
    ),
    "no masks at all": (no_masks, ["the data set is empty: no picture with a mask is left"]),
    "an empty mask": (
        polygon(10.0, 10.0, 10.0, 10.0, 10.0, 10.0),
        ["refs(unc).p, line 2: annotation 2: the mask is empty", "60 x 40 px"],
    ),
    "a segment that is not there": (
        empty_segment,
        ["png_coco_train2017.json, row 2: an empty mask: the panoptic map '2.png' has none of"],
    ),
    "a polygon outside": (
        polygon(100, 10, 120, 10, 120, 30),
        ["refs(unc).p, line 2: annotation 2: the mask lies outside of the 60 x 40 px", "x 100 to"],
    ),
    "a missing panoptic map": (
        lambda coco: (coco / PANOPTIC / "3.png").unlink(),
        ["png_coco_train2017.json, line 3: ", "picture '3.png' is not a file in the image folder"],
    ),
    "missing panoptic annotations": (
        lambda coco: (coco / f"{PANOPTIC}.json").unlink(),
        ["panoptic_json_file: expected a file or folder that exists", "panoptic_train2017.json"],
    ),
    "a hostile pickle": (hostile, ["refs(unc).p' is refused: it names ", "may run code"]),
    "narratives of other pictures": (
        other_pictures,
        ["png_coco_train2017.json, line 1: there is no picture 77 with a panoptic map in"],
    ),
    "a picture of another size": (
        other_size,
        ["the picture '3.png' is 50 x 40 px, its annotations are of 60 x 40 px"],
    ),
}


@pytest.mark.parametrize(("damage", "expected"), DAMAGE.values(), ids=DAMAGE)
def test_damaged_data(
    made: Path,
    coco: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None],
    expected: list[str],
) -> None:
    damage(coco)
    said = dry_run(capsys, options(made, coco))
    for part in expected:
        assert part in said
    assert not Path("run.txt").exists()


def test_rows_that_may_be_bad_are_left_out(
    made: Path, coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    polygon(100, 10, 120, 10, 120, 30)(coco)
    long_phrase(coco)
    overrides = [*options(made, coco), "train_dataloader.dataset.max_bad_rows=2"]
    assert main(["log-dataset", g.DEEPSEEK, "--cfg-options", *overrides]) == 0
    said = capsys.readouterr().out
    assert "12 rows read, 10 kept: 10 pictures with 10 masks" in said and "bad 2" in said


def test_a_caption_longer_than_the_model_reads(
    made: Path, coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(
        coco / NARRATIVES,
        lambda rows: rows[1]["segments"][0].update(utterance="a very long " * 200),
    )
    said = dry_run(capsys, options(made, coco))
    assert "1 of 12 items have more tokens than the model can read: the longest has" in said
    assert "the model reads 2048. Set max_length=2048" in said


def test_models_that_are_not_there_or_do_not_fit(
    made: Path, coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fine = options(made, coco)
    for overrides, expected in (
        (["sam_checkpoint=sam_vit_l.pth"], "expected a file or folder that exists, got 'sam_vit"),
        (["sam_checkpoint=no/sam"], "cannot load SamModel from 'no/sam'"),
        ([f"sam_checkpoint={made / 'lmm'}"], "holds a 'deepseek_vl' model; expected 'sam'"),
        (["picture_size=64"], "the refiner takes pictures whose longest side is 96 px, found 64"),
        (["image_size=32"], "Is the image processor the model's own?"),
        (["patch_size=16"], "the image processor the model's own?"),
        (["merge=median"], "merge must be one of mean, max, found 'median'"),
    ):
        said = dry_run(capsys, fine, *overrides)
        assert expected.casefold() in said.casefold(), (overrides, said)


def checkpoint(made: Path, folder: Path, lmm: Path) -> Path:
    """A light checkpoint of an untrained run."""
    from inlay.app.assemble import Parts
    from inlay.config.dump import dump_resolved
    from inlay.config.load import load_config
    from inlay.engine import checkpoint as ckpt
    from inlay.engine.optim import trainable

    cfg = load_config(
        g.DEEPSEEK, [*options(made, made / "coco"), f"pretrained_model_name_or_path={lmm}"]
    )
    torch.manual_seed(0)
    weights = {name: p.detach() for name, p in trainable(Parts(cfg, seed=0).model()).items()}
    ckpt.write(folder, ckpt.Checkpoint({"model": weights}, {}, dump_resolved(cfg)))
    return folder


def test_a_checkpoint_of_another_model(
    made: Path, coco: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = checkpoint(made, tmp_path / "mine", made / "lmm")
    other = g.deepseek(tmp_path / "other", num_hidden_layers=2)
    wrong = "was trained on another language model: it expects 12 attention maps (layers x heads x"
    photo = coco / "train2014/1.png"
    ground = ["ground", photo, "a block", "--model", other, "--checkpoint", mine]
    assert wrong in message(capsys, *ground)
    data = coco / "refcoco"
    evaluate = ["eval", "refcoco", "--data", data, "--image-folder", coco / "train2014"]
    said = message(capsys, *evaluate, "--split", "train", "--model", other, "--ground", mine)
    assert wrong in said
    overrides = [*options(made, coco), f"pretrained_model_name_or_path={other}"]
    words = ["train", g.DEEPSEEK, "--work-dir", "w", "--cfg-options", *overrides]
    assert wrong in message(capsys, *words, f"load_from={mine}")
    assert not list(tmp_path.glob("*.png")), "nothing is written"


TYPOS = {
    "model.mask_head": ("UNetHead", "base_channels=64", "base_chanels=64", "'base_channels'"),
    "model.refiner": ("SamRefiner", "use_text=True", "use_txt=True", "'use_text'"),
    "model": ("FrozenGrounding", "merge=merge", "mrege=merge", "'merge'"),
    "train_dataset": ("GroundingDataset", "picture_size=", "picture_sise=", "'picture_size'"),
}


@pytest.mark.parametrize(("target", "right", "wrong", "meant"), TYPOS.values(), ids=TYPOS)
def test_typos_are_told_with_what_was_meant(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    target: str,
    right: str,
    wrong: str,
    meant: str,
) -> None:
    assert main(["copy-cfg", g.DEEPSEEK, str(tmp_path)]) == 0
    (config,) = tmp_path.glob("*.py")
    text = config.read_text()
    assert text.count(right) == 1
    config.write_text(text.replace(right, wrong))
    capsys.readouterr()
    assert main(["check", str(config)]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"expected an argument of {target}" in said and f"Did you mean {meant}?" in said


def test_typos_in_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    for word, meant in (
        ("model.refiner.use_boxes=False", "'use_box'"),
        ("model.mask_head.num_stage=3", "'num_stages'"),
        ("sam_chekpoint=None", "'sam_checkpoint'"),
    ):
        said = message(capsys, "check", g.DEEPSEEK, "--cfg-options", word)
        assert f"Did you mean {meant}?" in said


def test_plan_and_samples_show_masks(
    made: Path, coco: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["--cfg-options", *options(made, coco)]
    assert main(["plan", g.DEEPSEEK, "--json", *overrides]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["samples"], plan["masks"], plan["pictures"]) == (12, 12, 12)
    assert "trained_tokens" not in plan
    assert main(["plan", g.DEEPSEEK, *overrides]) == 0
    assert f"12 samples, {plan['tokens']:,} tokens, 12 masks" in capsys.readouterr().out

    assert main(["log-dataset", g.DEEPSEEK, "-n", "12", *overrides]) == 0
    said = capsys.readouterr().out
    assert "% grounded" in said and "trained" not in said
    assert "Assistant:here is [[a block]]\n" in said and "Assistant:[[the block]].\n" in said
    words = ["log-dataset", g.DEEPSEEK, "--html", "p.html", "--contact-sheet", "p.png"]
    assert main([*words, *overrides]) == 0
    assert "grounded tokens" in Path("p.html").read_text() and Image.open("p.png").width > 256

    words = ["train", g.DEEPSEEK, "--dry-run", "--updates", "1", *overrides]
    assert main(words) == 0
    assert " tokens, 3 masks, loss " in capsys.readouterr().out
