"""Recomputed activations: the same numbers to the last bit, with less to keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as T
from peft import LoraConfig
from sights import IMAGE, clip, family, llama, pictures, row, seeing, text
from torch import nn
from transformers import AutoModelForCausalLM

from inlay.core.errors import ModelError
from inlay.models import LLaVAModel, SupervisedFinetune, VisionFinetune
from inlay.models.lm import quantization

PATCHES = 16
LORA: dict[str, Any] = {"r": 4, "lora_dropout": 0.3, "init_lora_weights": False}
Make = Callable[[bool], nn.Module]


def documents() -> list[tuple[list[int], int]]:
    torch.manual_seed(3)
    return [(text(n), n - 3) for n in (9, 17, 5)]


def step(model: nn.Module, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    torch.manual_seed(7)  # dropout
    out = model(**batch)
    out.loss_sum.backward()
    after = torch.rand(())  # what the next step would draw
    found = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return torch.stack([out.loss_sum.detach(), after]), found


def assert_bits_equal(make: Make, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Compare a step with and without; returns the gradients."""
    torch.manual_seed(0)
    kept = make(False).train()
    torch.manual_seed(0)
    made_again = make(True).train()
    calls = [count_calls(m) for m in (kept, made_again)]
    loss, wanted = step(kept, batch)
    found_loss, found = step(made_again, batch)
    assert torch.equal(loss, found_loss)
    assert found.keys() == wanted.keys() and found
    assert all(torch.equal(found[n], wanted[n]) for n in wanted)
    assert calls[0] and {n: 2 * c for n, c in calls[0].items()} == calls[1]
    return found


def count_calls(model: nn.Module) -> dict[str, int]:
    """Count the calls of each first layer's MLP from now on."""
    calls: dict[str, int] = {}
    for name, module in model.named_modules():
        if name.endswith(".0.mlp"):
            module.register_forward_pre_hook(
                lambda *_, name=name: calls.update({name: calls.get(name, 0) + 1})
            )
    return calls


@pytest.mark.parametrize("lora", [None, LoraConfig(target_modules="all-linear", **LORA)])
def test_packed_rows_with_dropout(lora: Any) -> None:
    def make(recompute: bool) -> nn.Module:
        llm = llama(attention_dropout=0.2)
        return SupervisedFinetune(llm, lora, use_activation_checkpointing=recompute)

    found = assert_bits_equal(make, row(documents()))
    assert any("layers.0." in name for name in found), "the first layer gets no gradient"
    assert all("lora_" in name for name in found) == (lora is not None)


def test_windows_and_capped_scores() -> None:
    config = T.Gemma2Config(
        vocab_size=100, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=4,
        attn_logit_softcapping=2.0,
    )  # fmt: skip
    assert_bits_equal(
        lambda recompute: SupervisedFinetune(T.Gemma2ForCausalLM(config), None, recompute),
        row(documents()),
    )


def test_four_bits(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    llama().save_pretrained(tmp_path)
    lora = LoraConfig(target_modules=["q_proj", "down_proj"], **LORA)

    def make(recompute: bool) -> nn.Module:
        config = quantization(4, torch.float32)
        llm = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=config)
        return SupervisedFinetune(llm, lora, use_activation_checkpointing=recompute)

    torch.manual_seed(0)
    found = assert_bits_equal(make, row(documents()))
    assert all("lora_" in name for name in found)


def seeing_row() -> dict[str, Any]:
    torch.manual_seed(3)
    return row([(seeing(PATCHES), 4), (text(9), 6), (seeing(PATCHES), 3)], pictures(2))


@pytest.mark.parametrize("encoder_lora", [None, LoraConfig(target_modules=["q_proj"], **LORA)])
def test_a_trained_vision_encoder_is_recomputed(encoder_lora: Any) -> None:
    def make(recompute: bool) -> nn.Module:
        return LLaVAModel(
            llama(),
            clip(),
            llm_lora=LoraConfig(target_modules=["v_proj"], **LORA),
            visual_encoder_lora=encoder_lora,
            use_activation_checkpointing=recompute,
        )

    batch = seeing_row()
    batch["image_positions"] = (batch["input_ids"][0] == IMAGE).nonzero()[:, 0]
    found = assert_bits_equal(make, batch)
    assert any(name.startswith("visual_encoder.") for name in found)
    assert any(name.startswith("projector.") for name in found)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl"])
def test_families_that_see(name: str) -> None:
    _, images, tokens = family(name)
    batch = row([(seeing(tokens[0]), 4), (text(9), 5), (seeing(tokens[1]), 3)], images)

    def make(recompute: bool) -> nn.Module:
        return VisionFinetune(family(name)[0], use_activation_checkpointing=recompute)

    assert_bits_equal(make, batch)


def test_what_is_kept_does_not_grow_with_the_layers() -> None:
    def kept(layers: int, recompute: bool) -> int:
        model = SupervisedFinetune(llama(num_hidden_layers=layers), None, recompute).train()
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: sizes.append(tensor.numel()) or tensor, lambda tensor: tensor
        ):
            model(**row([(text(40), 3)]))
        return sum(sizes)

    tokens = 40 * 32  # the input of a layer
    assert kept(4, True) - kept(2, True) <= 2 * 2 * tokens
    assert kept(4, False) - kept(2, False) >= 20 * 2 * tokens


def test_a_model_that_cannot_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(T.LlamaForCausalLM, "supports_gradient_checkpointing", False)
    with pytest.raises(ModelError, match="use_activation_checkpointing=False"):
        SupervisedFinetune(llama())
