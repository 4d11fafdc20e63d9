"""Any image-text-to-text model: a row's loss is the library's own, one document at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig
from sights import FAMILIES, IMAGE, family, pictures, row, seeing, text, told_apart

from inlay.core.errors import ModelError
from inlay.models import VisionFinetune
from inlay.models.families import Family, family_of
from inlay.models.lm import quantization
from inlay.models.picture_row import PictureRow, Pictures

KINDS = {
    "qwen2_5_vl": ["mm_token_type_ids"],
    "qwen3_vl": ["mm_token_type_ids"],
    "gemma3": ["token_type_ids"],
}
COUNTS = ("num_rows", "num_tokens")
LORA = dict(r=4, target_modules="all-linear", task_type="CAUSAL_LM")


def library_loss(model: Any, ids: list[int], trained: int, images: dict[str, Any]) -> torch.Tensor:
    """Cross entropy of one document in nats, by the library's own loss."""
    row = torch.tensor([ids])
    labels = torch.full_like(row, -100)
    labels[:, -trained:] = row[:, -trained:]
    kinds = {
        "gemma3": {"token_type_ids": (row == IMAGE).long()},
        "paligemma": {"token_type_ids": (labels != -100).long()},
    }.get(model.config.model_type, {})
    if "image_grid_thw" in images:
        kinds = {"mm_token_type_ids": (row == IMAGE).long()}
    return model(input_ids=row, labels=labels, **images, **kinds).loss * trained


def of_picture(images: dict[str, Any], index: int, batch_axis: bool) -> dict[str, Any]:
    """One of a row's two pictures, as its processor would give it (by hand)."""
    if "image_grid_thw" in images:
        rows = slice(0, 16) if index == 0 else slice(16, 40)
        pixels, grid = images["pixel_values"][rows], images["image_grid_thw"][index][None]
        return {"pixel_values": pixels, "image_grid_thw": grid}
    tiles = len(images["pixel_values"]) // 2
    taken = {}
    for name, value in images.items():
        if name in COUNTS:
            continue
        size = tiles if name.startswith("pixel_") else 1
        part = value[index * size : (index + 1) * size]
        taken[name] = part[None] if batch_axis else part
    return taken


@pytest.mark.parametrize("name", FAMILIES)
def test_a_rows_loss_and_gradients_are_the_librarys_document_by_document(name: str) -> None:
    model, images, tokens = family(name)
    docs = [(seeing(tokens[0]), 4), (text(9), 5), (seeing(tokens[1]), 3)]
    model.set_attn_implementation("eager")
    axis = name in ("smolvlm", "idefics3")
    wanted = library_loss(model, *docs[0], of_picture(images, 0, axis))
    wanted = wanted + library_loss(model, *docs[1], {})
    wanted = wanted + library_loss(model, *docs[2], of_picture(images, 1, axis))
    wanted.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.set_attn_implementation("sdpa")
    vlm = VisionFinetune(model).train()
    out = vlm(**row(docs, images))
    assert out.loss_units == 12
    torch.testing.assert_close(out.loss_sum, wanted, atol=1e-4, rtol=1e-5)
    out.loss_sum.backward()
    for weight, parameter in model.named_parameters():
        if parameter.requires_grad:
            expected = gradients.get(weight, torch.zeros_like(parameter))
            scale = expected.abs().max().item()
            torch.testing.assert_close(
                parameter.grad, expected, atol=1e-4 * scale + 1e-4, rtol=1e-3, msg=weight
            )


@pytest.mark.parametrize("name", ["qwen2_5_vl", "internvl", "gemma3"])
def test_a_row_of_text_with_a_stand_in_picture_keeps_the_ranks_in_step(name: str) -> None:
    model, images, tokens = family(name)
    vlm = VisionFinetune(model).train()
    documents = [(text(9), 5), (seeing(*tokens), 0)]
    alone = vlm(**row(documents[:1])).loss_sum
    out = vlm(**row(documents, images))
    torch.testing.assert_close(out.loss_sum, alone)
    out.loss_sum.backward()
    eyes = [p for n, p in model.named_parameters() if "vis" in n and p.requires_grad]
    assert eyes and all(p.grad is not None and not p.grad.any() for p in eyes)
    nothing = vlm(**row([(seeing(*tokens), 0)], images))
    assert (nothing.loss_sum.item(), nothing.loss_units) == (0.0, 0)


