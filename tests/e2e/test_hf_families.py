"""Any model of transformers, from conversations to the loss, beside the library's own chain."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runs
import tiny_vlms
import torch
import vision_families
from peft import LoraConfig, PeftModel
from PIL import Image
from processes import inlay
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from inlay.data import ChatDataset, HFImageProcessor
from inlay.models import VisionFinetune
from inlay.models.lm import keep_weights_as_they_are

SIZES = [(64, 48), (120, 30), (35, 90), (56, 56), (150, 110)]
"""Width and height of the pictures in px."""

Chat = list[tuple[str, list[str | int]]]
CHATS: list[Chat] = [
    [("user", [0, "What is this?"]), ("assistant", ["A box."])],
    [("user", ["Compare ", 1, " with", 2, "\nplease"]), ("assistant", ["They differ."])],
    [("user", ["Hi there"]), ("assistant", ["Hello."])],
    [
        ("user", [3, "\nA line break first?"]),
        ("assistant", ["Yes,\none."]),
        ("user", ["And now?"]),
        ("assistant", ["No picture here."]),
    ],
    [("system", ["Be short."]), ("user", ["See ", 4]), ("assistant", ["Ok."])],
    [("user", [2, 0, "Two in a row?"]), ("assistant", ["Yes."])],
]
"""Conversations: roles and contents, which are texts and numbers of pictures."""


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte tokenizer that has tokens for several line breaks, as Gemma's."""
    merges = [("Ċ", "Ċ"), ("ĊĊ", "Ċ"), ("ĊĊ", "ĊĊ")]
    folder = tmp_path_factory.mktemp("words")
    tiny_vlms.byte_tokenizer(merges=merges).save_pretrained(folder)
    return folder


def drawn(size: tuple[int, int], seed: int) -> Image.Image:
    generator = torch.Generator().manual_seed(seed)
    width, height = size
    noise = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(noise.numpy())


def messages(chat: Chat, named: bool = False) -> list[dict[str, Any]]:
    """A conversation as templates take it, or, with its pictures' names, as data sets do."""

    def part(value: str | int) -> dict[str, Any]:
        if isinstance(value, str):
            return {"type": "text", "text": value}
        return {"type": "image", **({"image": f"{value}.png"} if named else {})}

    return [{"role": role, "content": [part(v) for v in content]} for role, content in chat]


def written(folder: Path) -> tuple[list[Image.Image], Path]:
    """Write the pictures and the conversations."""
    pictures = [drawn(size, seed) for seed, size in enumerate(SIZES)]
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number}.png")
    rows = [{"messages": messages(chat, named=True)} for chat in CHATS]
    return pictures, runs.write_rows(folder / "rows.json", rows)


def library_loss(
    model: Any, processor: HFImageProcessor, chat: Chat, pictures: list[Image.Image]
) -> tuple[float, list[int], list[bool]]:
    """A conversation's loss by transformers, in nats; its tokens, and which are trained."""
    tokenizer = processor.tokenizer
    turns = messages(chat)
    stop = [t for t in ("<end_of_utterance>", "<end_of_turn>") if t in tokenizer.get_vocab()]
    stop = (stop or ["<|im_end|>"])[0]

    def inputs(text: str) -> Any:
        count = text.count(processor.placeholder or "")
        shown = [p for _, content in chat for p in content if isinstance(p, int)][:count]
        images: Any = [pictures[i] for i in shown] or None
        if images and "onevision" in type(processor.processor).__name__.lower():
            images = [[image] for image in images]  # each in full, not as one of several
        given = dict(images=images, add_special_tokens=False, return_tensors="pt")
        return processor.processor(text=[text], **given)

    whole = inputs(tokenizer.apply_chat_template(turns, tokenize=False))
    labels = torch.full_like(whole["input_ids"], -100)
    for number, turn in enumerate(turns):
        if turn["role"] == "assistant":
            ask = dict(tokenize=False, add_generation_prompt=True)
            prompt = tokenizer.apply_chat_template(turns[:number], **ask)
            text = tokenizer.apply_chat_template(turns[: number + 1], tokenize=False)
            text = text[: text.rindex(stop) + len(stop)]
            span = slice(inputs(prompt)["input_ids"].shape[1], inputs(text)["input_ids"].shape[1])
            labels[:, span] = whole["input_ids"][:, span]
    trained = labels[0] != -100
    loss = model(**whole, labels=labels).loss * trained.sum()
    return float(loss), whole["input_ids"][0].tolist(), trained.tolist()


