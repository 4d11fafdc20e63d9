"""Checkpoints of the original: told apart, loaded by name; they compute what they did there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import originals
import pytest
import torch
from peft import LoraConfig

from inlay.convert.foreign import Foreign, find_original, fit_weights, guess_checkpoint
from inlay.core.errors import CheckpointError, ModelError
from inlay.engine.optim import trainable
from inlay.engine.snapshot import copy_weights
from inlay.models import LLaVAModel, SupervisedFinetune
from inlay.models.lm import load_adapter
from inlay.models.load_vlm import load_parts

FILES = originals.FOLDER
CLOSE = 2e-6
"""Of losses in nats, float32, between two releases of transformers."""


LLM = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ENCODER = ["q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"]


def lora(alpha: int, targets: list[str]) -> LoraConfig:
    return LoraConfig(r=2, lora_alpha=alpha, target_modules=targets)


def tuned() -> SupervisedFinetune:
    targets = ["q_proj", "v_proj", "down_proj"]
    return SupervisedFinetune(
        originals.llama(), lora(8, targets), use_activation_checkpointing=False
    )


def load(model: Any, found: Foreign) -> None:
    trained = trainable(model)
    weights = fit_weights(model, found, trained, lambda p: p.shape)
    copy_weights(trained, weights, found.path)


# -- what it is -------------------------------------------------------------------------------


def test_an_mmengine_file() -> None:
    found = guess_checkpoint(FILES / "sft_iter_7.pth")
    assert (found.kind, found.meta["iter"], found.meta["epoch"]) == ("mmengine", 7, 0)
    assert found.meta["seed"] == 7
    assert found.meta["cfg"].startswith("accumulative_counts = 2\nbatch_size = 2\n")
    assert isinstance(found.states, list)
    assert [s["exp_avg"].shape for s in found.states] == [t.shape for t in found.weights.values()]
    assert {float(s["step"]) for s in found.states} == {3.0}  # 7 iterations, 2 accumulated
    assert found.note.endswith(
        "sft_iter_7.pth: checkpoint of MMEngine (XTuner 0.1, F-LMM), iteration 7, epoch 0, "
        "6 weights, optimizer state of 6, written 20261121_125442"
    ), found.note


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_deepspeed_folder(slash: str) -> None:
    found = guess_checkpoint(str(FILES / "zero2_iter_7.pth") + slash)
    assert found.kind == "deepspeed"
    wanted = {"iter": 7, "stage": 2, "ranks": 2, "updates": 3, "samples": 24, "seed": 7}
    assert found.meta | wanted == found.meta
    file = guess_checkpoint(FILES / "sft_iter_7.pth")
    assert {n: t.shape for n, t in found.weights.items()} == {
        n: t.shape for n, t in file.weights.items()
    }
    assert all(t.dtype is torch.float32 for t in found.weights.values())
    assert "(ZeRO-2, 2 ranks), iteration 7" in found.note


def test_folders_that_have_moved(tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(FILES / "zero2_iter_7.pth", work / "iter_7.pth")
    shutil.copy(FILES / "sft_iter_7.pth", work / "iter_6.pth")
    (work / "last_checkpoint").write_text("/data/somebody/work_dirs/x/iter_7.pth")
    for path in (work, work / "last_checkpoint"):
        found = guess_checkpoint(path)
        assert (found.kind, found.path) == ("deepspeed", work / "iter_7.pth")
    (work / "last_checkpoint").unlink()
    assert find_original(work) == work / "iter_7.pth"  # by number, not by time
    (work / "last_checkpoint").write_text("iter_6.pth")
    assert find_original(work) == work / "iter_6.pth"
    plain = tmp_path / "plain"  # as DeepSpeed itself lays it out
    shutil.copytree(FILES / "zero2_iter_7.pth", plain / "global_step3")
    (plain / "latest").write_text("global_step3")
    assert guess_checkpoint(plain).path == plain / "global_step3"


def test_other_kinds(tmp_path: Path) -> None:
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "nano").mkdir()
    (tmp_path / "nano" / "config.json").write_text('{"vit_model_type": "x"}')
    (tmp_path / "iter_3").mkdir()
    (tmp_path / "iter_3" / "state.json").write_text("{}")
    torch.save({"a": torch.ones(1)}, tmp_path / "a.bin")
    for path, kind in (
        (FILES / "adapter", "adapter"),
        (FILES / "llava_parts", "parts"),
        (FILES / "llava_parts" / "projector", "projector"),
        (tmp_path / "hf", "huggingface"),
        (tmp_path / "nano", "nanovlm"),
        (tmp_path / "iter_3", "inlay"),
        (tmp_path / "iter_3.pth", "inlay"),
        (tmp_path / "a.bin", "tensors"),
    ):
        assert guess_checkpoint(path).kind == kind, path


def test_nothing_known(tmp_path: Path) -> None:
    (tmp_path / "iter_7.pth").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"does not exist. Did you mean 'iter_7.pth'"):
        guess_checkpoint(tmp_path / "iter_8.pth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"holds no checkpoint: expected a folder iter_N"):
        guess_checkpoint(tmp_path / "empty")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(CheckpointError, match=r"expected .pth, .pt, .bin or .safetensors"):
        guess_checkpoint(tmp_path / "a.txt")
    torch.save({"meta": {"iter": 3}, "state_dict": {"a": 1}}, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match="expected tensors by name"):
        guess_checkpoint(tmp_path / "odd.pth")


def test_a_pickled_metadata_file_is_not_opened(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    folder = tmp_path / "dcp"
    folder.mkdir()
    (folder / ".metadata").write_bytes(f"cposix\nsystem\n(S'touch {mark}'\ntR.".encode())
    (folder / "__0_0.distcp").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        guess_checkpoint(folder)
    (folder / "mp_rank_00_model_states.pt").write_bytes((folder / ".metadata").read_bytes())
    with pytest.raises(CheckpointError, match=r"is refused: it names posix\.system"):
        guess_checkpoint(folder)
    assert not mark.exists()


# -- its weights here -------------------------------------------------------------------------


def test_lora_of_the_original_computes_the_same() -> None:
    model = tuned()
    load(model, guess_checkpoint(FILES / "sft_iter_7.pth"))
    assert originals.text_loss(model) == pytest.approx(originals.LOSSES["sft"], abs=CLOSE)
    adapted = load_adapter(originals.llama(), str(FILES / "adapter"))
    again = SupervisedFinetune(adapted, use_activation_checkpointing=False)
    assert originals.text_loss(again) == pytest.approx(originals.LOSSES["sft"], abs=CLOSE)


def test_zero_shards_load_as_the_file_does() -> None:
    model = tuned()
    plain = originals.text_loss(model)
    load(model, guess_checkpoint(FILES / "zero2_iter_7.pth"))
    assert originals.text_loss(model) != pytest.approx(plain, abs=1e-4)


def test_llava_of_the_original_computes_the_same() -> None:
    for stage in ("pretrain", "finetune"):
        has_lora = stage == "finetune"
        model = LLaVAModel(
            originals.llama(),
            originals.clip(),
            freeze_llm=True,
            freeze_visual_encoder=True,
            llm_lora=lora(4, LLM) if has_lora else None,
            visual_encoder_lora=lora(4, ENCODER) if has_lora else None,
            pretrained_pth=str(FILES / f"llava_{stage}.pth"),
            use_activation_checkpointing=False,
        )
        loss = originals.picture_loss(model)
        assert loss == pytest.approx(originals.LOSSES[stage], abs=CLOSE), stage


def test_llava_parts_of_the_original_compute_the_same(tmp_path: Path) -> None:
    originals.llama().save_pretrained(tmp_path / "llm")
    originals.clip().save_pretrained(tmp_path / "clip")
    parts = FILES / "llava_parts"
    model = load_parts(str(tmp_path / "llm"), str(parts), str(tmp_path / "clip"), device="cpu")
    loss = originals.picture_loss(model)
    assert loss == pytest.approx(originals.LOSSES["finetune"], abs=CLOSE)


def test_full_weights_with_a_tied_head_and_a_wrapper_s_prefix(tmp_path: Path) -> None:
    donor = SupervisedFinetune(originals.llama(), use_activation_checkpointing=False)
    state = {f"module.{n}": t + 1 for n, t in donor.state_dict().items()}
    torch.save({"state_dict": state, "meta": {"iter": 1}}, tmp_path / "iter_1.pth")
    model = SupervisedFinetune(originals.llama(), use_activation_checkpointing=False)
    load(model, guess_checkpoint(tmp_path / "iter_1.pth"))
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, donor.state_dict()[name] + 1), name


def test_what_does_not_fit_is_told_at_once(tmp_path: Path) -> None:
    found = guess_checkpoint(FILES / "sft_iter_7.pth")
    name = next(iter(found.weights))
    odd = {n: t for n, t in found.weights.items() if n != name}
    odd |= {"llm.odd": torch.ones(1), next(iter(odd)): torch.ones(3, 3)}
    with pytest.raises(CheckpointError) as caught:
        load(tuned(), Foreign("mmengine", found.path, odd))
    message = str(caught.value)
    assert f"1 trained weights are missing from it ({name})" in message
    assert "1 are unknown here (llm.odd)" in message
    assert "is [3, 3], this model has [8, 2]" in message
    with pytest.raises(CheckpointError, match="PEFT adapter: there is no run in it"):
        load(tuned(), guess_checkpoint(FILES / "adapter"))


def test_hostile_adapters_and_projectors_do_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    evil = f"cposix\nsystem\n(S'touch {mark}'\ntR.".encode()
    for part in ("llm_adapter", "projector"):
        folder = tmp_path / part
        shutil.copytree(FILES / "llava_parts" / part, folder)
        name = "adapter_model.bin" if part == "llm_adapter" else "pytorch_model.bin"
        (folder / name).write_bytes(evil)
    with pytest.raises(
        CheckpointError, match=r"adapter_model\.bin' is refused: it names posix.system"
    ):
        load_adapter(originals.llama(), str(tmp_path / "llm_adapter"))
    with pytest.raises(ModelError, match="cannot load a projector"):
        load_parts("none", str(tmp_path))
    assert not mark.exists()


def test_the_config_inside_is_text(tmp_path: Path) -> None:
    from inlay.app.foreign_start import settings_of

    text = guess_checkpoint(FILES / "sft_iter_7.pth").meta["cfg"]
    assert settings_of(text) == {"accumulative_counts": 2, "batch_size": 2}
    mark = tmp_path / "mark"
    assert settings_of(f"batch_size = open({json.dumps(str(mark))}, 'w')") == {}
    assert settings_of("batch_size = (") == {}
    assert settings_of("train_dataloader = dict(batch_size=3)\nbatch_size = -1") == {
        "batch_size": 3
    }
    assert not mark.exists()
