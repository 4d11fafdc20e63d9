"""Packed attention: equal to one forward per document, for every kind of layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    Qwen3Config,
)

from inlay.models import attention
from inlay.models.attention import NAME, document_mask

SMALL = dict(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
)
CONFIGS = {
    "llama": LlamaConfig(**SMALL),
    "qwen3": Qwen3Config(**SMALL),
    "mistral_sliding": MistralConfig(**SMALL, sliding_window=5),
    "gemma2_softcap_sliding": Gemma2Config(**SMALL, sliding_window=5),
    "gemma3_sliding": Gemma3TextConfig(**SMALL, sliding_window=5),
}
LENGTHS = (7, 1, 12, 30)


def build(name: str) -> Any:
    torch.manual_seed(0)
    config = CONFIGS[name]
    # The reference is the library's eager attention, one document at a time.
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


def packed(model: Any, docs: list[torch.Tensor], **kwargs: Any) -> torch.Tensor:
    starts = torch.tensor([0, *torch.tensor([len(d) for d in docs]).cumsum(0).tolist()])
    positions = torch.cat([torch.arange(len(d)) for d in docs])
    return model(
        torch.cat(docs)[None],
        position_ids=positions[None],
        attention_mask=document_mask(starts),
        use_cache=False,
        **kwargs,
    ).logits[0]


@pytest.mark.parametrize("name", CONFIGS)
def test_packed_logits_and_gradients_equal_separate_documents(name: str) -> None:
    model = build(name)
    docs = [torch.randint(1, 97, (n,)) for n in LENGTHS]
    expected = torch.cat([model(d[None], use_cache=False).logits[0] for d in docs])
    expected.square().mean().backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.set_attn_implementation(NAME)
    out = packed(model, docs)
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=1e-4)
    out.square().mean().backward()
    for key, grad in wanted.items():
        got = model.get_parameter(key).grad
        torch.testing.assert_close(got, grad, atol=1e-5, rtol=1e-3, msg=key)


@pytest.mark.parametrize("name", CONFIGS)
def test_half_precision_on_a_cpu_is_padded_and_stays_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build(name).to(torch.bfloat16)
    model.set_attn_implementation(NAME)
    docs = [torch.randint(1, 97, (n,)) for n in LENGTHS]
    lengths = set()
    plain = attention._one_document

    def seen(query: torch.Tensor, *args: Any) -> torch.Tensor:
        lengths.add(query.shape[2])
        return plain(query, *args)

    monkeypatch.setattr(attention, "_one_document", seen)
    found = {}
    for block in (1, 16):
        monkeypatch.setattr(attention, "CPU_BLOCK", block)
        model.zero_grad()
        out = packed(model, docs)
        out.float().square().mean().backward()
        found[block] = [out, *(p.grad for p in model.parameters())]
    assert lengths == {*LENGTHS, 16, 32}
    for one, other in zip(*found.values(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-2, rtol=2e-2)
    model.float()
    lengths.clear()
    packed(model, docs)
    assert lengths == set(LENGTHS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        packed(model, docs)
    assert lengths == {*LENGTHS, 16, 32}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_document_never_sees_another(checkpointing: bool) -> None:
    model = build("llama")
    model.set_attn_implementation(NAME)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    docs = [torch.randint(1, 97, (n,)) for n in LENGTHS]
    embedding = model.get_input_embeddings()
    seen: list[torch.Tensor] = []
    hook = embedding.register_forward_hook(lambda m, i, o: (o.retain_grad(), seen.append(o))[1])
    packed(model, docs)[: LENGTHS[0]].sum().backward()
    hook.remove()
    gradient = seen[0].grad
    assert gradient is not None
    assert gradient[0, : LENGTHS[0]].abs().sum() > 0
    assert gradient[0, LENGTHS[0] :].abs().max() == 0


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("padding", [4, 0])
def test_generation_with_padding_and_cache_is_the_librarys_own(name: str, padding: int) -> None:
    model = build(name)
    ids = torch.randint(1, 97, (2, 9))
    mask = torch.ones_like(ids)
    mask[0, :padding] = 0
    kwargs = dict(attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
    expected = model.generate(ids, **kwargs)
    model.set_attn_implementation(NAME)
    assert torch.equal(model.generate(ids, **kwargs), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral_sliding"])
def test_varlen_kernel_equals_separate_documents_on_gpu(name: str) -> None:
    model = build(name).to("cuda", torch.bfloat16)
    docs = [torch.randint(1, 97, (n,), device="cuda") for n in LENGTHS]
    expected = torch.cat([model(d[None], use_cache=False).logits[0] for d in docs])
    model.set_attn_implementation(NAME)
    starts = torch.tensor([0, 7, 8, 20, 50], device="cuda", dtype=torch.int32)
    out = model(
        torch.cat(docs)[None],
        position_ids=torch.cat([torch.arange(n, device="cuda") for n in LENGTHS])[None],
        attention_mask=document_mask(starts),
        use_cache=False,
        longest_document=30,
    ).logits[0]
    error = (out - expected).float().norm() / expected.float().norm()
    assert error < 1e-2
