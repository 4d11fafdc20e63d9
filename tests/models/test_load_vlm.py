"""A model that sees, from every layout of its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from sights import IMAGE, clip, family, livelier, llama, pictures, row, seeing, siglip, told_apart

from inlay.core.errors import ModelError
from inlay.models import LLaVAModel, VisionFinetune
from inlay.models.load_vlm import kind_of, load_parts, load_vlm
from inlay.models.projector import save_projector

LORA = dict(r=4, target_modules=["q_proj", "v_proj"])


def perturbed(model: Any) -> Any:
    """Adapters that do something."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.5)
    return model.eval()


@torch.no_grad()
def loss(model: Any) -> float:
    torch.manual_seed(9)
    return float(model(**row([(seeing(16), 5)], told_apart(pictures(1), [16]))).loss_sum)


def test_parts_that_hold_all(tmp_path: Path) -> None:
    model = LLaVAModel(llama(), livelier(siglip()), visual_select_layer=None).eval()
    model.llm.save_pretrained(tmp_path)
    model.visual_encoder.save_pretrained(tmp_path / "visual_encoder")
    save_projector(model.projector, tmp_path / "projector")
    assert kind_of(tmp_path) == "parts"
    again = load_vlm(str(tmp_path), device="cpu")
    assert isinstance(again, LLaVAModel) and not again.training
    assert loss(again) == loss(model)
    half = load_vlm(str(tmp_path), device="cpu", dtype="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert loss(half) == pytest.approx(loss(model), rel=0.05)
    with pytest.raises(ModelError, match="dtype must be one of fp16"):
        load_vlm(str(tmp_path), device="cpu", dtype="f16")
    wrong = load_parts("", str(tmp_path), visual_select_layer=-2, device="cpu")
    assert abs(loss(wrong) - loss(model)) > 1e-3


def test_adapters_on_base_models(tmp_path: Path) -> None:
    base, eyes, parts = tmp_path / "llm", tmp_path / "clip", tmp_path / "parts"
    llm, encoder = llama(), livelier(clip())
    llm.save_pretrained(base)
    encoder.save_pretrained(eyes)
    model = LLaVAModel(
        llm, encoder, llm_lora=LoraConfig(**LORA), visual_encoder_lora=LoraConfig(**LORA)
    )
    perturbed(model)
    model.llm.save_pretrained(parts / "llm_adapter")
    model.visual_encoder.save_pretrained(parts / "visual_encoder_adapter")
    save_projector(model.projector, parts / "projector")
    again = load_parts(str(base), str(parts), str(eyes), device="cpu")
    assert loss(again) == pytest.approx(loss(model), abs=1e-5)
    (parts / "llm_adapter").rename(parts / "elsewhere")
    without = load_parts(str(base), str(parts), str(eyes), device="cpu")
    assert abs(loss(without) - loss(model)) > 1e-3
    with pytest.raises(ModelError, match="--visual-encoder"):
        load_parts(str(base), str(parts), device="cpu")
    with pytest.raises(ModelError, match="cannot load a causal language model"):
        load_vlm(str(parts), device="cpu")


def test_quantised_parts(tmp_path: Path) -> None:
    model = LLaVAModel(llama(), clip()).eval()
    model.llm.save_pretrained(tmp_path)
    model.visual_encoder.save_pretrained(tmp_path / "visual_encoder")
    save_projector(model.projector, tmp_path / "projector")
    small = load_vlm(str(tmp_path), bits=4, dtype="fp32", device="cpu")
    assert "Linear4bit" in {type(m).__name__ for m in small.llm.modules()}
    assert "Linear4bit" not in {type(m).__name__ for m in small.visual_encoder.modules()}
    assert loss(small) == pytest.approx(loss(model), rel=0.3)


def test_a_model_of_transformers_and_its_adapter(tmp_path: Path) -> None:
    model, _, _ = family("llava")
    model.save_pretrained(tmp_path / "model")
    vlm = perturbed(VisionFinetune(model, LoraConfig(**LORA)))
    vlm.llm.save_pretrained(tmp_path / "adapter")
    adapted = loss(vlm)
    assert kind_of(tmp_path / "model") == "hf"
    again = load_vlm(
        str(tmp_path / "model"), adapter=str(tmp_path / "adapter"), device="cpu", dtype="fp32"
    )
    assert isinstance(again, VisionFinetune) and again.image_token_id == IMAGE
    assert loss(again) == pytest.approx(adapted, abs=1e-5)
    plain = load_vlm(str(tmp_path / "model"), device="cpu")
    assert abs(loss(plain) - adapted) > 1e-3


def test_what_does_not_see_is_told(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    assert kind_of(tmp_path) is None
    with pytest.raises(ModelError, match="holds no model that takes pictures"):
        load_vlm(str(tmp_path), device="cpu")
    (tmp_path / "projector").mkdir()
    with pytest.raises(ModelError, match="cannot load a projector"):
        load_vlm(str(tmp_path), device="cpu")
