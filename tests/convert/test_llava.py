"""LLaVA folders: plain transformers loads them with equal logits, and they come back as parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from inlay.convert.llava import export_llava, import_llava
from inlay.convert.merge import merge_parts
from inlay.convert.verify import verify
from inlay.core.errors import ModelError
from inlay.core.types import IMAGE_MARK, Message
from inlay.data.chat import ChatEncoder
from inlay.data.templates import PROMPT_TEMPLATE
from inlay.models.load_vlm import load_parts


def photo() -> Image.Image:
    noise = np.random.default_rng(3).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def prompt(tokenizer: Any, processor: Any, template: Any = None) -> list[int]:
    """The tokens that our chat shows the model."""
    encoder = ChatEncoder(tokenizer, template, processor)
    return encoder.prompt_ids(
        [Message("user", f"{IMAGE_MARK}\nWhat is it?")], [processor.plan(70, 40)]
    )


def logits(model: Any, ids: list[int], processor: Any) -> torch.Tensor:
    """Last logits of a LLaVAModel for a photo in its prompt."""
    row = torch.tensor([ids])
    at = (row[0] == processor.image_token_id).nonzero(as_tuple=True)[0]
    images = {"pixel_values": torch.from_numpy(processor.pixels(photo())["pixel_values"])}
    with torch.no_grad():
        embeds = model.eval().embed(row, images, at)
        return model.llm(inputs_embeds=embeds, use_cache=False).logits[0].float()


@pytest.mark.parametrize("encoder", ["clip", "siglip"])
@pytest.mark.parametrize("template", [None, "vicuna"])
def test_plain_transformers_gives_equal_logits_for_a_photo(
    make: Callable[..., Any], tmp_path: Path, here: None, encoder: str, template: str | None
) -> None:
    model, tokenizer, processor = make(encoder)
    named = None if template is None else PROMPT_TEMPLATE[template]
    ids = prompt(tokenizer, processor, named)
    expected = logits(model, ids, processor)
    out = export_llava(model, tokenizer, processor, tmp_path / "out", dtype=None, template=named)
    assert verify(out)["difference"] == 0.0
    assert str(tmp_path.parent) not in (out / "config.json").read_text()

    llava = AutoModelForImageTextToText.from_pretrained(out)
    reader = AutoProcessor.from_pretrained(out, backend="pil")
    parts = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    chat = [{"role": "user", "content": parts}]
    text = reader.apply_chat_template(chat, add_generation_prompt=True)
    inputs = reader(text=text, images=photo(), return_tensors="pt", add_special_tokens=False)
    assert inputs["input_ids"][0].tolist() == ids
    with torch.no_grad():
        found = llava(**inputs).logits[0].float()
    torch.testing.assert_close(found[:, : expected.shape[1]], expected, atol=2e-5, rtol=0)
    blind = dict(inputs, pixel_values=torch.zeros_like(inputs["pixel_values"]))
    with torch.no_grad():
        assert not torch.allclose(llava(**blind).logits[0].float(), found, atol=1e-2)


def test_the_image_token_gets_a_row_that_is_never_written(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    model, tokenizer, processor = make()
    rows = model.llm.get_input_embeddings().weight.shape[0]
    assert processor.image_token_id == rows
    out = export_llava(model, tokenizer, processor, tmp_path / "out", dtype=None)
    llava = AutoModelForImageTextToText.from_pretrained(out)
    assert llava.get_input_embeddings().weight.shape[0] == rows + 1
    with torch.no_grad():
        found = llava(input_ids=torch.arange(rows)[None]).logits[0]
    assert (found[:, rows] < found[:, :rows].max(1).values).all()


def test_adapters_are_merged(make: Callable[..., Any], tmp_path: Path, here: None) -> None:
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    eyes = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear")
    model, tokenizer, processor = make(
        freeze_llm=True, freeze_visual_encoder=True, llm_lora=lora, visual_encoder_lora=eyes
    )
    ids = prompt(tokenizer, processor)
    expected = logits(model, ids, processor)
    merge_parts(model)
    torch.testing.assert_close(logits(model, ids, processor), expected, atol=1e-4, rtol=0)
    out = export_llava(model, tokenizer, processor, tmp_path / "out", dtype="float16")
    assert verify(out)["difference"] == 0.0


def test_a_4_bit_model_is_merged_onto_the_full_weights(make: Callable[..., Any]) -> None:
    from inlay.models.lm import quantization

    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    four_bits = quantization(4, torch.float32)
    model, _, _ = make(freeze_llm=True, llm_lora=lora, quantization_config=four_bits)
    tuned = {n: p.detach().clone() for n, p in model.llm.named_parameters() if "lora_" in n}
    merge_parts(model)
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model.llm.config._name_or_path)
    name = "model.layers.0.self_attn.q_proj"
    a, b = (tuned[f"base_model.model.{name}.lora_{side}.default.weight"].float() for side in "AB")
    expected = base.get_submodule(name).weight + 2.0 * (b @ a)
    found = model.llm.get_submodule(name).weight
    torch.testing.assert_close(found.float(), expected.float(), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"projector": "pixel_shuffle", "pixel_shuffle_factor": 2}, "two layers"),
        ({"projector": "linear"}, "two layers"),
        ({"visual_select_layer": None}, "before the final norm"),
        ({"encoder": "siglip", "tiled": True}, "not in tiles"),
    ],
)
def test_what_llava_cannot_express_is_refused(
    make: Callable[..., Any], tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ModelError, match=f"{reason}.*--save-format xtuner.*whole"):
        export_llava(*make(**settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_registers_are_refused(make: Callable[..., Any], tmp_path: Path) -> None:
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    model, tokenizer, processor = make()
    config = Dinov2WithRegistersConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, image_size=56, patch_size=14
    )
    model.visual_encoder = Dinov2WithRegistersModel(config)
    with pytest.raises(ModelError, match="5 tokens before the patches"):
        export_llava(model, tokenizer, processor, tmp_path / "out")


def test_a_language_model_with_steps_of_its_own_is_refused(
    make: Callable[..., Any], tmp_path: Path
) -> None:
    from transformers import GraniteConfig, GraniteForCausalLM

    model, tokenizer, processor = make()
    config = GraniteConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, logits_scaling=8.0,
    )  # fmt: skip
    model.llm = GraniteForCausalLM(config)
    with pytest.raises(ModelError, match="answers otherwise"):
        export_llava(model, tokenizer, processor, tmp_path / "out")


@pytest.mark.parametrize("encoder", ["clip", "siglip"])
def test_a_llava_folder_comes_back_as_parts(
    make: Callable[..., Any], tmp_path: Path, here: None, encoder: str
) -> None:
    model, tokenizer, processor = make(encoder)
    ids = prompt(tokenizer, processor)
    expected = logits(model, ids, processor)
    llava = export_llava(model, tokenizer, processor, tmp_path / "llava", dtype=None)
    out = import_llava(str(llava), tmp_path / "parts")
    assert verify(out)["difference"] == 0.0
    from transformers import AutoTokenizer

    from inlay.data.vision.load import load_image_processor

    back = load_parts("nowhere", str(out))
    tokenizer = AutoTokenizer.from_pretrained(out)
    reader = load_image_processor(out, tokenizer)
    assert prompt(tokenizer, reader) == ids
    assert reader.identity() == processor.identity()
    found = logits(back, ids, reader)[:, : expected.shape[1]]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_another_model_is_not_imported(tmp_path: Path) -> None:
    import tiny_vlms

    folder = tiny_vlms.qwen_vl(tmp_path / "qwen")
    with pytest.raises(ModelError, match="not LlavaForConditionalGeneration"):
        import_llava(str(folder), tmp_path / "out")
