"""LLaVA-style models: equal to the library's, packed or not, with every part frozen or adapted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as T
from peft import LoraConfig
from sights import IMAGE, SIDE, TEXT, VISION, clip, livelier, llama, pictures, row, seeing, siglip
from sights import text as words

from inlay.core.errors import ModelError
from inlay.models import LLaVAModel
from inlay.models.embedding import grow_embedding
from inlay.models.lm import quantization
from inlay.models.vision import features

TOKENS = SIDE // 4 * SIDE // 4
LORA = dict(r=4, target_modules="all-linear")


class Words:
    """A tokenizer of ``size`` tokens, as far as the model asks it."""

    def __init__(self, size: int, image: int | None = None) -> None:
        self.size, self.image = size, image

    def __len__(self) -> int:
        return self.size

    def get_vocab(self) -> dict[str, int]:
        return {} if self.image is None else {"<image>": self.image}


def llava(**kwargs: Any) -> LLaVAModel:
    return LLaVAModel(llama(), clip(), **kwargs)


def library() -> Any:
    """transformers' own LLaVA, and ours with the same weights."""
    config = T.LlavaConfig(
        text_config=T.LlamaConfig(**TEXT),
        vision_config=T.CLIPVisionConfig(**VISION),
        image_token_id=IMAGE,
    )
    torch.manual_seed(4)
    theirs = livelier(T.LlavaForConditionalGeneration(config)).eval()
    ours = LLaVAModel(llama(), clip(), use_activation_checkpointing=False).eval()
    inner = theirs.model
    ours.llm.model.load_state_dict(inner.language_model.state_dict())
    ours.llm.lm_head.load_state_dict(theirs.lm_head.state_dict())
    ours.visual_encoder.load_state_dict(inner.vision_tower.state_dict())
    projector = inner.multi_modal_projector.state_dict()
    ours.projector.load_state_dict(
        {
            f"model.{to}.{kind}": projector[f"linear_{at}.{kind}"]
            for at, to in ((1, 0), (2, 2))
            for kind in ("weight", "bias")
        }
    )
    return theirs, ours


