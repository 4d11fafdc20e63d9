"""Any vision-language model: what it looks at equals eager attention, document by document."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from looks import assert_seen, expected, look_at
from sights import FAMILIES, IMAGE, clip, family, livelier, llama, pictures, row, seeing, text

import inlay.app
from inlay.core.errors import ModelError
from inlay.models import GenericAdapter, LLaVAModel, VisionFinetune
from inlay.models.grounding.capture import Grounded
from inlay.models.grounding.decode import capture_decoding

TINY_VLM = Path(inlay.app.__file__).parent / "demo_data" / "tiny_vlm"
IDEFICS = ("smolvlm", "idefics3")


def to_look(documents: list[list[int]], images: Any) -> dict[str, Any]:
    given = row([(ids, 0) for ids in documents], images)
    return {k: v for k, v in given.items() if k not in ("labels", "trained_positions")}


def of_picture(images: dict[str, Any], index: int, name: str) -> dict[str, Any]:
    """One of a row's two pictures, as its processor would give it (by hand)."""
    if "image_grid_thw" in images:
        rows = slice(0, 16) if index == 0 else slice(16, 40)
        grid = images["image_grid_thw"][index][None]
        return {"pixel_values": images["pixel_values"][rows], "image_grid_thw": grid}
    tiles = len(images["pixel_values"]) // 2
    taken = {}
    for key, value in images.items():
        if key in ("num_rows", "num_tokens"):
            continue
        size = tiles if key.startswith("pixel_") else 1
        part = value[index * size : (index + 1) * size]
        taken[key] = part[None] if name in IDEFICS else part
    return taken


def alone(model: Any, name: str, ids: list[int], pixels: dict[str, Any], prompt: int) -> Any:
    """One document by the library, eager, with everything that it can give."""
    ids_1N = torch.tensor([ids])
    kinds: dict[str, Any] = {}
    if name == "gemma3":
        kinds = {"token_type_ids": (ids_1N == IMAGE).long()}
    if name == "paligemma":
        kinds = {"token_type_ids": (torch.arange(len(ids)) >= prompt).long()[None]}
    if "image_grid_thw" in pixels:
        kinds = {"mm_token_type_ids": (ids_1N == IMAGE).long()}
    return model(
        input_ids=ids_1N,
        **pixels,
        **kinds,
        use_cache=False,
        output_attentions=True,
        output_hidden_states=True,
    )


