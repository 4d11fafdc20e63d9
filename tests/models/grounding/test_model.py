"""The whole model against F-LMM by the letter (``flmm.py``), and what a batch must not change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import transformers as T
from tiny_grounding import SIZES, Setup, photo
from tiny_sam import SIDE
from torch import Tensor

from inlay.core.errors import ConfigError
from inlay.data.grounding.files import refiner_picture
from inlay.models import (
    DeepSeekVLAdapter,
    FrozenGrounding,
    SamRefiner,
    UNetHead,
    VisionFinetune,
)
from inlay.models.grounding.sight import look

NAMES = ("loss_mask", "loss_dice", "accuracy", "aiou")
EIGHT = {*NAMES, *(f"sam_{name}" for name in NAMES)}


def gradients(model: FrozenGrounding) -> dict[str, Tensor]:
    return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def their_gradients(original: Any) -> dict[str, Tensor]:
    """By our names."""
    named = {f"mask_head.{name}": p for name, p in original.head.items()} | original.others
    if original.sam is not None:
        parts = ("mask_decoder", "prompt_encoder")
        weights = original.sam.named_parameters()
        named |= {f"refiner.sam.{n}": p for n, p in weights if n.startswith(parts)}
    return {name: p.grad for name, p in named.items() if p.grad is not None}


def check(setup: Setup, model: FrozenGrounding) -> set[str]:
    """Loss, measures, logits and gradients are those of the paper; return what is logged."""
    cases, original = setup.cases(), setup.original(model)
    batch = setup.batch(cases)
    found = model.train()(**batch.inputs)
    loss, measures = original(cases)
    assert found.loss_units == batch.loss_units == 6
    assert found.loss_sum.item() == pytest.approx(loss.item(), rel=1e-5)
    assert found.metrics.keys() == measures.keys()
    for name, value in measures.items():
        # a pixel whose logit is 0 up to rounding may fall on either side
        assert found.metrics[name].item() == pytest.approx(value, abs=2e-5), name
    predicted = model.eval().predict(**batch.inputs)
    for ours, theirs in zip(predicted, original.logits, strict=True):
        if model.refiner is None:
            width, height = ours.shape[-1], ours.shape[-2]
            theirs = torch.nn.functional.interpolate(theirs[None], (height, width), mode="bilinear")
            theirs = theirs[0]
        assert (ours - theirs).abs().max() < 2e-5 * theirs.abs().max()
    found.loss_sum.backward()
    loss.backward()
    ours, theirs = gradients(model), their_gradients(original)
    for name, gradient in theirs.items():
        scale = max(gradient.abs().max().item(), 1e-3)
        assert (ours.pop(name) - gradient).abs().max() < 2e-4 * scale, name
    # What the loss does not depend on (SAM's guess of the IoU, ...) has a gradient of zero.
    assert not any(gradient.any() for gradient in ours.values())
    model.zero_grad()
    return set(measures)


@pytest.mark.parametrize("merge", ["mean", "max"])
def test_it_is_f_lmm(setup: Setup, merge: str) -> None:
    assert check(setup, setup.model(merge=merge)) == EIGHT


def test_without_a_refiner_the_coarse_masks_are_the_result(tiny: Setup) -> None:
    model = tiny.model(refiner=None)
    assert not model.uses_text and not hasattr(model, "text_layer_weights")
    assert check(tiny, model) == set(NAMES)


def test_the_selector_learns_which_words_are_named(tiny: Setup) -> None:
    assert check(tiny, tiny.model(selector=True)) == {*EIGHT, "loss_selector"}
    alone = tiny.model(selector=True, refiner=None)
    assert check(tiny, alone) == {*NAMES, "loss_selector"}


def test_gradients_reach_the_heads_and_nothing_else(tiny: Setup) -> None:
    model = tiny.model(selector=True).train()
    model(**tiny.batch(tiny.cases()).inputs).loss_sum.backward()
    found = gradients(model)
    assert found.keys() == {n for n, p in model.named_parameters() if p.requires_grad}
    parts = {".".join(name.split(".")[: 3 if name.startswith("refiner") else 1]) for name in found}
    assert parts == {
        "mask_head",
        "text_proj",
        "text_layer_weights",
        "selector",
        "refiner.sam.mask_decoder",
        "refiner.sam.prompt_encoder",
    }
    for name in ("mask_head.encoder.0.0.convs.0.conv.weight", "text_proj.weight"):
        assert found[name].any()
    assert not model.lmm.training and not model.lmm.model.training


def test_a_batch_is_the_sum_of_its_samples(setup: Setup) -> None:
    model, cases = setup.model(selector=True), setup.cases()
    model(**setup.batch(cases).inputs).loss_sum.backward()
    together = gradients(model)
    whole = model(**setup.batch(cases).inputs)
    model.zero_grad()
    loss, metrics = 0.0, dict.fromkeys(whole.metrics, 0.0)
    for case in cases:
        one = model(**setup.batch([case]).inputs)
        one.loss_sum.backward()
        loss += one.loss_sum.item()
        assert one.loss_units == len(case.masks)
        for name, value in one.metrics.items():
            metrics[name] += value.item() * len(case.masks) / whole.loss_units
    assert whole.loss_sum.item() == pytest.approx(loss, rel=1e-5)
    assert {k: v.item() for k, v in whole.metrics.items()} == pytest.approx(metrics, abs=2e-5)
    for name, gradient in gradients(model).items():
        scale = max(gradient.abs().max().item(), 1e-3)
        assert (together[name] - gradient).abs().max() < 1e-3 * scale, name


def test_a_stand_in_weighs_nothing(tiny: Setup) -> None:
    model = tiny.model(selector=True)
    found = model(**tiny.batch(tiny.cases()[:1]).inputs, trained=False)
    assert (found.loss_sum.item(), found.loss_units, found.metrics) == (0.0, 0, {})
    found.loss_sum.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None and not p.grad.any() for p in trained)


def test_under_autocast(tiny: Setup) -> None:
    model, batch = tiny.model().train(), tiny.batch(tiny.cases())
    whole = model(**batch.inputs)
    with torch.autocast("cpu", torch.bfloat16):
        half = model(**batch.inputs)
    assert half.loss_sum.dtype == torch.float32
    assert half.loss_sum.item() != whole.loss_sum.item()
    assert half.loss_sum.item() == pytest.approx(whole.loss_sum.item(), rel=0.02)
    half.loss_sum.backward()
    assert all(
        torch.isfinite(g).all() and g.dtype == torch.float32 for g in gradients(model).values()
    )


@pytest.fixture
def encoded(tiny: Setup) -> Iterator[tuple[FrozenGrounding, list[int]]]:
    """A model, and how many pictures its refiner encodes call by call."""
    model, calls = tiny.model(), []
    assert model.refiner is not None
    embed = model.refiner.embed

    def counted(pictures: list[Tensor]) -> Any:
        calls.append(len(pictures))
        return embed(pictures)

    model.refiner.embed = counted  # type: ignore[method-assign]
    yield model, calls


def test_a_picture_of_several_samples_is_encoded_once(
    tiny: Setup, encoded: tuple[FrozenGrounding, list[int]]
) -> None:
    model, calls = encoded
    first, second, _ = tiny.cases()
    twice = [first, second, tiny.cases()[0]]
    twice[2].mask_ids = [-1 if n == 1 else n for n in first.mask_ids]
    twice[2].masks = first.masks[:1]
    loss = model(**tiny.batch(twice).inputs).loss_sum.item()
    assert calls == [2]
    apart = [model(**tiny.batch([case]).inputs).loss_sum.item() for case in twice]
    assert calls == [2, 1, 1, 1] and loss == pytest.approx(sum(apart), rel=1e-5)


def test_only_without_training_a_picture_is_remembered(
    tiny: Setup, encoded: tuple[FrozenGrounding, list[int]]
) -> None:
    model, calls = encoded
    batch = tiny.batch(tiny.cases()[:1])
    with torch.inference_mode():
        first, again = (model.predict(**batch.inputs)[0] for _ in range(2))
    assert sum(calls) == 1 and torch.equal(first, again)
    model(**batch.inputs).loss_sum.backward()
    assert sum(calls) == 2, "tensors made for inference alone cannot be trained on"


def test_masks_of_what_was_seen_already(tiny: Setup) -> None:
    """As while an answer is written; pictures that follow each other are told apart."""
    model, cases, found = tiny.model().eval(), tiny.cases(), []
    batches = [tiny.batch([case]).inputs for case in cases]
    for case, batch in zip(cases, batches, strict=True):
        rows = batch["caption_rows"], batch["caption_masks"]
        sights = look(model.lmm, batch["row"], *rows, batch["targets"])
        picture = torch.from_numpy(refiner_picture(case.image, SIDE))
        found.append(model.masks_of(sights, case.image.size, picture))
    for masks, batch in zip(found, batches, strict=True):
        (expected,) = model.predict(**batch)
        torch.testing.assert_close(masks, expected, rtol=0, atol=1e-5)


def test_sights_name_their_own_masks(tiny: Setup) -> None:
    batch = tiny.batch(tiny.cases()).inputs
    rows = batch["caption_rows"], batch["caption_masks"]
    sights = look(tiny.adapter, batch["row"], *rows, batch["targets"])
    for sight, case in zip(sights, tiny.cases(), strict=True):
        assert sight.masks.tolist() == case.mask_ids[case.prompt :]
        assert sight.maps.shape == (len(case.masks), 8, 8, 8)
        assert sight.hidden.shape == (2, len(sight.masks), 32)
        named = sight.named()
        assert named.masks.tolist() == [n for n in case.mask_ids if n >= 0]
        assert torch.equal(named.hidden, sight.hidden[:, sight.masks >= 0])


def test_words_and_pictures_matter(tiny: Setup) -> None:
    model, case = tiny.model().eval(), tiny.cases()[0]
    (before,) = model.predict(**tiny.batch([case]).inputs)
    case.ids[case.prompt] += 1
    (words,) = model.predict(**tiny.batch([case]).inputs)
    assert not torch.equal(before, words)
    case.image = photo(SIZES[0], 9)
    (other,) = model.predict(**tiny.batch([case]).inputs)
    assert not torch.equal(words, other)


@pytest.mark.parametrize("merge", ["meen", "sum"])
def test_an_unknown_merge_is_refused(tiny: Setup, merge: str) -> None:
    with pytest.raises(ConfigError, match=f"one of mean, max, found '{merge}'") as found:
        tiny.model(merge=merge)
    assert ("Did you mean 'mean'" in str(found.value)) == (merge == "meen")


def test_the_published_recipe_trains_12_million_weights() -> None:
    """DeepSeek-VL-1.3B and SAM ViT-L, shapes alone."""
    with torch.device("meta"):
        text = T.LlamaConfig(
            vocab_size=102400,
            hidden_size=2048,
            intermediate_size=5632,
            num_hidden_layers=24,
            num_attention_heads=16,
        )
        vision = T.SiglipVisionConfig(
            hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, image_size=384
        )
        config = T.DeepseekVLConfig(text_config=text, vision_config=vision)
        vlm = T.AutoModelForImageTextToText.from_config(config)
        sam = T.SamModel(T.SamConfig(vision_config={"hidden_size": 1024, "num_hidden_layers": 24}))
        model = FrozenGrounding(
            lmm=DeepSeekVLAdapter(VisionFinetune(vlm, use_activation_checkpointing=False)),
            image_processor=type("OneLevel", (), {"num_levels": 1}),  # type: ignore[arg-type]
            mask_head=UNetHead(),
            refiner=SamRefiner(sam=sam),
        )
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == 11_993_097
    assert model.mask_head.in_channels == 384
    assert sum(p.numel() for p in model.mask_head.parameters()) == 7_403_969