def test_logits_are_those_of_transformers_llava() -> None:
    theirs, ours = library()
    ids = torch.tensor([seeing(TOKENS, TOKENS)])
    images = pictures(2)
    with torch.no_grad():
        wanted = theirs(input_ids=ids, **images).logits
        embeds = ours.embed(ids, images, (ids[0] == IMAGE).nonzero()[:, 0])
        assert torch.equal(ours.llm(inputs_embeds=embeds).logits, wanted)
    labels = ids.clone()
    labels[:, :-5] = -100
    loss = theirs(input_ids=ids, labels=labels, **images).loss * 5
    mine = ours(**row([(ids[0].tolist(), 5)], images))
    torch.testing.assert_close(mine.loss_sum, loss, atol=1e-5, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_packed_is_unpacked(checkpointing: bool) -> None:
    model = llava(use_activation_checkpointing=checkpointing).train()
    images = pictures(3)
    docs = [(seeing(TOKENS), 4), (words(9), 5), (seeing(TOKENS, TOKENS), 3)]
    pixels = images["pixel_values"]
    apart = [
        model(**row(docs[:1], {"pixel_values": pixels[:1]})).loss_sum,
        model(**row(docs[1:2])).loss_sum,
        model(**row(docs[2:], {"pixel_values": pixels[1:]})).loss_sum,
    ]
    total = torch.stack(apart).sum()
    total.backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    out = model(**row(docs, images))
    torch.testing.assert_close(out.loss_sum, total, atol=1e-5, rtol=1e-6)
    out.loss_sum.backward()
    trained = {n for n, p in model.named_parameters() if p.requires_grad}
    assert wanted.keys() == trained
    for name in trained:
        torch.testing.assert_close(
            model.get_parameter(name).grad, wanted[name], atol=1e-3, rtol=1e-3, msg=name
        )


def test_pretraining_moves_the_projector_alone() -> None:
    model = llava(freeze_llm=True, freeze_visual_encoder=True).train()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    model(**row([(seeing(TOKENS), 4)], pictures(1))).loss_sum.backward()
    assert not model.visual_encoder.training
    optimizer.step()
    moved = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert moved == {n for n in before if n.startswith("projector.")}
    assert {n.split(".")[0] for n in before} == {"llm", "visual_encoder", "projector"}


def test_a_frozen_tower_has_no_dropout_and_no_graph() -> None:
    vision = T.CLIPVisionModel(T.CLIPVisionConfig(**VISION, attention_dropout=0.5))
    model = LLaVAModel(llama(), vision, freeze_visual_encoder=True).train()
    pixels = pictures(1)["pixel_values"]
    assert torch.equal(model.encode(pixels), model.encode(pixels))
    # A learning rate of 0 freezes a part only after the model was built.
    late = LLaVAModel(llama(), livelier(vision.requires_grad_(True))).train()
    assert not torch.equal(late.encode(pixels), late.encode(pixels))
    late.visual_encoder.requires_grad_(False)
    assert torch.equal(late.encode(pixels), late.encode(pixels))


@pytest.mark.parametrize("encoder", [clip, siglip])
@pytest.mark.parametrize("layer", [-2, None])
def test_every_trained_weight_gets_a_gradient(encoder: Any, layer: int | None) -> None:
    for lora in (None, LORA):
        model = LLaVAModel(
            llama(),
            encoder(),
            visual_select_layer=layer,
            llm_lora=lora and LoraConfig(**lora),
            visual_encoder_lora=lora and LoraConfig(**lora),
            freeze_llm=lora is not None,
        ).train()
        model(**row([(seeing(TOKENS), 4)], pictures(1))).loss_sum.backward()
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        assert all(p.grad is not None for p in trained.values())
        parts = {n.split(".")[0] for n in trained}
        assert parts == {"llm", "visual_encoder", "projector"}
        if lora:
            assert all("lora_" in n or n.startswith("projector.") for n in trained)


def test_a_stand_in_picture_costs_no_loss_and_keeps_the_ranks_in_step() -> None:
    model = llava().train()
    documents = [(words(9), 5), (seeing(TOKENS), 0)]
    alone = model(**row(documents[:1])).loss_sum
    out = model(**row(documents, pictures(1)))
    torch.testing.assert_close(out.loss_sum, alone)
    out.loss_sum.backward()
    eyes = [p for n, p in model.named_parameters() if not n.startswith("llm.") and p.requires_grad]
    assert eyes and all(p.grad is not None and not p.grad.any() for p in eyes)


def test_qlora_trains_with_a_quantised_language_model(tmp_path: Path) -> None:
    llama().save_pretrained(tmp_path)
    llm = T.AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=quantization(4, torch.float32)
    )
    torch.manual_seed(0)
    model = LLaVAModel(
        llm,
        clip(),
        Words(101, image=100),
        freeze_llm=True,
        llm_lora=LoraConfig(**LORA, task_type="CAUSAL_LM"),
        visual_encoder_lora=LoraConfig(**LORA),
    ).train()
    assert "Linear4bit" in {type(m).__name__ for m in model.llm.modules()}
    batch = row([(seeing(TOKENS), 5)], pictures(1))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(8):
        loss = model(**batch).loss_sum
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    prompt = batch["input_ids"][:, :-5]
    out = model.generate(
        prompt, images=batch["images"], image_positions=batch["image_positions"], max_new_tokens=5
    )
    assert torch.equal(out[:, : prompt.shape[1]], prompt)


def test_the_projector_stays_in_float32_beside_bfloat16_parts() -> None:
    model = LLaVAModel(llama().bfloat16(), clip().bfloat16(), freeze_llm=True).train()
    out = model(**row([(seeing(TOKENS), 4)], pictures(1)))
    out.loss_sum.backward()
    assert {p.dtype for p in model.projector.parameters()} == {torch.float32}
    assert all(p.grad.abs().sum() > 0 for p in model.projector.parameters())