def test_documents_one_by_one_take_their_own_pictures() -> None:
    model, images, _ = family("gemma3")
    vlm = VisionFinetune(model).eval()
    two, none, one = (seeing(4, 4), 3), (text(7), 2), (seeing(4), 3)
    pixels = torch.cat([images["pixel_values"], torch.randn(1, 3, 16, 16)])

    def loss(documents: Any, pixels: torch.Tensor) -> torch.Tensor:
        images = told_apart({"pixel_values": pixels}, [4] * len(pixels))
        return vlm(**row(documents, images)).loss_sum

    whole = loss([two, none, one], pixels)
    apart = loss([two], pixels[:2]) + vlm(**row([none])).loss_sum + loss([one], pixels[2:])
    torch.testing.assert_close(whole, apart)
    swapped = loss([two, none, one], pixels.flip(0))
    assert (swapped - whole).abs() > 1e-3


def test_pictures_of_several_tiles_are_told_apart() -> None:
    images = told_apart({**pictures(6), "num_rows": torch.tensor([1, 3, 2])}, [4, 11, 9])
    held = Pictures(images)
    assert held.cuts([0, 4, 15, 24]) == [0, 1, 2, 3]
    with pytest.raises(ModelError, match="which pictures belong"):
        held.cuts([0, 5, 24])
    taken = held.inputs(Family(batch_axis=True), torch.bfloat16, 1, 2)
    assert taken["pixel_values"].dtype == torch.bfloat16
    assert torch.equal(
        taken["pixel_values"][0].float(), images["pixel_values"][1:4].bfloat16().float()
    )
    row = PictureRow(torch.ones(1, 24).long(), torch.tensor([0, 15, 24]), images, torch.arange(24))
    assert [(d.first, d.last) for d in row.documents()] == [(0, 2), (2, 3)]


def test_an_unknown_family_runs_one_document_at_a_time() -> None:
    model, images, _ = family("internvl")
    packed = VisionFinetune(model).eval()
    documents = [(seeing(4), 3), (text(6), 2), (seeing(4), 3)]
    wanted = packed(**row(documents, images)).loss_sum
    model.config.model_type = "tomorrows_vlm"
    assert not family_of(model.config).packs
    torch.testing.assert_close(
        VisionFinetune(model).eval()(**row(documents, images)).loss_sum, wanted
    )


def test_too_few_pictures_are_an_error_in_words() -> None:
    model, images, _ = family("internvl")
    with pytest.raises(ModelError, match="tokens: 12, features: 8"):
        VisionFinetune(model)(**row([(seeing(4, 4, 4), 3)], images))


@pytest.mark.parametrize("name", ["qwen3_vl", "smolvlm", "llava"])
def test_parts_freeze_by_name(name: str) -> None:
    model, images, tokens = family(name)
    vlm = VisionFinetune(model, freeze=("vision", "language")).train()
    trained = {n for n, p in vlm.named_parameters() if p.requires_grad}
    own = {"qwen3_vl": "merger", "smolvlm": "connector", "llava": "multi_modal_projector"}[name]
    assert trained and all(own in n for n in trained)
    vlm(**row([(seeing(*tokens), 4)], images)).loss_sum.backward()
    assert {n for n, p in vlm.named_parameters() if p.grad is not None} == trained


def test_a_frozen_tower_has_no_dropout_and_paths_and_wrong_names_are_told() -> None:
    model, _, _ = family("llava")
    vlm = VisionFinetune(model, freeze=("vision", "model.language_model.layers.0")).train()
    assert not model.model.vision_tower.training and model.model.language_model.training
    layers = model.model.language_model.layers
    assert not any(p.requires_grad for p in layers[0].parameters())
    assert all(p.requires_grad for p in layers[1].parameters()) and vlm.training
    with pytest.raises(ModelError, match="Did you mean 'vision_tower'"):
        VisionFinetune(family("llava")[0], freeze=("vision_towr",))


