"""LLaVA-1.5 under its adapter, pictures prepared as F-LMM prepares them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from sights import TEXT, VISION, livelier
from tiny_vlms import byte_tokenizer
from transformers import LlavaConfig, LlavaForConditionalGeneration

from inlay.core.errors import ModelError
from inlay.data import PaddedImageProcessor
from inlay.models import LLaVAAdapter, LLaVANextAdapter
from inlay.models.grounding.capture import Grounded

SIDE, PATCH, TOKENS = 56, 14, 16
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def processor() -> PaddedImageProcessor:
    return PaddedImageProcessor(
        byte_tokenizer(tokens=("<image>",)),
        image_size=SIDE,
        patch_size=PATCH,
        min_size=1,
        image_mean=MEAN,
        image_std=STD,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, processor: PaddedImageProcessor) -> Path:
    token = processor.image_token_id
    config = LlavaConfig(
        text_config={**TEXT, "model_type": "llama", "vocab_size": token + 1},
        vision_config={
            **VISION,
            "model_type": "clip_vision_model",
            "image_size": SIDE,
            "patch_size": PATCH,
        },
        image_token_id=token,
    )
    path = tmp_path_factory.mktemp("llava")
    livelier(LlavaForConditionalGeneration(config)).save_pretrained(path)
    return path


@torch.no_grad()
def test_what_is_seen_is_eager_attention(folder: Path, processor: PaddedImageProcessor) -> None:
    adapter = LLaVAAdapter.from_pretrained(str(folder), device="cpu")
    token = processor.image_token_id
    assert adapter.image_token_id == token
    made = processor.pixels(Image.radial_gradient("L").resize((300, 200)).convert("RGB"))
    images = {name: torch.from_numpy(value) for name, value in made.items()}
    ids = torch.tensor([[7, *[token] * TOKENS, 11, 12, 13]])
    row = {
        "input_ids": ids,
        "position_ids": torch.arange(ids.shape[1])[None],
        "doc_starts": torch.tensor([0, ids.shape[1]], dtype=torch.int32),
        "longest_document": ids.shape[1],
        "images": images,
        "image_positions": (ids[0] == token).nonzero()[:, 0],
    }
    rows, masks = torch.tensor([17, 18, 19]), torch.tensor([0, 0, 1])
    columns = row["image_positions"].expand(2, -1)
    seen = adapter.look(row, Grounded(torch.zeros_like(rows), rows, masks, columns))
    eager = LlavaForConditionalGeneration.from_pretrained(folder, attn_implementation="eager")
    out = eager(input_ids=ids, pixel_values=images["pixel_values"], output_attentions=True)
    looks = torch.cat(out.attentions).flatten(0, 1)[:, 17:, 1 : 1 + TOKENS]  # [L * H, 3, K]
    expected = torch.stack([looks[:, :2].mean(1), looks[:, 2]])
    torch.testing.assert_close(seen.maps, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(96, 240), (160, 160), (640, 427), (427, 640)])
def test_the_whole_picture_is_shown_and_padded_to_a_square(
    processor: PaddedImageProcessor, size: tuple[int, int]
) -> None:
    """What F-LMM's processor makes: longest side to the encoder's, background ``int(255 mean)``."""
    width, height = size
    if height > width:
        small = (int(width * SIDE / height), SIDE)
    else:
        small = (SIDE, int(height * SIDE / width))
    picture = Image.radial_gradient("L").resize(size).convert("RGB")
    square = Image.new("RGB", (SIDE, SIDE), tuple(int(255 * x) for x in MEAN))
    square.paste(
        picture.resize(small, Image.Resampling.BICUBIC),
        ((SIDE - small[0]) // 2, (SIDE - small[1]) // 2),
    )
    flat = torch.tensor(list(square.tobytes())).view(SIDE, SIDE, 3).permute(2, 0, 1) / 255
    expected = (flat - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    made = torch.from_numpy(processor.pixels(picture)["pixel_values"])[0]
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=0)


def test_a_model_of_another_family_is_refused(folder: Path) -> None:
    with pytest.raises(ModelError, match=r"LLaVANextAdapter is for llava_next models.* is llava\."):
        LLaVANextAdapter.from_pretrained(str(folder), device="cpu")
