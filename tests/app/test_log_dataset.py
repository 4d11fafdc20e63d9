"""Samples with pictures as people see them: boxes in a terminal, a contact sheet, a page."""

from __future__ import annotations

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runs import inlay, write_config
from tiny_vlms import byte_tokenizer, clip, llama

from inlay.app.log_dataset import render
from inlay.app.pages.contact_sheet import SIDE, write_contact_sheet
from inlay.app.pages.sample_view import Box, Piece, boxes, pieces
from inlay.app.pages.samples import write_sample_page
from inlay.core.errors import DataError
from inlay.core.types import Sample
from inlay.data.sft import ChatDataset
from inlay.data.vision.square import SquareImageProcessor
from inlay.data.vision.tiled import TiledImageProcessor

EVIL = "<script>alert('x')</script><img src=x onerror=alert(1)>"
SIZES = {"red": (90, 40), "blue": (30, 200)}


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Three rows: two pictures, no picture, one picture; with foreign letters and markup."""
    for name, size in SIZES.items():
        Image.new("RGB", size, name).save(tmp_path / f"{name}.png")
    texts = [
        (f"<image> and <image>? {EVIL}", f"red and blue {EVIL}", ["red.png", "blue.png"]),
        ("who?", "蓝 it is", None),
        ("<image>\nwhich?", "blue 🙂\nyes", ["blue.png"]),
    ]
    path = tmp_path / "rows.json"
    with path.open("w") as file:
        for text, answer, images in texts:
            turns = [("user", text), ("assistant", answer)]
            row = {"messages": [{"role": r, "content": c} for r, c in turns], "images": images}
            file.write(json.dumps(row) + "\n")
    return path


@pytest.fixture
def square(tmp_path: Path) -> tuple[Any, Any]:
    tokenizer = byte_tokenizer()
    return tokenizer, SquareImageProcessor(tokenizer, clip(tmp_path / "clip"))


@pytest.fixture
def tiled() -> tuple[Any, Any]:
    tokenizer = byte_tokenizer()
    sizes = {"tile_size": 32, "patch_size": 8, "max_image_size": 64, "pixel_shuffle_factor": 2}
    return tokenizer, TiledImageProcessor(tokenizer, **sizes)


def data(rows: Path, tokenizer: Any, processor: Any) -> list[Any]:
    cache = rows.parent / "cache"
    dataset = ChatDataset(str(rows), tokenizer, image_processor=processor, cache_dir=cache)
    found = [dataset.sample(i) for i in range(dataset.num_samples_total)]
    return sorted(found, key=lambda sample: len(sample.images))[::-1]  # two, one, none


def test_a_picture_is_one_box(rows: Path, square: tuple[Any, Any]) -> None:
    tokenizer, processor = square
    two, one, none = data(rows, tokenizer, processor)
    text = render(two, tokenizer, "text", False, processor).plain
    first, second = "[image 90x40: 16 tokens, 1 tile]", "[image 30x200: 16 tokens, 1 tile]"
    assert f"<|im_start|>user\n{first} and {second}? {EVIL}<|im_end|>" in text
    assert f"[[red and blue {EVIL}<|im_end|>" in text and "<image>" not in text
    assert render(one, tokenizer, "masked_text", False, processor).plain.startswith(
        "[[blue 🙂\nyes"
    )
    assert "[image" not in render(none, tokenizer, "text", False, processor).plain
    ids = json.loads(render(two, tokenizer, "input_ids", False, processor).plain)
    assert ids.count(processor.image_token_id) == 32


def test_boxes_of_tiles(rows: Path, tiled: tuple[Any, Any]) -> None:
    tokenizer, processor = tiled
    two, *_ = data(rows, tokenizer, processor)
    found = boxes(two, processor)
    assert [(b.width, b.height) for b in found] == list(SIZES.values())
    assert sum(box.tiles for box in found) == two.tiles > 2
    covered = np.concatenate([np.arange(box.start, box.stop) for box in found])
    assert set(np.flatnonzero(two.ids == processor.image_token_id)) <= set(covered.tolist())
    for number, box in enumerate(found):
        plan = processor.plan(box.width, box.height, number, 2)
        assert two.ids[box.start : box.stop].tolist() == list(plan.ids)
    text = render(two, tokenizer, "text", False, processor).plain
    assert "<image: 0>[image 90x40: " in text, "the prefix is text"


def test_pieces_are_every_token_in_order(rows: Path, square: tuple[Any, Any]) -> None:
    tokenizer, processor = square
    for sample in data(rows, tokenizer, processor):
        ids: list[int] = []
        mask: list[bool] = []
        text = ""
        for part in pieces(sample, tokenizer, boxes(sample, processor)):
            if isinstance(part, Box):
                ids += sample.ids[part.start : part.stop].tolist()
                mask += [False] * (part.stop - part.start)
                text += str(part)
            else:
                ids += part.ids
                mask += [part.trained] * len(part.ids)
                text += part.text
        assert ids == sample.ids.tolist() and mask == sample.mask.tolist()
        whole = render(sample, tokenizer, "text", True, processor).plain
        assert text == whole and "\ufffd" not in text


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def test_the_page_shows_all_and_runs_nothing(rows: Path, square: tuple[Any, Any]) -> None:
    tokenizer, processor = square
    samples = data(rows, tokenizer, processor)
    path = rows.with_name("page.html")
    write_sample_page(path, f"title {EVIL}", samples, tokenizer, processor, f"report {EVIL}")
    page = Page(path)

    assert not page.all("script") and not page.all("iframe") and not page.all("link")
    assert not [a for _, attrs in page.tags for a in attrs if a.startswith("on")]
    assert page.text.count(EVIL) == 5, "title twice, question, answer, report: as text"
    policy = page.all("meta")[1]["content"] or ""
    assert policy.startswith("default-src 'none';") and "script" not in policy

    pictures = page.all("img")
    assert len(pictures) == 3
    for attrs in pictures:
        kind, _, encoded = (attrs["src"] or "").partition(",")
        assert kind == "data:image/jpeg;base64"
        assert Image.open(io.BytesIO(base64.b64decode(encoded))).size in SIZES.values()
    assert page.text.count("[image 30x200: 16 tokens, 1 tile]") == 2

    tokens = [a for a in page.all("span") if "t" in (a["class"] or "").split()]
    trained = [a for a in tokens if "trained" in (a["class"] or "").split()]
    assert sum(len((a["title"] or "").split()) for a in trained) == sum(
        int(s.mask.sum()) for s in samples
    )
    end = str(tokenizer.convert_tokens_to_ids("<|im_end|>"))
    assert "special" in next(a["class"] or "" for a in tokens if a["title"] == end)
    assert "<|im_start|>assistant\n" in page.text and "blue 🙂\nyes" in page.text


def test_a_large_picture_is_scaled_down(rows: Path, square: tuple[Any, Any]) -> None:
    Image.effect_noise((1200, 600), 50).convert("RGB").save(rows.with_name("red.png"))
    tokenizer, processor = square
    path = rows.with_name("page.html")
    write_sample_page(path, "t", data(rows, tokenizer, processor), tokenizer, processor, "r")
    assert path.stat().st_size < 200_000
    assert "[image 1200x600: 16 tokens, 1 tile]" in Page(path).text


def test_the_contact_sheet(rows: Path, square: tuple[Any, Any]) -> None:
    tokenizer, processor = square
    samples = data(rows, tokenizer, processor)
    path = rows.with_name("sheet.png")
    write_contact_sheet(path, samples, tokenizer, processor)
    sheet = Image.open(path).convert("RGB")
    assert 2 * SIDE < sheet.width < 2.2 * SIDE and sheet.height > 2 * SIDE, "three in two rows"
    pixels = np.asarray(sheet)
    for name, count in {"red": 1, "blue": 2}.items():
        colour = (255, 0, 0) if name == "red" else (0, 0, 255)
        area = np.all(pixels == colour, axis=-1).sum()
        assert area == count * SIZES[name][0] * SIZES[name][1], "as they are"
    assert np.all(pixels == 0, axis=-1).any(), "captions"
    with pytest.raises(DataError, match="no picture in the first 1 samples"):
        write_contact_sheet(path, samples[-1:], tokenizer, processor)


def test_the_command(rows: Path, tmp_path: Path) -> None:
    model = llama(tmp_path / "llama")
    config = write_config(tmp_path / "config", model, rows)
    more = f"""
