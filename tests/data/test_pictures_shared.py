"""Real photos and conversations, through every kind of image processor."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_vlms import byte_tokenizer, clip, qwen_vl, siglip

from inlay.data.loader import WindowLoader
from inlay.data.sft import ChatDataset
from inlay.data.vision.hf import HFImageProcessor
from inlay.data.vision.square import SquareImageProcessor
from inlay.data.vision.tiled import TiledImageProcessor

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def eyes(tmp_path_factory):
    """(tokenizer, template, image processor) by kind."""
    from transformers import AutoTokenizer

    def make(kind: str) -> tuple[Any, str | None, Any]:
        folder = tmp_path_factory.mktemp(kind)
        if kind == "hf":
            tokenizer = AutoTokenizer.from_pretrained(qwen_vl(folder))
            return tokenizer, None, HFImageProcessor(folder, tokenizer)
        tokenizer = byte_tokenizer()
        if kind == "square":
            return tokenizer, "vicuna", SquareImageProcessor(tokenizer, clip(folder))
        size = {"pixel_shuffle_factor": 2, "max_image_size": 192}
        return tokenizer, "qwen_chat", TiledImageProcessor(tokenizer, siglip(folder), **size)

    return make


@pytest.mark.parametrize("kind", ["square", "tiled", "hf"])
def test_every_shared_picture(kind, eyes, shared_data, tmp_path):
    tokenizer, template, processor = eyes(kind)
    images = shared_data / "images"
    sources = [
        {"path": str(images / "llava_photos.json"), "image_folder": str(images / "llava_photos")},
        str(images / "mllm_demo.json"),
        str(images / "oph" / "unique_data.json"),
    ]
    dataset = ChatDataset(
        sources, tokenizer, template, 4096, cache_dir=tmp_path, image_processor=processor
    )
    report = dataset.report
    assert report.kept == report.rows == sum(len(json.loads(_text(s))) for s in sources) > 100
    assert not report.truncated
    batch = next(iter(WindowLoader(dataset, 1).batches()))
    samples = dataset.item(0, 0)
    assert batch.num_images == sum(len(s.images) for s in samples) > 0
    assert batch.inputs["images"]["pixel_values"].dtype.is_floating_point
    at = batch.inputs["image_positions"]
    assert (batch.inputs["input_ids"][0, at] == processor.image_token_id).all()
    assert (batch.inputs["labels"][0, at] == -100).all()
    if kind == "tiled":
        assert len(batch.inputs["images"]["pixel_values"]) == sum(s.tiles for s in samples)


def test_tokens_of_the_models_own_processor(eyes, shared_data, tmp_path):
    """Its template and its processor, given the whole conversation, give the same ids."""
    tokenizer, template, processor = eyes("hf")
    path = shared_data / "images" / "mllm_demo.json"
    dataset = ChatDataset(
        str(path), tokenizer, template, cache_dir=tmp_path, image_processor=processor
    )
    rows = json.loads(path.read_text())
    for index, row in enumerate(rows):
        chat = [{"role": m["role"], "content": _parts(m["content"])} for m in row["messages"]]
        text = tokenizer.apply_chat_template(chat, tokenize=False)
        shown = [Image.open(path.parent / name).convert("RGB") for name in row["images"]]
        own = processor.processor(text=[text], images=shown, return_tensors="np")
        sample = dataset.sample(index)
        assert sample.ids.tolist() == np.asarray(own["input_ids"])[0].tolist()
        answers = [m["content"] + "<|im_end|>" for m in row["messages"] if m["role"] != "user"]
        assert tokenizer.decode(sample.ids[sample.mask]) == "".join(answers)


def _parts(content: str) -> list[dict[str, str]]:
    texts = content.split("<image>")
    parts: list[dict[str, str]] = []
    for number, text in enumerate(texts):
        parts += [{"type": "image"}] if number else []
        parts += [{"type": "text", "text": text}] if text else []
    return parts


def _text(source: Any) -> str:
    path = source["path"] if isinstance(source, dict) else source
    with open(path, encoding="utf-8") as file:
        return file.read()
