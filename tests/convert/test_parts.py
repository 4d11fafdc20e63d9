"""LLaVA parts and nanoVLM folders: what is written, and that it answers as the trained model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, CLIPVisionModel

from inlay.convert.folder import RECORD
from inlay.convert.merge import merge, merge_parts, merge_visual_encoder
from inlay.convert.nanovlm import export_nanovlm
from inlay.convert.parts import export_parts
from inlay.convert.see import llava_logits, picture_probe
from inlay.convert.verify import verify
from inlay.core.errors import ModelError
from inlay.models.load_vlm import load_parts, load_vlm

BACKBONES = {"projector": "pixel_shuffle", "pixel_shuffle_factor": 2, "visual_select_layer": None}


def lora(**settings: Any) -> LoraConfig:
    return LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", **settings)


def folders(out: Path) -> set[str]:
    return {f.name for f in out.iterdir() if f.is_dir()}


def answers(model: Any, tokenizer: Any, processor: Any) -> torch.Tensor:
    probe = picture_probe(processor, tokenizer, model.llm.config.vocab_size)
    return llava_logits(model, probe, processor.image_token_id)


def test_pretraining_writes_the_projector(
    make: Callable[..., Any], backbones: dict[str, Path], tmp_path: Path
) -> None:
    model, tokenizer, processor = make(freeze_llm=True, freeze_visual_encoder=True)
    out = export_parts(model, tokenizer, processor, tmp_path / "out")
    assert folders(out) == {"projector"}
    assert not (out / "config.json").exists() and (out / "tokenizer.json").is_file()
    record = json.loads((out / RECORD).read_text())
    assert record["bases"] == {
        "llm": str(backbones["llm"]), "visual_encoder": str(backbones["clip"])
    }  # fmt: skip
    assert verify(out)["difference"] < 1e-4
    # XTuner's names and sizes
    config = json.loads((out / "projector" / "config.json").read_text())
    assert config["model_type"] == "projector" and config["visual_hidden_size"] == 32
    assert set(load_file(out / "projector" / "model.safetensors")) == {
        "model.0.weight", "model.0.bias", "model.2.weight", "model.2.bias"
    }  # fmt: skip


def test_adapters_have_folders_of_their_own(
    make: Callable[..., Any], backbones: dict[str, Path], tmp_path: Path, here: None
) -> None:
    settings = {
        "freeze_llm": True,
        "freeze_visual_encoder": True,
        "llm_lora": lora(task_type="CAUSAL_LM"),
        "visual_encoder_lora": lora(),
    }
    model, tokenizer, processor = make(**settings)
    out = export_parts(model, tokenizer, processor, tmp_path / "out", dtype="float32")
    assert folders(out) == {"projector", "llm_adapter", "visual_encoder_adapter"}
    assert verify(out)["difference"] < 1e-4
    expected = answers(model, tokenizer, processor)

    # XTuner's way to a whole model: merge each part, then chat on the merged ones
    base, encoder = str(backbones["llm"]), str(backbones["clip"])
    llm = merge(base, str(out / "llm_adapter"), tmp_path / "llm")
    vision = merge_visual_encoder(encoder, str(out / "visual_encoder_adapter"), tmp_path / "vision")
    assert verify(vision)["difference"] == 0.0
    assert isinstance(CLIPVisionModel.from_pretrained(vision), CLIPVisionModel)
    (tmp_path / "only").mkdir()
    (out / "projector").rename(tmp_path / "only" / "projector")
    merged = load_parts(str(llm), str(tmp_path / "only"), str(vision))
    torch.testing.assert_close(answers(merged, tokenizer, processor), expected, atol=1e-4, rtol=0)


def test_what_was_trained_in_full_is_written_in_full(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    model, tokenizer, processor = make()
    out = export_parts(model, tokenizer, processor, tmp_path / "out", max_shard_size="60KB")
    assert folders(out) == {"projector", "visual_encoder"}
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.float16
    assert (out / "model.safetensors.index.json").is_file()
    assert (out / "visual_encoder" / "preprocessor_config.json").is_file()
    assert verify(out)["difference"] == 0.0
    # a damaged part is found
    file = out / "projector" / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "model.0.bias": tensors["model.0.bias"] + 0.5}, file)
    with pytest.raises(ModelError, match=r"weights: sha256.*logits"):
        verify(out)


def test_a_frozen_part_is_written_on_request(make: Callable[..., Any], tmp_path: Path) -> None:
    model, tokenizer, processor = make(
        freeze_llm=True, freeze_visual_encoder=True, llm_lora=lora(task_type="CAUSAL_LM")
    )
    expected = answers(model, tokenizer, processor)
    with pytest.raises(ModelError, match="merge"):
        export_parts(model, tokenizer, processor, tmp_path / "out", whole=True)
    merge_parts(model)
    out = export_parts(model, tokenizer, processor, tmp_path / "out", whole=True, dtype=None)
    assert folders(out) == {"projector", "visual_encoder"}
    back = load_parts("nowhere", str(out))
    torch.testing.assert_close(answers(back, tokenizer, processor), expected, atol=1e-4, rtol=0)
    assert verify(out)["difference"] == 0.0


def test_nanovlm_layout(make: Callable[..., Any], tmp_path: Path) -> None:
    model, tokenizer, processor = make("siglip", tiled=True, **BACKBONES)
    out = export_nanovlm(model, tokenizer, processor, tmp_path / "out")
    assert verify(out)["difference"] == 0.0
    config = json.loads((out / "config.json").read_text())
    assert config["extra_token_amount"] == 66
    assert config["mp_image_token_length"] == 16
    assert config["vlm_extra_tokens"]["r8c8"] == "<row_8_col_8>"
    with pytest.raises(ModelError, match="tiled"):
        export_nanovlm(*make("siglip", **BACKBONES), tmp_path / "square")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_nanovlm_layout_in_half_precision(
    make: Callable[..., Any], tmp_path: Path, dtype: str
) -> None:
    model, tokenizer, processor = make("siglip", tiled=True, **BACKBONES)
    out = export_nanovlm(model, tokenizer, processor, tmp_path / "out", dtype=dtype)
    assert load_file(out / "model.safetensors")["MP.proj.weight"].dtype == getattr(torch, dtype)
    assert verify(out)["difference"] < 0.1


def test_nanovlm_sees_raw_pixels_as_ours_sees_normalised_ones(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    from PIL import Image
    from transformers import AutoTokenizer

    from inlay.data.vision.load import load_image_processor

    def see(model: Any, processor: Any) -> torch.Tensor:
        picture = Image.radial_gradient("L").convert("RGB").resize((100, 60))
        with torch.no_grad():
            return model.encode(torch.from_numpy(processor.pixels(picture)["pixel_values"]))

    model, tokenizer, processor = make("siglip", tiled=True, **BACKBONES)
    expected = see(model, processor)
    out = export_nanovlm(model, tokenizer, processor, tmp_path / "out")
    (out / "image_processor.json").unlink()  # what a published folder says by its config alone
    back = load_image_processor(out, AutoTokenizer.from_pretrained(out))
    assert back.image_mean is None
    found = see(load_vlm(str(out)), back)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_the_image_token_need_not_have_a_row(make: Callable[..., Any], tmp_path: Path) -> None:
    model, tokenizer, processor = make()
    out = export_parts(model, tokenizer, processor, tmp_path / "out", dtype=None)
    assert AutoConfig.from_pretrained(out).vocab_size == processor.image_token_id
