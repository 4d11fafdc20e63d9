"""Captured attention rows equal eager attention, in rows, padded batches and decode steps."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
import transformers as T
from looks import assert_seen, eager_maps, expected, look_at
from sights import IMAGE, TEXT, livelier, llama, row, seeing, text
from torch.utils._python_dispatch import TorchDispatchMode

from inlay.core.errors import ModelError
from inlay.models.attention import document_mask
from inlay.models.grounding.capture import Grounded, capture, merge_rows, say_window
from inlay.models.grounding.decode import capture_decoding

WORDS = [[[-4, -3], [-2]], [], [[-5, -2, -3]]]


def three_documents() -> tuple[list[list[int]], Any]:
    torch.manual_seed(5)
    documents = [seeing(4), text(9), seeing(3, 2)]
    words = [[[len(d) + p for p in m] for m in w] for d, w in zip(documents, WORDS, strict=True)]
    return documents, words


def eager(model: Any, ids: list[int], **kwargs: Any) -> Any:
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    out = model(torch.tensor([ids]), output_attentions=True, output_hidden_states=True, **kwargs)
    model.set_attn_implementation(before)
    return out


def flat(decoder: Any, documents: list[list[int]]) -> torch.Tensor:
    """Run a row of documents: last hidden states ``[1, N, D]``."""
    given = row([(ids, 0) for ids in documents])
    out = decoder(
        input_ids=given["input_ids"],
        position_ids=given["position_ids"],
        attention_mask=document_mask(given["doc_starts"]),
        use_cache=False,
    )
    return out.last_hidden_state


@torch.no_grad()
@pytest.mark.parametrize("merge", ["mean", "max"])
def test_rows_of_a_flat_row_are_those_of_each_document_alone(merge: str) -> None:
    decoder = llama().eval().model
    documents, words = three_documents()
    with capture(decoder, look_at(documents, words, merge)) as seen:
        flat(decoder, documents)
    outputs = [eager(decoder, ids) for ids in documents]
    assert seen.layers == (0, 1) and seen.maps.shape == (3, 2 * 4, 5)
    assert_seen(seen, *expected(outputs, documents, words, merge))


@torch.no_grad()
def test_the_models_output_is_the_same_to_the_last_bit_and_nothing_stays() -> None:
    decoder = llama().eval().model
    decoder.set_attn_implementation("inlay")
    documents, words = three_documents()
    before = flat(decoder, documents)
    with capture(decoder, look_at(documents, words)):
        assert torch.equal(flat(decoder, documents), before)
    assert decoder.config._attn_implementation == "inlay"
    assert not any(m._forward_hooks for m in decoder.layers) and not decoder.norm._forward_hooks
    assert torch.equal(flat(decoder, documents), before)


class _Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation made."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for found in out if isinstance(out, tuple) else (out,):
            if isinstance(found, torch.Tensor):
                self.numel = max(self.numel, found.numel())
        return out


@torch.no_grad()
def test_no_square_of_the_sequence_is_ever_built() -> None:
    decoder = llama(max_position_embeddings=1024).eval().model
    documents = [[*seeing(40), *text(750)]]
    mode = _Largest()
    with mode, capture(decoder, look_at(documents, [[[790, 780], [795]]])):
        flat(decoder, documents)
    assert 0 < mode.numel < 800 * 800 / 2


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("additive", [False, True])
def test_padded_batches(side: str, additive: bool) -> None:
    decoder = llama().eval().model
    torch.manual_seed(3)
    documents = [seeing(4), seeing(2)]
    length = max(map(len, documents))
    pads = [length - len(ids) if side == "left" else 0 for ids in documents]
    ids, mask = torch.zeros(2, length).long(), torch.zeros(2, length).long()
    for i, document in enumerate(documents):
        here = slice(pads[i], pads[i] + len(document))
        ids[i, here], mask[i, here] = torch.tensor(document), 1
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    alone = look_at(documents, [[[10, 11]], [[9], [12, 10]]])
    start = len(documents[0])
    batch = (alone.rows >= start).long()
    shift = torch.tensor(pads) - torch.tensor([0, start])
    own = torch.tensor([0, 1, 1])
    columns = torch.where(alone.columns < 0, -1, alone.columns + shift[own][:, None])
    grounded = Grounded(batch, alone.rows + shift[batch], alone.masks, columns)
    given: torch.Tensor = mask
    if additive:
        seen_keys = torch.ones(length, length).tril().bool() & mask.bool()[:, None, None]
        given = torch.zeros(2, 1, length, length).masked_fill(~seen_keys, -1e30)
    with capture(decoder, grounded) as seen:
        decoder(ids, attention_mask=given, position_ids=positions, use_cache=False)
    outputs = [eager(decoder, document) for document in documents]
    assert_seen(seen, *expected(outputs, documents, [[[10, 11]], [[9], [12, 10]]]))


@torch.no_grad()
@pytest.mark.parametrize("packed", [True, False])
def test_scores_are_capped_and_windows_kept_as_in_the_model(
    packed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    config = T.Gemma2Config(
        **TEXT,
        head_dim=8,
        query_pre_attn_scalar=4,
        attn_logit_softcapping=3.0 if packed else None,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
    )
    decoder = livelier(T.Gemma2Model(config)).eval()
    documents, words = three_documents()
    documents, words = (documents, words) if packed else (documents[:1], words[:1])
    say_window.cache_clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            with capture(decoder, look_at(documents, words)) as seen:
                flat(decoder, documents) if packed else decoder(torch.tensor(documents))
    outputs = [eager(decoder, ids) for ids in documents]
    assert_seen(seen, *expected(outputs, documents, words))
    assert [r.getMessage().count("no further back than 8") for r in caplog.records] == [1]


@torch.no_grad()
def test_under_autocast_the_rows_are_float32() -> None:
    decoder = llama().eval().model
    documents, words = three_documents()
    exact, rough = [], []
    for found, enabled in ((exact, False), (rough, True)):
        cast = torch.autocast("cpu", torch.bfloat16, enabled=enabled)
        with cast, capture(decoder, look_at(documents, words)) as seen:
            out = flat(decoder, documents)
        found += [seen.maps, out]
    assert rough[0].dtype == torch.float32 and not torch.equal(rough[1], exact[1])
    torch.testing.assert_close(rough[0], exact[0], atol=0.1, rtol=0)


GENERATE: dict[str, Any] = dict(max_new_tokens=6, min_new_tokens=6, do_sample=False)


@torch.no_grad()
@pytest.mark.parametrize("implementation", ["sdpa", "inlay"])
def test_decode_steps_give_the_rows_of_a_teacher_forced_pass(implementation: str) -> None:
    model = llama().eval()
    model.set_attn_implementation(implementation)
    torch.manual_seed(4)
    prompt = seeing(4)
    columns = [i for i, token in enumerate(prompt) if token == IMAGE]
    given = torch.tensor([prompt])
    plain = model.generate(given, attention_mask=torch.ones_like(given), **GENERATE)
    with capture_decoding(model.model, torch.tensor(columns)) as rows:
        out = model.generate(given, attention_mask=torch.ones_like(given), **GENERATE)
    assert torch.equal(out, plain)
    forced = eager(model, out[0].tolist())
    places = range(len(prompt), len(prompt) + 5)
    wanted = [eager_maps(forced.attentions, [place], columns, "mean") for place in places]
    torch.testing.assert_close(rows.maps, torch.stack(wanted), atol=1e-5, rtol=0)
    hidden = torch.stack([layer[0, list(places)] for layer in forced.hidden_states[-2:]])
    torch.testing.assert_close(rows.hidden, hidden, atol=1e-5, rtol=1e-5)
    phrases = torch.tensor([0, 0, -1, 1, 1])
    for merge in ("mean", "max"):
        joined = merge_rows(rows.maps, phrases, merge)
        for found, tokens in zip(joined, ([0, 1], [3, 4]), strict=True):
            own = [len(prompt) + token for token in tokens]
            reference = eager_maps(forced.attentions, own, columns, merge)
            torch.testing.assert_close(found, reference, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_window_forgets_the_first_keys_in_decode_steps() -> None:
    config = T.MistralConfig(**TEXT, sliding_window=12)
    model = livelier(T.MistralForCausalLM(config)).eval()
    prompt = [5, *[IMAGE] * 4, *text(4)]
    given = torch.tensor([prompt])
    with capture_decoding(model.model, torch.arange(1, 5)) as rows:
        out = model.generate(
            given, attention_mask=torch.ones_like(given), max_new_tokens=9, do_sample=False
        )
    forced = eager(model, out[0].tolist())
    wanted = [
        eager_maps(forced.attentions, [place], range(1, 5), "mean")
        for place in range(len(prompt), out.shape[1] - 1)
    ]
    torch.testing.assert_close(rows.maps, torch.stack(wanted), atol=1e-5, rtol=0)
    assert rows.maps[0].all() and not rows.maps[-1, :, 0].any()


@torch.no_grad()
def test_an_answer_of_one_token_has_no_rows_and_beams_are_refused() -> None:
    model = llama().eval()
    given = torch.tensor([seeing(4)])
    with capture_decoding(model.model, torch.arange(4)) as rows:
        model.generate(given, attention_mask=torch.ones_like(given), max_new_tokens=1)
    assert rows.maps.shape == (0, 8, 4) and rows.hidden.shape == (2, 0, 32)
    assert merge_rows(rows.maps, torch.zeros(0).long()).shape == (0, 8, 4)
    beams = pytest.raises(ModelError, match="one sequence without beams, found 2")
    with beams, capture_decoding(model.model, torch.arange(4)):
        model.generate(given, attention_mask=torch.ones_like(given), num_beams=2, **GENERATE)


def refused(match: str, documents: list[list[int]], grounded: Grounded) -> None:
    decoder = llama().eval().model
    with pytest.raises(ModelError, match=match), capture(decoder, grounded):
        flat(decoder, documents)
    assert not decoder.norm._forward_hooks  # an error leaves nothing behind, too


def test_what_does_not_fit_is_told() -> None:
    documents, words = three_documents()
    good = look_at(documents, words)
    changes: dict[str, tuple[str, torch.Tensor]] = {
        "rows of the grounded tokens must be from 0": ("rows", good.rows + 30),
        "masks of the grounded tokens must be from -1 to 2": ("masks", good.masks + 1),
        "masks \\[1\\] of 3 are named by no": (
            "masks",
            torch.where(good.masks == 1, 0, good.masks),
        ),
        "lies outside of the document": ("columns", good.columns.flip(0)),
    }
    for match, (name, value) in changes.items():
        refused(match, documents, Grounded(**{**vars(good), name: value}))
    with pytest.raises(ModelError, match="Did you mean 'mean'"):
        look_at(documents, words, "maen")
    with pytest.raises(ModelError, match="found 1, 2 and 2"):
        Grounded(torch.zeros(1), torch.zeros(2), torch.zeros(2), good.columns)
    with pytest.raises(ModelError, match="masks \\[0\\] of 2"):
        merge_rows(torch.zeros(2, 3, 4), torch.tensor([1, 1]))


def test_a_capture_covers_one_pass_of_attention_that_can_be_seen() -> None:
    decoder = llama().eval().model
    documents, words = three_documents()
    grounded = look_at(documents, words)
    with pytest.raises(ModelError, match="exactly one forward pass"), capture(decoder, grounded):
        pass
    with pytest.raises(ModelError, match="exactly one forward pass"), capture(decoder, grounded):
        flat(decoder, documents)
        flat(decoder, documents)
    twice = pytest.raises(ModelError, match="one at a time")
    with twice, capture(decoder, grounded), capture(decoder, grounded):
        pass
    config = T.GptOssConfig(**TEXT, head_dim=8, num_local_experts=2, num_experts_per_tok=1)
    sinks = T.GptOssModel(config).eval()
    with pytest.raises(ModelError, match="uses attention sinks"), capture(sinks, grounded):
        sinks(torch.tensor([documents[0]]))