def test_lora_spares_the_frozen_parts() -> None:
    model, images, tokens = family("qwen2_vl")
    vlm = VisionFinetune(model, LoraConfig(**LORA), freeze=("vision",)).train()
    trained = [n for n, p in vlm.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in n and "visual.blocks" not in n for n in trained)
    assert any("visual.merger" in n for n in trained)
    vlm(**row([(seeing(*tokens), 4)], images)).loss_sum.backward()
    assert all(vlm.get_parameter(n).grad is not None for n in trained)
    prompt = torch.tensor([seeing(*tokens)])
    given = dict(images=images, max_new_tokens=3, do_sample=False)
    plain = VisionFinetune(family("qwen2_vl")[0])
    assert torch.equal(vlm.generate(prompt, **given), plain.generate(prompt, **given))


@pytest.mark.parametrize("name", ["qwen2_5_vl", "smolvlm"])
def test_qlora_trains_a_whole_model_in_four_bits(name: str, tmp_path: Any) -> None:
    from transformers import AutoModelForImageTextToText

    model, images, tokens = family(name)
    model.save_pretrained(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(
        tmp_path, quantization_config=quantization(4, torch.float32)
    )
    torch.manual_seed(0)
    vlm = VisionFinetune(model, LoraConfig(**LORA)).train()
    assert "Linear4bit" in {type(m).__name__ for m in vlm.modules()}
    batch = row([(seeing(*tokens), 5)], images)
    optimizer = torch.optim.AdamW([p for p in vlm.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = vlm(**batch).loss_sum
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava_next", "smolvlm", "gemma3"])
@torch.no_grad()
def test_generation_uses_a_cache_without_a_warning(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import GenerationConfig
    from transformers.utils import logging

    model, images, tokens = family(name)
    vlm = VisionFinetune(model)
    lengths: list[int] = []
    layer = model.model.language_model if name != "smolvlm" else model.model.text_model
    layer.layers[0].register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    prompt = torch.tensor([seeing(*tokens)])
    config = GenerationConfig(max_new_tokens=3, do_sample=False)
    logging.enable_propagation()
    try:
        for given in (dict(max_new_tokens=3, do_sample=False), dict(generation_config=config)):
            vlm.generate(prompt, images=images, **given)
    finally:
        logging.disable_propagation()
    assert lengths == [prompt.shape[1], 1, 1] * 2
    assert not [r for r in caplog.records if "cache" in r.message or "generation" in r.message]


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen3_vl", "llava_next", "smolvlm", "gemma3"])
@torch.no_grad()
def test_generation_is_greedy_by_hand(name: str) -> None:
    model, images, tokens = family(name)
    vlm = VisionFinetune(model).train()
    prompt = seeing(*tokens)
    given = dict(max_new_tokens=4, do_sample=False, suppress_tokens=list(range(96, 100)))
    out = vlm.generate(torch.tensor([prompt]), images=images, **given)
    assert vlm.training and out[0, : len(prompt)].tolist() == prompt
    ids = list(prompt)
    pixels = {n: t for n, t in images.items() if n not in COUNTS}
    if name == "smolvlm":
        pixels = {n: t[None] for n, t in pixels.items()}
    for _ in range(4):
        row = torch.tensor([ids])
        kinds = {n: (row == IMAGE).long() for n in KINDS.get(name, [])}
        logits = vlm.eval().llm(input_ids=row, **pixels, **kinds, use_cache=False).logits[0, -1]
        ids.append(int(logits[:96].argmax()))
    assert out[0].tolist() == ids
    words = torch.tensor([text(5)])
    assert vlm.generate(words, max_new_tokens=2, do_sample=False).shape == (1, 7)
