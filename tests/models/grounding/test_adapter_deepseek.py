"""DeepSeek-VL under its adapter: both layouts, both sizes, the authors' own arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import published_deepseek as published
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer

from inlay.core.errors import ModelError
from inlay.data import PaddedImageProcessor
from inlay.models import DeepSeekVLAdapter, LLaVAAdapter
from inlay.models.grounding.capture import Grounded

TOKENS, PATCH = 16, 8
SIZES = [(300, 200), (96, 240)]
HALF = dict(image_mean=published.HALF[0], image_std=published.HALF[1])
LARGE = dict(high_resolution=64, high_res_mean=published.CLIP[0], high_res_std=published.CLIP[1])


def processor(folder: Path, hybrid: bool) -> PaddedImageProcessor:
    return PaddedImageProcessor(
        AutoTokenizer.from_pretrained(folder),
        image_size=32,
        patch_size=PATCH,
        min_size=1,
        image_token=published.IMAGE_TOKEN,
        **HALF,
        **(LARGE if hybrid else {}),
    )


@pytest.fixture(scope="module", params=[False, True], ids=["1.3b", "7b"])
def opened(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("deepseek")
    published.publish(folder / "authors", hybrid=request.param)
    adapter = DeepSeekVLAdapter.from_pretrained(str(folder / "authors"), device="cpu")
    return adapter, folder, request.param


def a_row(token: int, images: list[dict[str, Any]]) -> dict[str, Any]:
    """A document for each picture: a token, the picture, three words."""
    documents = [[7, *[token] * TOKENS, 11 + n, 12, 13] for n in range(len(images))]
    ids = torch.tensor([i for d in documents for i in d])
    length = TOKENS + 4
    joined = {k: torch.cat([torch.from_numpy(i[k]) for i in images]) for k in images[0]}
    return {
        "input_ids": ids[None],
        "position_ids": torch.arange(length).repeat(len(images))[None],
        "doc_starts": torch.arange(0, len(ids) + 1, length, dtype=torch.int32),
        "longest_document": length,
        "images": joined,
        "image_positions": (ids == token).nonzero()[:, 0],
    }


def grounded(row: dict[str, Any]) -> Grounded:
    """The last two words of each document name a mask of it."""
    ends = row["doc_starts"][1:].long()
    rows = torch.stack([ends - 2, ends - 1], dim=1).flatten()
    columns = row["image_positions"].view(len(ends), TOKENS)
    masks = torch.arange(len(ends)).repeat_interleave(2)
    return Grounded(torch.zeros_like(rows), rows, masks, columns)


def pictures(sizes: list[tuple[int, int]]) -> list[Image.Image]:
    return [Image.radial_gradient("L").resize(size).convert("RGB") for size in sizes]


@torch.no_grad()
def test_what_is_seen_is_the_attention_of_the_authors_model(opened: Any) -> None:
    """Eager attention of their Llama over their embeddings, picture by picture."""
    adapter, folder, hybrid = opened
    make = processor(folder / "authors", hybrid)
    images = pictures(SIZES[:2])
    row = a_row(make.image_token_id, [make.pixels(image) for image in images])
    seen = adapter.look(row, grounded(row))
    assert seen.maps.shape == (2, 2 * 4, TOKENS)
    stored = load_file(folder / "authors" / "model.safetensors")
    words = {n[len("language_model.") :]: t for n, t in stored.items() if "language" in n}
    llama = published.llama(len(words["lm_head.weight"]))
    llama.load_state_dict(words)
    llama.set_attn_implementation("eager")
    for number, image in enumerate(images):
        embeds = llama.model.embed_tokens(row["input_ids"][:, number * 20 : number * 20 + 20])
        embeds[:, 1 : 1 + TOKENS] = published.image_features(stored, squared(image, hybrid))
        out = llama(inputs_embeds=embeds, output_attentions=True, output_hidden_states=True)
        rows = torch.cat(out.attentions)[:, :, -2:, 1 : 1 + TOKENS].mean(2)
        torch.testing.assert_close(seen.maps[number], rows.flatten(0, 1), atol=1e-5, rtol=0)
        hidden = torch.cat(out.hidden_states[-2:])[:, -2:]
        found = seen.hidden[:, 2 * number : 2 * number + 2]
        torch.testing.assert_close(found, hidden, atol=1e-5, rtol=1e-5)
    assert (seen.maps[0] - seen.maps[1]).abs().max() > 1e-4, "the pictures matter"


def squared(image: Image.Image, hybrid: bool) -> torch.Tensor:
    """The picture as the authors prepare it, ``[1, 3, S, S]`` in [0, 1]."""
    side, mean = (64, published.CLIP[0]) if hybrid else (32, published.HALF[0])
    longest = max(image.size)
    width, height = (int(px / longest * side) for px in image.size)
    square = Image.new("RGB", (side, side), tuple(int(x * 255) for x in mean))
    small = image.resize((width, height), Image.Resampling.BICUBIC)
    square.paste(small, ((side - width) // 2, (side - height) // 2))
    flat = torch.tensor(list(square.tobytes()), dtype=torch.float32)
    return flat.view(1, side, side, 3).permute(0, 3, 1, 2) / 255


def test_the_layout_of_transformers_is_the_same_model(opened: Any, tmp_path: Path) -> None:
    adapter, folder, hybrid = opened
    adapter.model.base.save_pretrained(tmp_path)
    again = DeepSeekVLAdapter.from_pretrained(str(tmp_path), device="cpu")
    assert again.identity() == adapter.identity()
    make = processor(folder / "authors", hybrid)
    row = a_row(make.image_token_id, [make.pixels(image) for image in pictures(SIZES[:1])])
    seen, own = again.look(row, grounded(row)), adapter.look(row, grounded(row))
    assert torch.equal(seen.maps, own.maps)


def test_it_answers_with_the_authors_image_token(opened: Any) -> None:
    adapter, folder, hybrid = opened
    make = processor(folder / "authors", hybrid)
    assert adapter.image_token_id == make.image_token_id
    assert (adapter.num_layers, adapter.num_heads, adapter.hidden_size) == (2, 4, 32)
    row = a_row(make.image_token_id, [make.pixels(pictures(SIZES[:1])[0])])
    answer = adapter.generate(row["input_ids"], images=row["images"], max_new_tokens=4)
    assert answer.shape == (1, TOKENS + 8), "no stop token of another model ends it"


def test_a_model_of_another_family_is_refused(opened: Any) -> None:
    adapter, _, _ = opened
    with pytest.raises(ModelError, match="LLaVAAdapter is for llava models, this one is deepseek"):
        LLaVAAdapter(adapter.model)


def test_pixels_are_those_of_the_authors(opened: Any) -> None:
    """One view, or a small one that is made of the large one."""
    _, folder, hybrid = opened
    image = pictures(SIZES[:1])[0]
    raw = squared(image, hybrid)
    small = F.interpolate(raw, size=(32, 32), mode="bilinear", antialias=True)
    wanted = {"pixel_values": published.normalised(small, *published.HALF)}
    if hybrid:
        wanted["high_res_pixel_values"] = published.normalised(raw, *published.CLIP)
    made = processor(folder / "authors", hybrid).pixels(image)
    assert made.keys() == wanted.keys() | {"num_rows", "num_tokens"}
    for name, pixels in wanted.items():
        torch.testing.assert_close(torch.from_numpy(made[name]), pixels, atol=1e-5, rtol=0)
