"""From a tiny grounding run to the light folder and to F-LMM's file, through the command line."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grounding_runs as g
import numpy as np
import pytest
import runs
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_sam import tiny_sam2

from inlay.app.evaluate.answering import Answerer
from inlay.app.export.run import export_model
from inlay.app.grounder import OpenGrounder, open_grounder
from inlay.app.open_model import open_model
from inlay.cli import main
from inlay.core.errors import ModelError
from inlay.models.grounding.sam_names import from_hf

PHRASES = ["the block", "here is it"]


@dataclass
class Run:
    """A run of the recipe of DeepSeek-VL on three drawn pictures."""

    folder: Path
    options: list[str]

    @property
    def checkpoint(self) -> Path:
        return self.folder / "run" / "iter_4"

    def train(self, work_dir: str, *more: str) -> tuple[int, str]:
        words = ["train", g.DEEPSEEK, "--work-dir", work_dir]
        return runs.inlay([*words, "--cfg-options", *self.options, *more], self.folder)

    def export(self, out: Path, *more: str) -> int:
        config = self.checkpoint / "config.py"
        return main(["convert", "pth_to_hf", str(config), str(self.checkpoint), str(out), *more])


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("grounding")
    g.write_coco(folder / "coco")
    lmm, refiner = g.deepseek(folder / "lmm"), g.sam(folder / "sam")
    options = g.options(folder / "coco", lmm, refiner, *g.SIZES[g.DEEPSEEK])
    options += ["batch_size=3", "max_epochs=1", "dataloader_num_workers=0", "lr=1e-2"]
    made = Run(folder, options)
    code, text = made.train(str(folder / "run"))
    assert code == 0, text
    return made


@pytest.fixture(scope="module")
def picture(run: Run) -> Any:
    return Image.open(run.folder / "coco/train2014/2.png").convert("RGB")


def logits(picture: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
    return open_grounder(*args, **kwargs).logits(picture, PHRASES)


def test_the_light_folder(
    run: Run, picture: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "light"
    assert run.export(out) == 0
    said = capsys.readouterr().out
    assert "masks          2 phrases, largest difference of logits 0\n" in said
    files = {str(f.relative_to(out)) for f in out.rglob("*") if f.is_file()}
    assert files == {
        *("config.py", "model.safetensors", "state.json", "manifest.json"),
        *("refiner/config.json", "refiner/model.safetensors"),
        *("README.md", "inlay_export.json"),
    }
    trained = load_file(run.checkpoint / "model.safetensors")
    light = load_file(out / "model.safetensors")
    assert light.keys() == trained.keys()
    for name, weight in light.items():
        assert weight.dtype == torch.float16 and torch.equal(weight, trained[name].half())
    encoder = load_file(run.folder / "sam/model.safetensors")
    sam = load_file(out / "refiner/model.safetensors")
    name = "vision_encoder.layers.0.attn.qkv.weight"
    assert torch.equal(sam[name], encoder[name].half())
    name = "mask_decoder.iou_token.weight"
    assert torch.equal(sam[name], light[f"refiner.sam.{name}"])

    card = (out / "README.md").read_text()
    assert "library_name: inlay" in card and "pipeline_tag: image-segmentation" in card
    assert "| Base model | lmm |" in card and str(run.folder) not in card
    assert "| PNG (annotations/png_coco_train2017.json) |" in card
    assert "| RefCOCO (refcoco/refs(unc).p) |" in card
    assert 'inlay ground picture.jpg "the red cup" --checkpoint' in card

    whole = logits(picture, checkpoint=str(run.checkpoint))
    small = logits(picture, checkpoint=str(out))
    assert torch.allclose(whole, small, atol=0.05 * float(whole.abs().max()))
    assert main(["convert", "verify", str(out)]) == 0
    assert "largest difference of logits 0" in capsys.readouterr().out


def test_an_export_stands_alone_and_says_when_it_changes(
    run: Run, picture: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "light"
    assert run.export(out, "--fp32") == 0
    expected = logits(picture, checkpoint=str(run.checkpoint))
    shutil.move(run.folder / "sam", run.folder / "gone")
    shutil.copytree(run.folder / "lmm", tmp_path / "moved")
    try:
        assert torch.equal(logits(picture, checkpoint=str(out)), expected)
        moved = logits(picture, str(tmp_path / "moved"), str(out))
        assert torch.equal(moved, expected), "the multimodal model may lie elsewhere"
        assert main(["convert", "verify", str(out), "--base", str(tmp_path / "moved")]) == 0
    finally:
        shutil.move(run.folder / "gone", run.folder / "sam")

    assert run.export(out) == 0, "an earlier export is replaced"
    file = out / "refiner/model.safetensors"
    sam = load_file(file)
    sam["vision_encoder.neck.conv1.weight"] *= 2
    save_file(sam, file, {"format": "pt"})
    capsys.readouterr()
    assert main(["convert", "verify", str(out)]) == 1
    said = capsys.readouterr()
    assert "FAIL  weights" in said.out and "FAIL  masks" in said.out
    assert "failed its verification. weights: sha256" in said.err
    (out / "model.safetensors").write_bytes(b"cut")
    assert main(["convert", "verify", str(out)]) == 1
    assert "is damaged: model.safetensors has 3 bytes" in capsys.readouterr().err


def test_the_file_of_f_lmm_there_and_back(
    run: Run, picture: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "flmm.pth"
    assert run.export(out, "--fp32", "--save-format", "flmm") == 0
    assert "largest difference of logits 0" in capsys.readouterr().out
    theirs = torch.load(out, weights_only=True)
    parts = {".".join(name.split(".")[: 3 if name.startswith("sam.") else 1]) for name in theirs}
    assert parts == {
        *("mask_head", "text_proj", "text_layer_weights"),
        *("sam.model.prompt_encoder", "sam.model.mask_decoder"),
    }
    assert "sam.model.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix" in theirs
    trained = load_file(run.checkpoint / "model.safetensors")
    sam = {n.removeprefix("refiner.sam."): t for n, t in trained.items() if ".sam." in n}
    for name, weight in from_hf(sam).items():
        assert torch.equal(theirs[f"sam.model.{name}"], weight)
    config = str(run.checkpoint / "config.py")
    found = logits(picture, checkpoint=str(out), config=config)
    assert torch.equal(found, logits(picture, checkpoint=str(run.checkpoint)))

    # A run starts from it. Without a step its last checkpoint is what it started from.
    code, text = run.train(str(tmp_path / "on"), f"load_from={out}", "lr=0.0")
    assert code == 0 and f"Loaded weights from {out}, a checkpoint of F-LMM" in text, text
    on = load_file(tmp_path / "on/iter_4/model.safetensors")
    assert all(torch.equal(on[name], weight) for name, weight in trained.items())
    code, text = run.train(str(tmp_path / "again"), f"load_from={out}", "sam_checkpoint=None")
    assert code == 0, "parts that the run does not have are left out"
    code, text = run.train(str(tmp_path / "no"), f"load_from={out}", "resume=True")
    assert code == 1 and f"{out} holds weights only, there is no run to resume" in text


def test_a_run_starts_from_an_export_and_does_not_resume_it(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "light"
    assert run.export(out) == 0
    code, text = run.train(str(tmp_path / "on"), f"load_from={out}", "lr=0.0")
    assert code == 0 and f"Loaded weights from {out}" in text, text
    light = load_file(out / "model.safetensors")
    on = load_file(tmp_path / "on/iter_4/model.safetensors")
    assert all(torch.equal(on[name], weight.float()) for name, weight in light.items())
    code, text = run.train(str(tmp_path / "no"), f"load_from={out}", "resume=True")
    assert code == 1 and f"{out} holds weights only, there is no run to resume" in text
    assert f"load_from={out}" in text


def test_what_cannot_be_exported_is_said(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, expected in (
        (["out", "--save-format", "huggingface"], "--save-format huggingface is for a LLaVAModel"),
        (["out", "--save-format", "flmm"], "F-LMM's format is one file: name it FILE.pth"),
    ):
        assert run.export(tmp_path / words[0], *words[1:]) == 1
        assert expected in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("...")
    assert run.export(tmp_path / "mine") == 1
    assert "is not empty and is not an earlier export" in capsys.readouterr().err
    with pytest.raises(ModelError, match="--save-format flmm is for a FrozenGrounding"):
        export_model(None, object(), tmp_path / "x.pth", "x", save_format="flmm")  # type: ignore[arg-type]
    other = open_grounder(checkpoint=str(run.checkpoint))
    assert isinstance(other, OpenGrounder) and other.model is not None
    with torch.no_grad():
        other.model.mask_head.conv_seg.weight.fill_(1e6)
    from inlay.convert.grounding import round_weights

    with pytest.raises(ModelError, match=r"conv_seg.weight is not finite in torch.float16"):
        round_weights(other.model, torch.float16)
    assert {f.name for f in tmp_path.iterdir()} == {"mine"}


def test_a_run_without_a_refiner(run: Run, picture: Any, tmp_path: Path) -> None:
    code, text = run.train(str(tmp_path / "coarse"), "sam_checkpoint=None")
    assert code == 0, text
    coarse = tmp_path / "coarse/iter_4"
    words = ["convert", "pth_to_hf", str(coarse / "config.py"), str(coarse)]
    assert main([*words, str(tmp_path / "light"), "--fp32"]) == 0
    assert not (tmp_path / "light/refiner").exists()
    expected = logits(picture, checkpoint=str(coarse))
    assert torch.equal(logits(picture, checkpoint=str(tmp_path / "light")), expected)
    assert main([*words, str(tmp_path / "f.pth"), "--fp32", "--save-format", "flmm"]) == 0
    found = logits(picture, checkpoint=str(tmp_path / "f.pth"), config=str(coarse / "config.py"))
    assert torch.equal(found, expected)


def test_the_command_points_with_an_export(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.export(tmp_path / "light", "--fp32") == 0
    monkeypatch.chdir(tmp_path)
    found = []
    for checkpoint in (tmp_path / "light", run.checkpoint):
        capsys.readouterr()
        words = ["ground", str(run.folder / "coco/train2014/1.png"), *PHRASES, "--json", "-"]
        assert main([*words, "--checkpoint", str(checkpoint)]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1] and len(found[0]) == 2
    assert np.array_equal([r["rle"]["size"] for r in found[0]], [[40, 60]] * 2)


def test_sam_2_goes_with_the_folder_and_not_into_f_lmms_file(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_sam2().save_pretrained(tmp_path / "sam2")
    assert main(["copy-cfg", g.DEEPSEEK, str(tmp_path)]) == 0
    (config,) = tmp_path.glob("*.py")
    config.write_text(config.read_text().replace("SamRefiner", "Sam2Refiner"))
    words = ["train", config, "--work-dir", tmp_path / "run", "--cfg-options", *run.options]
    code, text = runs.inlay([*words, f"sam_checkpoint={tmp_path / 'sam2'}"], tmp_path)
    assert code == 0, text
    checkpoint = tmp_path / "run/iter_4"
    export = ["convert", "pth_to_hf", str(checkpoint / "config.py"), str(checkpoint)]
    assert main([*export, str(tmp_path / "light")]) == 0
    assert "largest difference of logits 0" in capsys.readouterr().out
    assert main([*export, str(tmp_path / "f.pth"), "--save-format", "flmm"]) == 1
    assert "F-LMM refines with SAM" in capsys.readouterr().err


def test_a_checkpoint_as_the_model(run: Run, picture: Any) -> None:
    path = str(run.checkpoint)
    assert torch.equal(logits(picture, path), logits(picture, checkpoint=path))
    assert open_grounder(path, training_free=True).model is None
    opened = open_model(path)  # what talks in it
    assert isinstance(Answerer(opened, opened.template)([picture], "What?", 3), str)
