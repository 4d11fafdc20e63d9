"""Any model with eyes: whole or adapter, loaded by plain transformers with a picture; merging."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_vlms
import torch
from peft import LoraConfig
from transformers import AutoModelForImageTextToText, AutoTokenizer

from inlay.convert.folder import RECORD
from inlay.convert.merge import merge
from inlay.convert.probe import probe_logits
from inlay.convert.to_hf import export
from inlay.convert.verify import verify
from inlay.core.errors import ModelError
from inlay.data import HFImageProcessor
from inlay.data.templates import PROMPT_TEMPLATE
from inlay.models import VisionFinetune

Trained = Callable[..., tuple[Any, Any, Any]]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vlms.qwen_vl(tmp_path_factory.mktemp("qwen"))


@pytest.fixture
def trained(qwen: Path, shaken: Callable[[Any], Any]) -> Trained:
    def build(lora: LoraConfig | None = None) -> tuple[Any, Any, Any]:
        tokenizer = AutoTokenizer.from_pretrained(qwen)
        processor = HFImageProcessor(qwen, tokenizer)
        model = AutoModelForImageTextToText.from_pretrained(qwen)
        finetune = VisionFinetune(model, lora, use_activation_checkpointing=False)
        return shaken(finetune), tokenizer, processor

    return build


def test_a_whole_model(trained: Trained, tmp_path: Path) -> None:
    model, tokenizer, processor = trained()
    out = export(model, tokenizer, tmp_path / "out", image_processor=processor)
    record = json.loads((out / RECORD).read_text())
    assert {"pixel_values", "image_grid_thw"} <= record["images"].keys()
    report = verify(out)  # in a process of its own, without inlay
    assert report["difference"] == 0.0 and report["checks"]["process"]["ok"]
    card = (out / "README.md").read_text()
    assert "image-text-to-text" in card and "AutoModelForImageTextToText" in card
    # the probe's picture is seen
    plain = AutoModelForImageTextToText.from_pretrained(out)
    shown = probe_logits(plain, record["probe_ids"], record["images"])
    blank = {**record["images"]["pixel_values"], "fill": 0.0}
    hidden = {**record["images"], "pixel_values": blank}
    assert not torch.allclose(shown, probe_logits(plain, record["probe_ids"], hidden), atol=1e-2)


def test_an_adapter_and_its_merge(qwen: Path, trained: Trained, tmp_path: Path, here: None) -> None:
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model, tokenizer, processor = trained(lora)
    out = export(model, tokenizer, tmp_path / "out", dtype="float32", image_processor=processor)
    assert (out / "adapter_config.json").is_file() and not (out / "config.json").exists()
    assert verify(out)["difference"] == 0.0
    merged = merge(str(qwen), str(out), tmp_path / "merged")
    assert verify(merged)["difference"] == 0.0
    record = json.loads((out / RECORD).read_text())
    plain = AutoModelForImageTextToText.from_pretrained(merged)
    found = probe_logits(plain, record["probe_ids"], record["images"])
    expected = probe_logits(model.llm, record["probe_ids"], record["images"])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_a_named_template_goes_with_the_export(trained: Trained, tmp_path: Path) -> None:
    model, tokenizer, processor = trained()
    out = export(
        model,
        tokenizer,
        tmp_path / "out",
        image_processor=processor,
        template=PROMPT_TEMPLATE.qwen_chat,
    )
    parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
    chat = [{"role": "user", "content": parts}]
    reader = AutoTokenizer.from_pretrained(out)
    text = reader.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert f"{processor.placeholder}\nWhat?" in text


def test_a_damaged_model_is_found(trained: Trained, tmp_path: Path, here: None) -> None:
    from safetensors.torch import load_file, save_file

    model, tokenizer, processor = trained()
    out = export(model, tokenizer, tmp_path / "out", image_processor=processor)
    file = out / "model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if n.endswith("patch_embed.proj.weight"))
    save_file({**tensors, name: tensors[name] * 2}, file, {"format": "pt"})
    with pytest.raises(ModelError, match="logits"):
        verify(out)
