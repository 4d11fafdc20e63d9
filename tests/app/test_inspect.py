"""``inlay inspect``: every kind of checkpoint, whole and damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import originals
import pytest
import torch
from safetensors.torch import save_file

from inlay.app.inspect import inspect
from inlay.cli import main
from inlay.engine import checkpoint as ckpt

FILES = originals.FOLDER


def shown(path: Path, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    assert main(["inspect", str(path), "--json"]) == code
    return json.loads(capsys.readouterr().out)


def own(path: Path) -> Path:
    """A checkpoint of Inlay on two ranks, the optimizer's state in pieces."""
    weights = {
        "llm.model.layers.0.q.weight": torch.ones(4, 2),
        "projector.model.0.bias": torch.ones(3),
    }
    pieces = [{f"{n}|exp_avg@0": t.flatten() for n, t in weights.items()}, {}]
    state = {
        "run": {"iter": 6, "update": 3, "epoch": 1, "samples": 24, "tokens": 99},
        "seed": 5,
        "rng": [{}, {}],
    }
    tensors = {"model": weights, "optimizer_0": pieces[0], "optimizer_1": pieces[1]}
    ckpt.write(path, ckpt.Checkpoint(tensors, state, "lr = 1\n"))
    return path


def test_a_checkpoint_of_inlay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = own(tmp_path / "iter_6")
    ckpt.point_to(tmp_path, "iter_6")
    report = shown(tmp_path, capsys)
    assert (report["kind"], report["path"]) == ("inlay", str(path))
    wanted = {"iter": 6, "update": 3, "epoch": 1, "seed": 5, "ranks": 2}
    assert report["progress"] | wanted == report["progress"]
    assert [(m["name"], m["parameters"], m["bytes"]) for m in report["modules"]] == [
        ("llm.layers", 8, 32),
        ("projector", 3, 12),
    ]
    assert report["trained"] == 11
    assert report["optimizer"] == {"weights": 2, "keys": ["exp_avg"]}
    assert report["config"] == str(path / "config.py")
    assert report["damage"] == []
    data = bytearray((path / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (path / "model.safetensors").write_bytes(data)
    report = shown(path, capsys, code=1)
    assert report["damage"] == ["model.safetensors does not match its checksum"]
    (path / "model.safetensors").write_bytes(data[:20])
    assert len(shown(path, capsys, code=1)["damage"]) == 2


@pytest.mark.parametrize("name", ["sft_iter_7.pth", "zero2_iter_7.pth"])
def test_checkpoints_of_the_original(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = shown(FILES / name, capsys)
    assert report["kind"] == ("deepspeed" if "zero" in name else "mmengine")
    assert report["progress"]["iter"] == 7
    (module,) = report["modules"]
    assert module == {
        "name": "llm.layers",
        "tensors": 6,
        "parameters": report["trained"],
        "bytes": 4 * report["trained"],
        "dtypes": ["float32"],
    }
    # q and v of 8 -> 8 and 8 -> 4, down of 16 -> 8, rank 2
    assert report["trained"] == 2 * (8 + 8) + 2 * (8 + 4) + 2 * (16 + 8)
    assert report["optimizer"] == {"weights": 6, "keys": ["exp_avg", "exp_avg_sq", "step"]}
    assert report["config"].startswith("accumulative_counts = 2\n")
    assert report["config"].endswith("\n...")


def test_the_text_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(FILES / "zero2_iter_7.pth")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("zero2_iter_7.pth: checkpoint of DeepSpeed, ZeRO-2 of 2 ranks")
    assert "iter 7, epoch 0, seed 7" in lines[1]
    assert lines[2].split() == [
        "llm.layers",
        "104",
        "parameters",
        "0.0",
        "MiB",
        "float32",
        "6",
        "tensors",
    ]
    assert lines[-1] == "  no damage found"
    assert "    accumulative_counts = 2" in lines


def test_trained_share(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(FILES / "zero2_iter_7.pth", tmp_path / "x"))
    from inlay.core.torch_file import load_torch

    model = load_torch(FILES / "zero2_iter_7.pth" / "mp_rank_00_model_states.pt")
    model = {k: model[k] for k in ("param_shapes", "shared_params", "meta")}
    model["meta"] = {"iter": 7}
    torch.save(
        {**model, "frozen_param_shapes": {"ice": torch.Size([8, 12])}},
        folder / "mp_rank_00_model_states.pt",
    )
    report = inspect(str(folder))
    assert (report.trained, report.total) == (104, 200)


def test_damage_of_the_original_s_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(FILES / "zero2_iter_7.pth", tmp_path / "iter_7.pth"))
    (folder / "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt").unlink()
    (damage,) = shown(folder, capsys, code=1)["damage"]
    assert "of 2 ranks, the file of rank 1 is missing" in damage
    data = (FILES / "sft_iter_7.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(data[:-500])
    (damage,) = shown(tmp_path / "cut.pth", capsys, code=1)["damage"]
    assert "a zip file that is cut off" in damage
    (tmp_path / "evil.pth").write_bytes(b"cposix\nsystem\n(S'true'\ntR.")
    assert main(["inspect", str(tmp_path / "evil.pth")]) == 1
    assert "refused: it names posix.system" in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "gone.pth")]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_adapters_and_parts(capsys: pytest.CaptureFixture[str]) -> None:
    report = shown(FILES / "adapter", capsys)
    assert (report["kind"], report["trained"]) == ("adapter", 104)
    assert report["progress"]["base_model_name_or_path"] == "./model"
    assert report["progress"]["r"] == 2
    report = shown(FILES / "llava_parts", capsys)
    assert report["kind"] == "parts"
    assert [m["name"] for m in report["modules"]] == [
        "projector",
        "llm_adapter.layers",
        "visual_encoder_adapter.vision_model",
    ]
    projector = report["modules"][0]
    assert projector["parameters"] == 8 * 8 + 8 + 8 * 8 + 8


def test_models_in_several_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    save_file({"model.layers.0.w": torch.ones(2, 3).bfloat16()}, tmp_path / "a.safetensors")
    index = {"weight_map": {"model.layers.0.w": "a.safetensors", "lm_head.weight": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    report = shown(tmp_path, capsys, code=1)
    assert report["kind"] == "huggingface"
    assert report["damage"] == ["b.safetensors is missing"]
    (module,) = report["modules"]
    assert (module["name"], module["bytes"], module["dtypes"]) == ("layers", 12, ["bfloat16"])
