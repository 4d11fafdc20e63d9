"""Loss of a flat row of documents against transformers' own loss, one document at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import AutoModelForCausalLM

from inlay.core.errors import ModelError
from inlay.core.types import IGNORE_INDEX
from inlay.models import SupervisedFinetune
from inlay.models.lm import load_adapter, load_causal_lm, quantization


def row(docs: list[list[int]], trained_from: int) -> dict[str, torch.Tensor]:
    """Documents as one flat row, trained from token ``trained_from`` of each."""
    labels = [[IGNORE_INDEX] * trained_from + d[trained_from:] for d in docs]
    lengths = torch.tensor([0, *[len(d) for d in docs]])
    return {
        "input_ids": torch.tensor([[i for d in docs for i in d]]),
        "labels": torch.tensor([[i for d in labels for i in d]]),
        "position_ids": torch.cat([torch.arange(len(d)) for d in docs])[None],
        "doc_starts": lengths.cumsum(0).to(torch.int32),
    }


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_equal_the_librarys(tiny_model: Path, checkpointing: bool) -> None:
    llm = AutoModelForCausalLM.from_pretrained(tiny_model)
    docs = [torch.randint(0, 256, (n,)).tolist() for n in (9, 17, 4)]
    total = torch.zeros(())
    for d in docs:
        labels = torch.tensor([[IGNORE_INDEX] * 3 + d[3:]])
        total = total + llm(torch.tensor([d]), labels=labels).loss * (len(d) - 3)
    total.backward()
    wanted = {n: p.grad.clone() for n, p in llm.named_parameters()}
    llm.zero_grad()
    model = SupervisedFinetune(llm, use_activation_checkpointing=checkpointing).train()
    out = model(**row(docs, 3))
    assert out.loss_units == 6 + 14 + 1
    torch.testing.assert_close(out.loss_sum, total)
    out.loss_sum.backward()
    for name, p in llm.named_parameters():
        torch.testing.assert_close(p.grad, wanted[name], atol=1e-5, rtol=1e-4)


def test_a_stand_in_batch_has_zero_loss_and_gradients_everywhere(tiny_model: Path) -> None:
    model = SupervisedFinetune(AutoModelForCausalLM.from_pretrained(tiny_model)).train()
    batch = row([[1, 2, 3, 4]], 4)
    out = model(**batch)
    assert (out.loss_sum.item(), out.loss_units) == (0.0, 0)
    out.loss_sum.backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


def test_lora_trains_adapters_only_and_names_a_wrong_target(tiny_model: Path) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = SupervisedFinetune(AutoModelForCausalLM.from_pretrained(tiny_model), lora).train()
    model(**row([[5, 6, 7, 8, 9]], 2)).loss_sum.backward()
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in n for n in trained)
    assert all(p.grad is None for n, p in model.named_parameters() if n not in trained)
    wrong = LoraConfig(target_modules=["query_proj"], task_type="CAUSAL_LM")
    with pytest.raises(ModelError, match="q_proj"):
        SupervisedFinetune(AutoModelForCausalLM.from_pretrained(tiny_model), wrong)


def test_qlora_really_trains_on_a_cpu(tiny_model: Path) -> None:
    pytest.importorskip("bitsandbytes")
    llm = AutoModelForCausalLM.from_pretrained(
        tiny_model, quantization_config=quantization(4, torch.float32)
    )
    lora = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    torch.manual_seed(0)
    model = SupervisedFinetune(llm, lora).train()
    names = {type(m).__name__ for m in model.modules()}
    assert "Linear4bit" in names
    batch = row([torch.randint(0, 256, (40,)).tolist()], 1)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses: list[float] = []
    for _ in range(40):
        loss = model(**batch).loss_sum / 39
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.4


def test_generation_keeps_the_training_mode(tiny_model: Path) -> None:
    model = SupervisedFinetune(AutoModelForCausalLM.from_pretrained(tiny_model)).train()
    out = model.generate(torch.tensor([[1, 2]]), max_new_tokens=3, do_sample=False)
    assert out.shape == (1, 5) and model.training


def test_an_adapter_that_would_do_nothing_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = SupervisedFinetune(AutoModelForCausalLM.from_pretrained(tiny_model), lora)
    model.llm.save_pretrained(tmp_path / "adapter")
    from safetensors.torch import load_file, save_file

    file = tmp_path / "adapter" / "adapter_model.safetensors"
    renamed: dict[str, Any] = {f"elsewhere.{k}": v for k, v in load_file(file).items()}
    save_file(renamed, file)
    with pytest.raises(ModelError, match="missing on one side"):
        load_adapter(AutoModelForCausalLM.from_pretrained(tiny_model), str(tmp_path / "adapter"))


def test_a_missing_model_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot load"):
        load_causal_lm(str(tmp_path / "absent"))