@torch.no_grad()
@pytest.mark.parametrize("merge", ["mean", "max"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_of_documents_is_seen_as_eager_attention_has_it(name: str, merge: str) -> None:
    model, images, tokens = family(name)
    model.eval()
    torch.manual_seed(6)
    documents = [seeing(tokens[0]), text(9), seeing(tokens[1])]
    ends = [len(ids) for ids in documents]
    words = [[[ends[0] - 4, ends[0] - 3], [ends[0] - 2]], [], [[ends[2] - 5, ends[2] - 2]]]
    prompts = [ends[0] - 4, ends[1] - 1, ends[2] - 5]
    pixels = [of_picture(images, 0, name), {}, of_picture(images, 1, name)]
    model.set_attn_implementation("eager")
    outputs = [alone(model, name, *given) for given in zip(documents, pixels, prompts, strict=True)]
    model.set_attn_implementation("sdpa")
    adapter = GenericAdapter(VisionFinetune(model))
    model.lm_head.register_forward_hook(lambda *_: pytest.fail("the head ran"))
    seen = adapter.look(to_look(documents, images), look_at(documents, words, merge))
    assert (adapter.num_map_layers, adapter.num_layers, adapter.num_heads) == (2, 2, 4)
    assert_seen(seen, *expected(outputs, documents, words, merge))


def parts_model() -> LLaVAModel:
    model = LLaVAModel(llama(), clip(), use_activation_checkpointing=False)
    livelier(model.projector)
    model.image_token_id = IMAGE
    return model.eval()


def eager_llava(model: LLaVAModel, ids: list[int], images: Any) -> Any:
    """One document by the library alone: eager, with everything that it can give."""
    embeds = model.embed(torch.tensor([ids]), images, None)
    model.llm.set_attn_implementation("eager")
    out = model.llm(inputs_embeds=embeds, output_attentions=True, output_hidden_states=True)
    model.llm.set_attn_implementation("inlay")
    return out


@torch.no_grad()
@pytest.mark.parametrize("merge", ["mean", "max"])
def test_parts_with_grouped_heads(merge: str) -> None:
    model = parts_model()
    torch.manual_seed(7)
    documents = [seeing(16), text(7), seeing(16, 16)]
    images = pictures(3)
    words = [[[23, 24]], [], [[44, 43], [46]]]
    pixels = images["pixel_values"]
    each = [{"pixel_values": pixels[:1]}, None, {"pixel_values": pixels[1:]}]
    outputs = [eager_llava(model, *given) for given in zip(documents, each, strict=True)]
    seen = GenericAdapter(model).look(to_look(documents, images), look_at(documents, words, merge))
    assert_seen(seen, *expected(outputs, documents, words, merge))


@torch.no_grad()
def test_the_tiny_vlm_that_ships_with_inlay() -> None:
    adapter = GenericAdapter.from_pretrained(str(TINY_VLM), dtype="fp32", device="cpu")
    assert (adapter.num_layers, adapter.num_heads, adapter.hidden_size) == (4, 4, 96)
    model = adapter.model
    side = model.visual_encoder.config.image_size
    torch.manual_seed(8)
    images = {"pixel_values": torch.randn(1, 3, side, side)}
    count = model.encode(images["pixel_values"]).shape[1]
    model.image_token_id = IMAGE
    ids = seeing(count)
    words = [[[len(ids) - 3, len(ids) - 2]]]
    seen = adapter.look(to_look([ids], images), look_at([ids], words))
    assert_seen(seen, *expected([eager_llava(model, ids, images)], [ids], words))


GENERATE: dict[str, Any] = dict(
    max_new_tokens=5, min_new_tokens=5, do_sample=False, suppress_tokens=list(range(96, 100))
)


@torch.no_grad()
@pytest.mark.parametrize("name", ["parts", "llava", "qwen2_5_vl", "qwen3_vl", "smolvlm", "gemma3"])
def test_decode_steps_see_what_one_pass_over_prompt_and_answer_sees(name: str) -> None:
    if name == "parts":
        adapter, images, tokens = GenericAdapter(parts_model()), pictures(2), [16, 16]
    else:
        model, images, tokens = family(name)
        adapter = GenericAdapter(VisionFinetune(model))
    prompt = seeing(*tokens)
    columns = torch.tensor([i for i, token in enumerate(prompt) if token == IMAGE])
    given = torch.tensor([prompt])
    plain = adapter.generate(given, images=images, **GENERATE)
    with capture_decoding(adapter.decoder, columns) as rows:
        out = adapter.generate(given, images=images, **GENERATE)
    assert torch.equal(out, plain)
    places = torch.arange(len(prompt), len(prompt) + 4)
    zeros = torch.zeros(4).long()
    each = Grounded(zeros, places, torch.arange(4), columns.expand(4, -1))
    forced = adapter.look(to_look([out[0].tolist()], images), each)
    torch.testing.assert_close(rows.maps, forced.maps, atol=1e-5, rtol=0)
    torch.testing.assert_close(rows.hidden, forced.hidden, atol=1e-5, rtol=1e-5)
    assert rows.layers == forced.layers == (0, 1)


def test_an_adapter_is_frozen_and_knows_its_weights() -> None:
    adapter = GenericAdapter(parts_model())
    assert not any(p.requires_grad for p in adapter.parameters())
    adapter.train()
    assert not any(module.training for module in adapter.modules())
    assert adapter.identity() == GenericAdapter(parts_model()).identity()
    before = adapter.identity()
    assert adapter.to(torch.bfloat16).identity() != before
    other = GenericAdapter(parts_model())
    with torch.no_grad():
        other.decoder.layers[1].mlp.up_proj.weight += 1e-3
    assert other.identity() != before


@torch.no_grad()
@pytest.mark.parametrize("name", ["gemma3", "llava"])
def test_image_tokens_and_masks_of_other_documents_are_refused(name: str) -> None:
    model, images, tokens = family(name)
    adapter = GenericAdapter(VisionFinetune(model))
    documents = [seeing(tokens[0]), seeing(tokens[1])]
    ends = [len(ids) for ids in documents]
    good = look_at(documents, [[[ends[0] - 3]], [[ends[1] - 3]]])
    given = to_look(documents, images)
    swapped = Grounded(good.batch, good.rows, good.masks, good.columns.flip(0))
    both = Grounded(good.batch, good.rows, good.masks.clamp(max=0), good.columns[:1])
    for bad in (swapped, both):
        with pytest.raises(ModelError, match="lies outside of the document of its words"):
            adapter.look(given, bad)
    unnamed = Grounded(good.batch, good.rows, torch.full_like(good.masks, -1), good.columns)
    with pytest.raises(ModelError, match=r"masks \[0, 1\] of 2 are named by no token"):
        adapter.look(given, unnamed)
