"""A run of XTuner goes on here: weights, optimizer, place; what changed is judged."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import originals
import pytest
import torch
from runs import inlay, scalars, train, write_config
from safetensors.torch import load_file

from inlay.convert.foreign import guess_checkpoint
from inlay.engine import checkpoint as ckpt

FILES = originals.FOLDER
SFT, ZERO = FILES / "sft_iter_7.pth", FILES / "zero2_iter_7.pth"
LORA = (
    'dict(type=LoraConfig, r=2, lora_alpha=8, lora_dropout={dropout}, task_type="CAUSAL_LM", '
    'target_modules=["q_proj", "v_proj", "down_proj"])'
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> Path:
    from transformers import AutoTokenizer

    path = tmp_path_factory.mktemp("llama")
    originals.llama().save_pretrained(path)
    AutoTokenizer.from_pretrained(tiny_tokenizer).save_pretrained(path)
    return path


@pytest.fixture
def config(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    import runs

    monkeypatch.setattr(runs, "LORA", LORA)
    return write_config(
        tmp_path, model, dropout=0.0, pack_to_max_length=False, save_steps=8, base_seed=None
    )


def states(work: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(work / name / "optimizer.safetensors")


def test_resume_of_a_file(config: Path, tmp_path: Path) -> None:
    """30 rows, batches of 2, 2 accumulated: iteration 7 is inside of a window, 6 is its start."""
    text = train(config, tmp_path / "w", "--resume", SFT)
    assert "checkpoint of MMEngine (XTuner 0.1, F-LMM), iteration 7" in text
    assert "6 trained weights, the optimizer's state of 6 weights, and the place:" in text
    assert "iteration 6 of 30, update 3, epoch 1, item 12 of 30" in text
    assert "because the original saves neither" in text
    assert "seed 7)" in text  # the checkpoint's
    lines = [s for s in scalars(tmp_path / "w") if "loss" in s]
    assert [s["iter"] for s in lines][:2] == [7, 8]
    saved = ckpt.read(tmp_path / "w" / "iter_8")
    assert saved.state["run"]["update"] == 4
    found = guess_checkpoint(SFT)
    step = {float(t) for n, t in saved.tensors["optimizer"].items() if n.endswith("|step")}
    assert step == {4.0}  # three there, one here
    for name, before in zip(found.weights, found.states, strict=True):
        after = saved.tensors["optimizer"][f"{name}|exp_avg_sq"]
        grown = after - 0.999 * before["exp_avg_sq"]
        assert float(grown.min()) > -1e-12, name  # the moment goes on from the original's


def test_the_weights_are_the_original_s(config: Path, tmp_path: Path) -> None:
    """No update is made: what is saved is what was loaded."""
    options = ["--cfg-options", "max_epochs=1", f"load_from={SFT}", "lr=0.0"]
    text = train(config, tmp_path / "w", *options)
    assert "Loaded weights from" in text
    assert "6 weights" in text
    saved = ckpt.load_weights(tmp_path / "w" / "iter_8")
    for name, tensor in guess_checkpoint(SFT).weights.items():
        assert torch.equal(saved[name], tensor), name


def test_resume_of_zero_shards(config: Path, tmp_path: Path) -> None:
    code, text = inlay(
        ["train", config, "--work-dir", tmp_path / "w", "--resume", f"{ZERO}/"], tmp_path
    )
    assert code == 1  # 2 samples on 2 ranks, 2 accumulated, were one update of 8
    assert "effective_batch (samples of one update" in text
    assert "8 -> 4" in text
    text = train(
        config, tmp_path / "w2", "--resume", ZERO, "--cfg-options", "batch_size=4"
    )  # the same 8 on one device
    assert "(ZeRO-2, 2 ranks)" in text
    assert "world_size" in text
    assert "iteration 6 of 16, update 3, epoch 1, item 24 of 30" in text
    assert {float(t) for n, t in states(tmp_path / "w2", "iter_8").items() if "|step" in n} == {4.0}


def test_resume_in_the_original_s_work_folder(config: Path, tmp_path: Path) -> None:
    work = tmp_path / "w"
    work.mkdir()
    shutil.copy(SFT, work / "iter_7.pth")
    (work / "last_checkpoint").write_text("/somewhere/else/iter_7.pth")
    text = train(config, work, "--resume")
    assert f"Resumed from {work}/iter_7.pth" in text
    assert (work / "last_checkpoint").read_text().startswith("iter_")
    text = train(config, work, "--resume", "--cfg-options", "max_epochs=3")
    assert "Auto resumed from the latest checkpoint" in text  # ours by now


def test_refusals(config: Path, tmp_path: Path, model: Path) -> None:
    other = write_config(tmp_path / "full", model)
    plain = tmp_path / "weights.pth"
    torch.save(guess_checkpoint(SFT).weights, plain)
    cases: list[tuple[Path, Path, str]] = [
        (other, SFT, "trained weights are missing from it"),
        (config, plain, "holds weights only, there is no run to resume"),
        (config, tmp_path / "iter_9.pth", "no checkpoint at"),
    ]
    for number, (used, source, message) in enumerate(cases):
        words: list[Any] = [
            "train",
            used,
            "--work-dir",
            tmp_path / f"w{number}",
            "--resume",
            source,
        ]
        code, text = inlay(words, tmp_path)
        assert code == 1
        assert message in text, text
        assert "Traceback" not in text


def test_another_optimizer_begins_anew(tmp_path: Path, config: Path) -> None:
    text = config.read_text().replace("dict(type=AdamW, lr=lr)", "dict(type=SGD, lr=lr)")
    config.write_text(text)
    said = train(config, tmp_path / "w", "--resume", SFT)
    assert "nothing of the optimizer, which begins anew" in said
    assert "has the state of another optimizer than SGD" in said


def test_pth_to_hf(config: Path, tmp_path: Path) -> None:
    import runs

    words = ["convert", "pth_to_hf", config, ZERO, tmp_path / "hf", "--fp32"]
    code, text = inlay(words, tmp_path, runs.look_here)
    assert code == 0, text
    found = load_file(tmp_path / "hf" / "adapter_model.safetensors")
    for name, tensor in guess_checkpoint(ZERO).weights.items():
        ours = name.removeprefix("llm.").replace(".default", "")
        assert torch.equal(found[ours], tensor), name