def test_features_and_image_tokens_must_agree() -> None:
    model = llava()
    with pytest.raises(ModelError, match=r"has 15 image tokens, but its 1 pictures give 16"):
        model(**row([(seeing(TOKENS - 1), 4)], pictures(1)))


@pytest.mark.parametrize("tied", [False, True])
def test_the_embedding_grows_for_new_tokens_but_not_for_the_image_alone(tied: bool) -> None:
    llm = llama(tie_word_embeddings=tied)
    old = llm.get_input_embeddings().weight.detach().clone()
    assert grow_embedding(llm, 101, image_token=100) == 0
    assert grow_embedding(llm, 400, image_token=100) == 300
    rows, head = llm.get_input_embeddings().weight, llm.get_output_embeddings().weight
    assert rows.shape == head.shape == (400, 32) and (rows is head) == tied
    assert torch.equal(rows[:100], old) and llm.config.vocab_size == 400
    for weight in (rows, head):
        assert weight[100:].std().item() == pytest.approx(0.02, rel=0.05)


def test_new_tokens_of_a_frozen_model_are_told(caplog: pytest.LogCaptureFixture) -> None:
    LLaVAModel(llama(), clip(), Words(104, image=100), freeze_llm=True)
    assert "4 new tokens got random embeddings" in caplog.text
    caplog.clear()
    LLaVAModel(llama(), clip(), Words(101, image=100), freeze_llm=True)
    assert not caplog.text


def by_hand(model: LLaVAModel, prompt: list[int], images: Any, steps: int) -> list[int]:
    """Greedy answers by whole forward passes, without a cache."""
    ids = list(prompt)
    for _ in range(steps):
        where = torch.tensor([i for i, t in enumerate(prompt) if t == IMAGE], dtype=torch.long)
        embeds = model.llm.get_input_embeddings()(torch.tensor([ids]))
        if images is not None:
            seen = features(model.visual_encoder, images["pixel_values"], -2)
            embeds[0, where] = model.projector(seen).flatten(0, 1)
        ids.append(int(model.llm(inputs_embeds=embeds).logits[0, -1].argmax()))
    return ids


@torch.no_grad()
def test_generation_is_greedy_by_hand_and_stops() -> None:
    model = llava().train()
    images, prompt = pictures(2), seeing(TOKENS, TOKENS)
    model.image_token_id = IMAGE
    greedy = dict(max_new_tokens=6, do_sample=False)
    out = model.generate(torch.tensor([prompt]), images=images, **greedy)
    assert model.training and out[0].tolist() == by_hand(model.eval(), prompt, images, 6)
    plain = words(7)
    assert model.generate(torch.tensor([plain]), **greedy)[0].tolist() == by_hand(
        model, plain, None, 6
    )
    third = out[0, len(prompt) + 2].item()
    stopped = model.generate(torch.tensor([prompt]), images=images, eos_token_id=third, **greedy)
    first = out[0, len(prompt) :].tolist().index(third)
    assert stopped[0].tolist() == out[0, : len(prompt) + first + 1].tolist()


@torch.no_grad()
def test_an_image_token_without_a_row_generates() -> None:
    model = LLaVAModel(llama(), clip(), Words(101, image=100)).eval()
    prompt = [100 if t == IMAGE else t for t in seeing(TOKENS)]
    out = model.generate(
        torch.tensor([prompt]),
        images=pictures(1),
        max_new_tokens=3,
        do_sample=False,
        repetition_penalty=1.2,
    )
    assert out[0, : len(prompt)].tolist() == prompt and out.shape[1] == len(prompt) + 3
    model.image_token_id = None
    with pytest.raises(ModelError, match="no image token is known"):
        model.generate(torch.tensor([prompt]), images=pictures(1))
