"""What vlm_throughput.py trains on and with: rows, backbones, a meter."""

from __future__ import annotations

import io
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

SEED = 0
NUM_ROWS = 600
TILE, PATCH, SHUFFLE, MAX_IMAGE = 128, 8, 4, 512
TILE_TOKENS = (TILE // PATCH // SHUFFLE) ** 2
SEQ_LENGTH, BATCH = 1024, 2
# A tile costs the encoder 3.5 times what its tokens cost the language model, as in nanoVLM-450M
# (2 x 86M x 1024 patches against 2 x 360M x 64 tokens).
WIDTH, LAYERS, HEADS = 192, 4, 4
VIT_WIDTH, VIT_LAYERS = 96, 3
VOCABULARY = 2048  # an eighth of the language model's weights, as there
RATES = {"projector": 5.12e-3, "visual_encoder": 5e-5, "llm": 5e-5}


def make_rows() -> list[dict[str, Any]]:
    """Rows in FineVision's layout: one JPEG of 60 to 500 px, one to three short turns."""
    from PIL import Image

    draw = np.random.default_rng(SEED)
    words = random.Random(SEED)
    rows = []
    for _ in range(NUM_ROWS):
        width, height = draw.integers(60, 500, 2).tolist()
        coarse = draw.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        data = io.BytesIO()
        picture.save(data, "JPEG", quality=90)
        texts = []
        for _ in range(words.randint(1, 3)):
            length = int(np.clip(draw.lognormal(math.log(60), 0.8), 8, 400))
            answer = "".join(words.choices("abcdefghij klmnop", k=length))
            texts.append({"user": "What is shown here?", "assistant": answer})
        rows.append({"images": [{"bytes": data.getvalue(), "path": None}], "texts": texts})
    return rows


def write_parts(folder: Path) -> tuple[Path, Path]:
    """Save a random SigLIP tower and a random Llama with a byte tokenizer; return both folders."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import tiny_vlms
    from transformers import (
        LlamaConfig,
        LlamaForCausalLM,
        SiglipImageProcessorPil,
        SiglipVisionConfig,
        SiglipVisionModel,
    )

    torch.manual_seed(SEED)
    tower, llm = folder / "siglip", folder / "llm"
    config = SiglipVisionConfig(
        hidden_size=VIT_WIDTH,
        intermediate_size=4 * VIT_WIDTH,
        num_hidden_layers=VIT_LAYERS,
        num_attention_heads=HEADS,
        image_size=TILE,
        patch_size=PATCH,
    )
    SiglipVisionModel(config).save_pretrained(tower)
    SiglipImageProcessorPil(size={"height": TILE, "width": TILE}).save_pretrained(tower)
    tokenizer = tiny_vlms.byte_tokenizer()
    language = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS // 2,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(language).save_pretrained(llm)
    tokenizer.save_pretrained(llm)
    return tower, llm


class Meter:
    """CPU seconds and tokens after a first update that warms everything up."""

    def __init__(self) -> None:
        self.start: float | None = None
        self.tokens = self.trained = self.positions = 0

    def update(self, tokens: int, trained: int, positions: int) -> None:
        if self.start is None:
            self.start = time.process_time()
            return
        self.tokens += tokens
        self.trained += trained
        self.positions += positions
        self.seconds = time.process_time() - self.start