@pytest.mark.parametrize("name", vision_families.FAMILIES)
@torch.no_grad()
def test_packs_of_conversations_have_the_librarys_loss(
    name: str, words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INLAY_CACHE", str(tmp_path / "cache"))
    processor = HFImageProcessor(vision_families.write_family(name, words, tmp_path / name))
    pictures, rows = written(tmp_path)
    dataset = ChatDataset(
        str(rows),
        processor.tokenizer,
        max_length=204,
        image_processor=processor,
    )
    model = vision_families.fitted(name, processor, len(processor.tokenizer)).eval()
    model.set_attn_implementation("eager")
    wanted = [library_loss(model, processor, chat, pictures) for chat in CHATS]
    model.set_attn_implementation("sdpa")
    for number, (_, ids, trained) in enumerate(wanted):
        sample = dataset.sample(number)
        end = len(sample.ids)  # what follows the last answer is left out
        assert (sample.ids.tolist(), sample.mask.tolist()) == (ids[:end], trained[:end])
        assert not any(trained[end:])
    vlm = VisionFinetune(model).eval()
    batches = [dataset.collate([dataset.item(i, 0)]).inputs for i in range(len(dataset))]
    assert 1 < len(batches) < len(CHATS)
    losses = [float(vlm(**batch).loss_sum) for batch in batches]
    expected = sum(loss for loss, *_ in wanted)
    print(f"{name}: {sum(losses):.4f} in {len(batches)} packs, {sum(losses) / expected - 1:+.1e}")
    assert sum(losses) == pytest.approx(expected, rel=1e-6, abs=1e-4)
    for batch in batches:
        batch["images"]["pixel_values"].neg_()
    others = [float(vlm(**batch).loss_sum) for batch in batches]
    assert max(abs(a - b) for a, b in zip(losses, others, strict=True)) > 0.5  # it does look


def done(words: list[Any], folder: Path) -> str:
    """Run ``inlay WORDS`` in a process of its own: this one computes, and must not be forked."""
    result = inlay(*map(str, words), cwd=folder)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def recipe_run(folder: Path, recipe: str, model: Path, *options: str) -> tuple[Path, Path, str]:
    """Train by a recipe for three steps; return its config, its last checkpoint, its output."""
    settings = [f"pretrained_model_name_or_path={model}", f"data_path={folder / 'rows.json'}"]
    settings += ["val_fraction=0.0", "max_length=1024", "max_epochs=3", "accumulative_counts=1"]
    settings += ["dataloader_num_workers=0", "evaluation_inputs=[]", "lr=1e-2", *options]
    run = folder / "run"
    words = ["train", recipe, "--work-dir", run, "--cfg-options", *settings]
    text = done(words, folder)
    return next(run.glob("*.py")), run / "iter_3", text


@pytest.fixture
def home(words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Writes the folder of a tiny model of a family, and the conversations."""
    monkeypatch.setenv("INLAY_CACHE", str(tmp_path / "cache"))

    def make(name: str) -> Path:
        written(tmp_path)
        folder = vision_families.write_family(name, words, tmp_path / name)
        processor = HFImageProcessor(folder)
        model = vision_families.fitted(name, processor, len(processor.tokenizer))
        model.save_pretrained(folder)
        return folder

    return make


def seen(model: Any, inputs: Any) -> torch.Tensor:
    """Logits, by the attention that every model has."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    inner.set_attn_implementation("eager")
    with torch.no_grad():
        return model.eval()(**inputs).logits.float()


QWEN_RECIPE = "qwen2_5_vl_3b_instruct_{}_custom_dataset_e1"
FOUR_BITS = dict(
    load_in_4bit=True,
    bnb_4bit_compute_dtype=torch.bfloat16,
    bnb_4bit_use_double_quant=True,
    bnb_4bit_quant_type="nf4",
)


@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_an_adapter_by_recipe_is_what_peft_loads(
    kind: str, home: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = home("qwen2_5_vl")
    recipe = QWEN_RECIPE.format(kind)
    config, checkpoint, _ = recipe_run(tmp_path, recipe, folder)
    saved = load_file(checkpoint / "model.safetensors")
    assert saved and all("language_model" in name and "lora_" in name for name in saved)
    out = tmp_path / "out"
    words = ["convert", "pth_to_hf", config, checkpoint, out, "--fp32"]
    text = done(words, tmp_path)
    assert "ok    logits" in text, text

    def base() -> Any:
        four = BitsAndBytesConfig(**FOUR_BITS) if kind == "qlora" else None
        model = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.bfloat16, quantization_config=four
        )
        keep_weights_as_they_are(model)
        return model

    lora = LoraConfig(r=64, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
    trained = VisionFinetune(base(), lora, freeze=("vision", "projector"))
    left = trained.load_state_dict(saved, strict=False)
    assert not left.unexpected_keys and not [n for n in left.missing_keys if "lora_" in n]
    for parameter in trained.parameters():  # training keeps norms of 4-bit models in float32
        if not parameter.requires_grad and parameter.is_floating_point():
            parameter.data = parameter.data.to(torch.bfloat16)
    inputs = HFImageProcessor(folder).processor(
        text=["<|image_pad|> What?"], images=[drawn((90, 60), 7)], return_tensors="pt"
    )
    found = seen(PeftModel.from_pretrained(base(), out), inputs)
    torch.testing.assert_close(found, seen(trained.llm, inputs), atol=0, rtol=0)
    assert (found - seen(base(), inputs)).abs().max() > 0.01


def test_bounds_of_pictures_reach_the_run(home: Callable[[str], Path], tmp_path: Path) -> None:
    folder = home("qwen2_5_vl")
    shown = [p for chat in CHATS for _, content in chat for p in content if isinstance(p, int)]

    def tokens(low: int, high: int) -> int:
        sides = [smart_resize(h, w, 28, low, high) for w, h in (SIZES[i] for i in shown)]
        return sum(height * width for height, width in sides) // 28**2

    free = ChatDataset(
        str(tmp_path / "rows.json"),
        HFImageProcessor(folder).tokenizer,
        image_processor=HFImageProcessor(folder),
    )
    text_alone = int(free.lengths.sum()) - tokens(56 * 56, 1280 * 28 * 28)
    low, high = 10 * 28 * 28, 16 * 28 * 28
    bounds = [f"min_pixels={low}", f"max_pixels={high}"]
    _, _, output = recipe_run(tmp_path, QWEN_RECIPE.format("lora"), folder, *bounds)
    assert f"; {text_alone + tokens(low, high)} tokens" in output
    assert text_alone + tokens(low, high) != free.lengths.sum()


def test_a_whole_model_by_recipe_is_what_transformers_loads(
    home: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = home("smolvlm")
    recipe = "smolvlm_256m_instruct_full_custom_dataset_e1"
    config, checkpoint, _ = recipe_run(tmp_path, recipe, folder)
    saved = load_file(checkpoint / "model.safetensors")
    assert saved and not any("vision_model" in name for name in saved)
    out = tmp_path / "out"
    words = ["convert", "pth_to_hf", config, checkpoint, out, "--fp32"]
    text = done(words, tmp_path)
    assert "ok    logits" in text, text
    before, after = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    kept = {name for name in before if torch.equal(before[name], after[name])}
    assert kept == {name for name in before if "vision_model" in name}
    trained = VisionFinetune(AutoModelForImageTextToText.from_pretrained(folder))
    assert not trained.load_state_dict(saved, strict=False).unexpected_keys
    inputs = HFImageProcessor(out).processor(
        text=["<image> What?"], images=[drawn((90, 60), 7)], return_tensors="pt"
    )
    found = seen(AutoModelForImageTextToText.from_pretrained(out), inputs)
    torch.testing.assert_close(found, seen(trained.llm, inputs), atol=0, rtol=0)
