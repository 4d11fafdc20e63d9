"""Regional compile: one block for all layers, the same numbers, names and checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import transformers as T
from peft import LoraConfig
from torch import nn
from torch._dynamo.utils import counters
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from inlay.core.types import IGNORE_INDEX
from inlay.models import LLaVAModel, SupervisedFinetune, attention, compile
from inlay.models.grounding import recording

SIZES: dict[str, Any] = {
    "vocab_size": 100,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": None,
    "eos_token_id": None,
}
EYES: dict[str, Any] = SIZES | {"num_hidden_layers": 3, "image_size": 16, "patch_size": 4}
LORA: dict[str, Any] = {"r": 4, "lora_dropout": 0.3, "init_lora_weights": False}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """No code of other tests, the tracer without the C++ compiler; gives the number of graphs."""
    real = torch.compile

    def traced(function: Any, *, dynamic: bool, options: Any) -> Any:
        return real(function, dynamic=dynamic, backend="aot_eager")

    monkeypatch.setattr(torch, "compile", traced)
    compile._compiled.cache_clear()
    torch._dynamo.reset()
    counters.clear()
    yield lambda: counters["stats"]["unique_graphs"]
    compile._compiled.cache_clear()
    register = T.AttentionInterface.register
    register(attention.NAME, attention.packed_attention)
    register(recording.NAME, recording.capture_attention)


def language_model(layers: int = 2) -> Any:
    torch.manual_seed(0)
    return T.LlamaForCausalLM(T.LlamaConfig(**SIZES, num_hidden_layers=layers))


def row(*lengths: int) -> dict[str, Any]:
    drawn = torch.Generator().manual_seed(sum(lengths))
    ids = torch.randint(90, (1, sum(lengths)), generator=drawn)
    return {
        "input_ids": ids,
        "labels": ids.clone(),
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
        "doc_starts": torch.tensor([0, *lengths]).cumsum(0).int(),
        "longest_document": max(lengths),
    }


def step(model: nn.Module, batch: dict[str, Any]) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    torch.manual_seed(5)  # dropout
    out = model(**batch)
    out.loss_sum.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return out.loss_sum.item(), found


def assert_same(model: nn.Module, batches: list[dict[str, Any]]) -> None:
    """Train uncompiled, compile, train again."""
    model.train()
    names = set(model.state_dict())
    wanted = [step(model, batch) for batch in batches]
    assert compile.compile_blocks(model)
    for batch, (loss, gradients) in zip(batches, wanted, strict=True):
        found, compiled = step(model, batch)
        assert found == pytest.approx(loss, rel=1e-5)
        assert compiled.keys() == gradients.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(compiled[name], gradient, atol=1e-4, rtol=1e-4, msg=name)
    assert set(model.state_dict()) == names


ROWS = [(9, 14), (30, 3, 8), (21,)]


ALL = pytest.param(LoraConfig(target_modules="all-linear", **LORA), marks=pytest.mark.long)


@pytest.mark.parametrize("recompute", [pytest.param(False, marks=pytest.mark.long), True])
@pytest.mark.parametrize("lora", [None, ALL])
def test_losses_and_gradients_over_rows_of_any_length(
    lora: Any, recompute: bool, fresh: Callable[[], int]
) -> None:
    model = SupervisedFinetune(language_model(), lora, use_activation_checkpointing=recompute)
    assert_same(model, [row(*lengths) for lengths in ROWS])
    graphs = fresh()
    assert 0 < graphs <= 8, "a block is four graphs, twice where the first layer's input is frozen"
    for lengths in ((33, 7), (80,), (11, 12, 13)):
        step(model, row(*lengths))
    assert fresh() == graphs


def test_twice_the_layers_are_no_more_graphs(fresh: Callable[[], int]) -> None:
    found = []
    for layers in (2, 4):
        torch._dynamo.reset()
        counters.clear()
        model = SupervisedFinetune(language_model(layers)).train()
        assert compile.compile_blocks(model) == layers
        step(model, row(9, 14))
        found.append(fresh())
    assert found[0] == found[1] > 0


@pytest.mark.long
def test_both_parts_of_a_model_that_sees(fresh: Callable[[], int]) -> None:
    torch.manual_seed(0)
    encoder = T.CLIPVisionModel(T.CLIPVisionConfig(**EYES))
    model = LLaVAModel(language_model(), encoder)
    batch = row(30, 12)
    batch["input_ids"][0, 2:18] = 99
    batch["labels"][0, :20] = IGNORE_INDEX
    batch["images"] = {"pixel_values": torch.randn(1, 3, 16, 16)}
    batch["image_positions"] = torch.arange(2, 18)
    assert_same(model, [batch])
    blocks = [m for m in model.modules() if "forward" in vars(m)]
    assert {type(m).__name__ for m in blocks} == {"LlamaDecoderLayer", "CLIPEncoderLayer"}


def test_generation_is_not_compiled(fresh: Callable[[], int]) -> None:
    model = SupervisedFinetune(language_model()).eval()
    ids = torch.tensor([[1, 2, 3]])
    wanted = model.generate(ids, max_new_tokens=6, do_sample=False)
    compile.compile_blocks(model)
    assert torch.equal(model.generate(ids, max_new_tokens=6, do_sample=False), wanted)
    assert fresh() == 0


def test_a_model_without_blocks_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    assert compile.compile_blocks(model) == 0
    assert "forward" not in vars(model[0])


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/s", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.long
def test_blocks_whose_weights_are_sharded(one_rank: None) -> None:
    plain, sharded = (SupervisedFinetune(language_model()).train() for _ in range(2))
    compile.compile_blocks(sharded)
    mesh = init_device_mesh("cpu", (1,))
    for part in (*sharded.llm.model.layers, sharded):
        fully_shard(part, mesh=mesh)
    loss, wanted = step(plain, row(9, 14))
    found, gradients = step(sharded, row(9, 14))
    assert found == pytest.approx(loss, rel=1e-5)
    for name, gradient in wanted.items():
        whole = gradients[name].full_tensor()  # type: ignore[operator]
        torch.testing.assert_close(whole, gradient, atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.long
def test_with_the_real_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    lora = LoraConfig(target_modules=["q_proj", "down_proj"], **LORA)
    model = SupervisedFinetune(language_model(), lora)
    assert_same(model, [row(*lengths) for lengths in ROWS])
