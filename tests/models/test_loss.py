"""The loss of long rows, some logits at a time, against the library's logits all at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from peft import LoraConfig
from sights import family, row, seeing, text
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from inlay.models import SupervisedFinetune, VisionFinetune, loss
from inlay.models.head import head_of

VOCABULARY, WIDTH = 96, 32
CHUNK = 5
SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
AFTER: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"tie_word_embeddings": True},
    "gemma2": {"final_logit_softcapping": 1.5},
    "gemma3_text": {"final_logit_softcapping": 0.7},
    "cohere": {"logit_scale": 0.25},
    "granite": {"logits_scaling": 3.0},
    "hyperclovax": {"logits_scaling": 0.5},
    "nanochat": {"final_logit_softcapping": 2.0},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "phi": {"tie_word_embeddings": False},
    "falcon_h1": {"lm_head_multiplier": 0.3, "mamba_d_ssm": 32, "mamba_n_heads": 4},
}
"""Families by what they do with their head's logits: nothing, cap or scale them, a bias."""

Documents = list[tuple[list[int], int]]


def tiny(kind: str = "llama", **settings: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SIZES | AFTER[kind] | settings)
    model = AutoModelForCausalLM.from_config(config)
    for weight in model.parameters():  # a head whose logits are far from one another
        weight.data.mul_(2.0) if weight.dim() > 1 else None
    return model


def documents() -> Documents:
    drawn = torch.Generator().manual_seed(1)
    lengths = (9, 14, 6)
    return [(torch.randint(VOCABULARY, (n,), generator=drawn).tolist(), n - 2) for n in lengths]


def at_once(monkeypatch: pytest.MonkeyPatch, chunk: int) -> list[int]:
    """Let ``chunk`` tokens have logits at a time; returns the list of how many had them."""
    seen: list[int] = []
    real = loss.after_head

    def spy(model: Any, logits: torch.Tensor) -> torch.Tensor:
        seen.append(logits.shape[1])
        return real(model, logits)

    monkeypatch.setattr(loss, "after_head", spy)
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", chunk * VOCABULARY)
    return seen


def gradients(model: nn.Module, summed: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    (summed * 0.25).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], to: float) -> None:
    assert found.keys() == wanted.keys() and found
    for name, gradient in wanted.items():
        atol = to * gradient.abs().max().item()
        torch.testing.assert_close(found[name], gradient, atol=atol, rtol=to, msg=name)


