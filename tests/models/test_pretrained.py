"""What a fine-tuning stage takes over from the pretraining stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import save_file
from sights import clip, llama

from inlay.core.errors import CheckpointError, ModelError
from inlay.models import LLaVAModel
from inlay.models.projector import save_projector

Tensors = dict[str, torch.Tensor]


@pytest.fixture
def stage_one() -> LLaVAModel:
    llm, encoder = llama(), clip()
    torch.manual_seed(11)
    return LLaVAModel(llm, encoder, freeze_llm=True, freeze_visual_encoder=True)


def checkpoint(path: Path, tensors: Tensors) -> Path:
    path.mkdir(parents=True)
    save_file({n: t.contiguous() for n, t in tensors.items()}, path / "model.safetensors")
    (path / "state.json").write_text(json.dumps({"format": 1}))
    return path


def build(path: Any, **kwargs: Any) -> LLaVAModel:
    return LLaVAModel(llama(), clip(), pretrained_pth=str(path), **kwargs)


def trained(model: LLaVAModel) -> Tensors:
    return {n: p.detach() for n, p in model.named_parameters() if p.requires_grad}


def test_every_form_of_the_stage_is_found(stage_one: LLaVAModel, tmp_path: Path) -> None:
    work = tmp_path / "work"
    folder = checkpoint(work / "iter_20", trained(stage_one))
    (work / "last_checkpoint").write_text("iter_20\n")
    parts = tmp_path / "parts"
    save_projector(stage_one.projector, parts / "projector")
    forms = [
        folder,
        work / "iter_20.pth",  # as XTuner's configs name it
        work,
        folder / "model.safetensors",
        parts,
        parts / "projector",
        parts / "projector" / "model.safetensors",
    ]
    wanted = stage_one.projector.state_dict()
    assert not torch.equal(
        LLaVAModel(llama(), clip()).projector.state_dict()["model.0.weight"],
        wanted["model.0.weight"],
    )
    for form in forms:
        model = build(form, llm_lora=LoraConfig(r=2, target_modules=["q_proj"]))
        assert all(torch.equal(t, wanted[n]) for n, t in model.projector.state_dict().items()), form


def test_stages_with_a_trained_encoder_or_with_adapters(tmp_path: Path) -> None:
    first = build_trained(visual_encoder_lora=None)
    encoder = checkpoint(tmp_path / "iter_1", trained(first))
    lora = LoraConfig(r=2, target_modules=["q_proj"])
    model = build(encoder, visual_encoder_lora=lora, freeze_llm=True)
    inner = model.visual_encoder.base_model.model.encoder.layers[0].self_attn.q_proj.base_layer
    assert torch.equal(inner.weight, first.visual_encoder.encoder.layers[0].self_attn.q_proj.weight)
    second = build_trained(visual_encoder_lora=lora)
    with torch.no_grad():
        for name, parameter in second.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.5)
    adapters = checkpoint(tmp_path / "iter_2", trained(second))
    again = build(adapters, visual_encoder_lora=lora, freeze_llm=True)
    assert all(torch.equal(t, trained(again)[n]) for n, t in trained(second).items())


def build_trained(visual_encoder_lora: Any) -> LLaVAModel:
    torch.manual_seed(11)
    encoder = clip()
    with torch.no_grad():
        encoder.encoder.layers[0].self_attn.q_proj.weight.add_(1.0)
    return LLaVAModel(llama(), encoder, freeze_llm=True, visual_encoder_lora=visual_encoder_lora)


def test_what_does_not_fit_is_refused_by_name(stage_one: LLaVAModel, tmp_path: Path) -> None:
    tensors = trained(stage_one)
    odd = checkpoint(tmp_path / "iter_1", {**tensors, "projector.modell.0.weight": torch.ones(2)})
    with pytest.raises(ModelError, match=r"1 weights .*projector\.modell\.0\.weight"):
        build(odd)
    with pytest.raises(ModelError, match=r"'projector\.model\.0\.weight' has shape \[32, 32\]"):
        build(
            checkpoint(tmp_path / "iter_2", tensors),
            projector="pixel_shuffle",
            pixel_shuffle_factor=2,
        )
    (tmp_path / "epoch_1.txt").write_bytes(b"\x80\x02")
    with pytest.raises(ModelError, match=r"a \.txt file: expected a checkpoint folder"):
        build(tmp_path / "epoch_1.txt")
    (tmp_path / "epoch_1.pth").write_bytes(b"\x80\x02")
    with pytest.raises(CheckpointError, match=r"epoch_1\.pth' is damaged"):
        build(tmp_path / "epoch_1.pth")
    with pytest.raises(ModelError, match="does not exist"):
        build(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"holds no model\.safetensors"):
        build(tmp_path / "empty")
    (tmp_path / "cut.safetensors").write_bytes(b"12")
    with pytest.raises(ModelError, match="is damaged"):
        build(tmp_path / "cut.safetensors")