from inlay.data import SquareImageProcessor
image_processor = dict(
    type=SquareImageProcessor, tokenizer=tokenizer, visual_encoder={str(clip(tmp_path / "clip"))!r}
)
train_dataloader["dataset"] = dict(
    train_dataset, image_processor=image_processor, max_length=512, cache_dir={str(tmp_path)!r}
)
"""
    config.write_text(config.read_text() + more)
    code, text = inlay(["log-dataset", config, "-n", "3"], tmp_path)
    assert code == 0 and text.count("[image 30x200: 16 tokens, 1 tile]") == 2, text
    sheet, page = tmp_path / "out" / "sheet.png", tmp_path / "out" / "page.html"
    words = ["log-dataset", config, "--contact-sheet", sheet, "--html", page]
    code, text = inlay(words, tmp_path)
    assert code == 0 and "[image" not in text, text
    assert "3 rows read, 3 kept" in text
    assert len(Page(page).all("img")) == 3 and Image.open(sheet).format == "PNG"


@pytest.mark.shared
@pytest.mark.parametrize("name", ["models/stories260k", "tokenizers/qwen2"])
def test_pieces_of_real_tokenizers(shared_data: Path, name: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_data / name)
    ids = np.array(tokenizer("Once 蓝色 🙂🙂 there\n\n  a “dog”. Ünï").input_ids, np.int32)
    sample = Sample(ids, np.zeros(len(ids), bool))
    found = [part for part in pieces(sample, tokenizer, []) if isinstance(part, Piece)]
    assert "".join(part.text for part in found) == tokenizer.decode(ids)
    assert [i for part in found for i in part.ids] == ids.tolist()
    assert {"🙂", "Ü"} <= {part.text.strip() for part in found}, "bytes joined to characters"