@pytest.mark.parametrize("kind", AFTER)
def test_loss_and_gradients_are_those_of_the_librarys_logits(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = tiny(kind).eval()
    ids, trained = documents()[1]
    logits = llm(torch.tensor([ids])).logits[0]
    targets = torch.tensor(ids[-trained:])
    wanted = F.cross_entropy(logits[-trained - 1 : -1], targets, reduction="sum")
    expected = gradients(llm, wanted)
    seen = at_once(monkeypatch, CHUNK)
    model = SupervisedFinetune(llm, use_activation_checkpointing=False).eval()
    out = model(**row([(ids, trained)]))
    assert seen == [5, 5, 2] and out.loss_units == 12
    torch.testing.assert_close(out.loss_sum, wanted, rtol=1e-6, atol=0)
    assert_same(gradients(llm, out.loss_sum), expected, 1e-5)


LORA: dict[str, Any] = {"r": 4, "init_lora_weights": False, "task_type": "CAUSAL_LM"}
HEADS = {
    "trained": None,
    "frozen": LoraConfig(target_modules=["q_proj"], **LORA),
    "adapted": LoraConfig(target_modules=["q_proj", "lm_head"], **LORA),
    "saved": LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"], **LORA),
}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.filterwarnings("ignore:.*tie")
def test_heads_trained_frozen_adapted_and_tied(
    head: str, tied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SupervisedFinetune(tiny(tie_word_embeddings=tied), HEADS[head]).train()
    whole = model(**row(documents())).loss_sum
    expected = gradients(model, whole)
    seen = at_once(monkeypatch, CHUNK)
    found = model(**row(documents())).loss_sum
    assert seen == [5, 5, 5, 5, 3]
    torch.testing.assert_close(found, whole, rtol=1e-6, atol=0)
    assert_same(gradients(model, found), expected, 1e-5)
    with torch.no_grad():
        torch.testing.assert_close(model(**row(documents())).loss_sum, whole, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_summed_in_float32(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SupervisedFinetune(tiny(tie_word_embeddings=True)).train()
    scale = 2.0**12  # as the loss scale of float16

    def run() -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        with torch.autocast("cpu", dtype):
            summed = model(**row(documents())).loss_sum
        return summed, gradients(model, summed * scale)

    whole, expected = run()
    seen = at_once(monkeypatch, CHUNK)
    found, got = run()
    assert len(seen) == 5 * (2 if dtype == torch.float16 else 1)  # made again under the scale
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, whole, rtol=1e-6, atol=0)
    assert_same(got, expected, 2e-2)


def test_weights_in_bfloat16_get_their_gradient_in_bfloat16(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = SupervisedFinetune(tiny().bfloat16()).train()
    expected = gradients(model, model(**row(documents())).loss_sum)
    at_once(monkeypatch, CHUNK)
    summed = model(**row(documents())).loss_sum
    assert summed.dtype == torch.float32
    assert_same(gradients(model, summed), expected, 3e-2)


def test_no_logits_outlive_their_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SupervisedFinetune(tiny()).train()
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape[-1:] == (VOCABULARY,) and tensor.shape[-2:-1] != (WIDTH,):
            kept.append(tensor.numel())
        return tensor

    def run() -> int:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            model(**row(documents()))
        return max(kept, default=0)

    assert run() == 23 * VOCABULARY
    at_once(monkeypatch, CHUNK)
    assert run() <= CHUNK * VOCABULARY


def test_the_head_is_called_once_and_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SupervisedFinetune(tiny()).train()
    calls: list[str] = []
    head = model.llm.lm_head
    head.register_forward_pre_hook(lambda *_: calls.append("forward"))

    def mark(module: nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor:
        marked = out.clone()  # how sharded weights are told that their backward begins
        marked.register_hook(lambda gradient: calls.append("backward"))
        return marked

    head.register_forward_hook(mark)
    at_once(monkeypatch, CHUNK)
    for _ in range(2):
        model(**row(documents())).loss_sum.backward()
    assert calls == ["forward", "backward"] * 2
    assert "forward" not in vars(head) and len(head._forward_hooks) == 1
    monkeypatch.setattr(head, "forward", lambda hidden: 1 / 0)  # a library's own, as accelerate's
    with pytest.raises(ZeroDivisionError):
        model(**row(documents()))
    with pytest.raises(ZeroDivisionError):
        head.forward(None)


def test_a_head_elsewhere_gets_all_logits_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = SupervisedFinetune(tiny()).train()
    whole = model(**row(documents())).loss_sum
    seen = at_once(monkeypatch, CHUNK)
    lm_head = model.llm.lm_head
    monkeypatch.setattr(type(model.llm), "get_output_embeddings", lambda self: lm_head.weight)
    assert head_of(model.llm) is None
    assert torch.equal(model(**row(documents())).loss_sum, whole) and not seen


def test_every_rank_calls_the_parts_of_a_gathered_head_as_often() -> None:
    """DeepSpeed's ZeRO-3 gathers weights, marked ``ds_id``, at each call of a module."""
    plain = SupervisedFinetune(tiny()).llm
    adapted = SupervisedFinetune(tiny(), HEADS["adapted"]).llm.get_base_model()
    for llm in (plain, adapted):
        assert head_of(llm) is llm.lm_head
        for number, weight in enumerate(llm.lm_head.parameters()):
            weight.ds_id = number
    assert head_of(plain) is plain.lm_head and head_of(adapted) is None


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/s", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_fully_sharded_weights_get_their_gradients(
    one_rank: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    plain, sharded = (SupervisedFinetune(tiny()).train() for _ in range(2))
    mesh = init_device_mesh("cpu", (1,))
    for part in (*sharded.llm.model.layers, sharded.llm.lm_head, sharded):
        fully_shard(part, mesh=mesh)
    expected = gradients(plain, plain(**row(documents())).loss_sum)
    seen = at_once(monkeypatch, CHUNK)
    found = gradients(sharded, sharded(**row(documents())).loss_sum)
    assert len(seen) == 5
    assert_same({n: g.full_tensor() for n, g in found.items()}, expected, 1e-5)


@pytest.mark.parametrize("name", ["qwen2_5_vl", "idefics3", "llava", "paligemma", "gemma3"])
def test_rows_with_pictures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, images, tokens = family(name)
    docs: Documents = [(seeing(tokens[0]), 4), (text(19), 17), (seeing(tokens[1]), 3)]
    vlm = VisionFinetune(model).train()
    whole = vlm(**row(docs, images)).loss_sum
    expected = gradients(vlm, whole)
    seen: list[int] = []
    real = loss.after_head
    monkeypatch.setattr(loss, "after_head", lambda m, x: seen.append(x.shape[1]) or real(m, x))
    vocabulary = model.config.get_text_config().vocab_size
    monkeypatch.setattr(loss, "LOGITS_AT_ONCE", 12 * vocabulary)
    found = vlm(**row(docs, images)).loss_sum
    assert seen == ([12, 12] if vlm.family.packs else [12, 5])
    torch.testing.assert_close(found, whole, rtol=1e-6, atol=0)
    assert_same(gradients(vlm, found), expected, 1e-4)
