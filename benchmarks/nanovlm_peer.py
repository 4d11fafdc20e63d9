"""nanoVLM's own public code in its own training step, on the rows of vlm_throughput.py.

What it imports and this project does not install gets stand-ins with the same arithmetic; its
tokenizer calls are given what they expect of older releases; its code is not changed.
"""

from __future__ import annotations

import io
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nanovlm_setup import (
    BATCH,
    HEADS,
    LAYERS,
    MAX_IMAGE,
    PATCH,
    RATES,
    SEED,
    SEQ_LENGTH,
    SHUFFLE,
    TILE,
    TILE_TOKENS,
    VIT_LAYERS,
    VIT_WIDTH,
    VOCABULARY,
    WIDTH,
    Meter,
)


def stand_in_modules() -> None:
    """What the peer imports and this project does not install, with the same arithmetic."""
    from PIL import Image

    def resize(image: Any, size: list[int], interpolation: Any = None) -> Any:
        if isinstance(image, torch.Tensor):
            return torch.nn.functional.interpolate(image, size, mode="bilinear", antialias=True)
        return image.resize((size[1], size[0]), Image.Resampling.BICUBIC)

    def to_tensor(image: Any) -> torch.Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)

    def compose(steps: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
        def run(value: Any) -> Any:
            for step in steps:
                value = step(value)
            return value

        return run

    def rearrange(x: torch.Tensor, _: str, ph: int, pw: int) -> torch.Tensor:
        b, c, h, w = x.shape
        cut = x.view(b, c, h // ph, ph, w // pw, pw).permute(0, 2, 4, 1, 3, 5)
        return cut.reshape(-1, c, ph, pw)

    functional = types.ModuleType("torchvision.transforms.functional")
    functional.resize = resize  # type: ignore[attr-defined]
    functional.InterpolationMode = types.SimpleNamespace(BICUBIC="bicubic")  # type: ignore[attr-defined]
    transforms = types.ModuleType("torchvision.transforms")
    transforms.Compose = compose  # type: ignore[attr-defined]
    transforms.ToTensor = lambda: to_tensor  # type: ignore[attr-defined]
    transforms.functional = functional  # type: ignore[attr-defined]
    vision = types.ModuleType("torchvision")
    vision.transforms = transforms  # type: ignore[attr-defined]
    einops = types.ModuleType("einops")
    einops.rearrange = rearrange  # type: ignore[attr-defined]
    sys.modules.update(
        {
            "torchvision": vision,
            "torchvision.transforms": transforms,
            "torchvision.transforms.functional": functional,
            "einops": einops,
        }
    )


class PeerRows:
    """The rows as the peer's loader hands them on: pictures opened, not decoded."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        from PIL import Image

        row = self.rows[index]
        images = [Image.open(io.BytesIO(image["bytes"])) for image in row["images"]]
        return {"images": images, "texts": row["texts"]}


def train_peer(
    path: Path, rows: list[dict[str, Any]], llm: Path, updates: int, blow_up: bool
) -> Meter:
    """nanoVLM's data set, packer, collator and model in its own training step."""
    stand_in_modules()
    sys.path.insert(0, str(path))
    from models.vision_language_model import VisionLanguageModel  # type: ignore[import-not-found]

    cfg = peer_config(llm, blow_up)
    loader = peer_loader(cfg, rows)
    torch.manual_seed(SEED)
    model = VisionLanguageModel(cfg, load_backbone=False)
    parts = {"projector": model.MP, "visual_encoder": model.vision_encoder, "llm": model.decoder}
    groups = [{"params": list(parts[k].parameters()), "lr": rate} for k, rate in RATES.items()]
    optimizer = torch.optim.AdamW(groups)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    meter = Meter()
    model.train()
    for index, batch in enumerate(endless(loader)):
        if index > updates:
            break
        labels, mask = batch["labels"], batch["attention_mask"]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, loss = model(
                batch["input_ids"], batch["images"], attention_mask=mask, targets=labels
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        meter.update(int(mask.sum()), int((labels != -100).sum()), labels.numel())
    return meter


def peer_config(llm: Path, blow_up: bool) -> Any:
    """The peer's settings for the shapes of ``nanovlm_setup``."""
    from models.config import VLMConfig  # type: ignore[import-not-found]

    cfg = VLMConfig(
        vit_hidden_dim=VIT_WIDTH,
        vit_inter_dim=4 * VIT_WIDTH,
        vit_patch_size=PATCH,
        vit_img_size=TILE,
        vit_n_heads=HEADS,
        vit_n_blocks=VIT_LAYERS,
        lm_hidden_dim=WIDTH,
        lm_inter_dim=4 * WIDTH,
        lm_n_heads=HEADS,
        lm_n_kv_heads=HEADS // 2,
        lm_n_blocks=LAYERS,
        lm_max_length=SEQ_LENGTH,
        lm_tokenizer=str(llm),
        mp_pixel_shuffle_factor=SHUFFLE,
        mp_image_token_length=TILE_TOKENS,
        max_img_size=MAX_IMAGE,
        resize_to_max_side_len=blow_up,
    )
    cfg.lm_vocab_size = VOCABULARY
    return cfg


def peer_loader(cfg: Any, rows: list[dict[str, Any]]) -> Any:
    """Rows, packed by the peer."""
    from data.advanced_datasets import ConstantLengthDataset  # type: ignore[import-not-found]
    from data.collators import VQACollator  # type: ignore[import-not-found]
    from data.datasets import VQADataset  # type: ignore[import-not-found]
    from data.processors import (  # type: ignore[import-not-found]
        get_image_processor,
        get_tokenizer,
    )
    from torch.utils.data import DataLoader

    tokenizer = get_tokenizer(cfg.lm_tokenizer, cfg.vlm_extra_tokens, cfg.lm_chat_template)
    old_style(tokenizer)
    processor = get_image_processor(MAX_IMAGE, TILE, cfg.resize_to_max_side_len)
    packs = ConstantLengthDataset(
        VQADataset(PeerRows(rows), tokenizer, processor, TILE_TOKENS),
        infinite=False,
        max_sample_length=SEQ_LENGTH,
        seq_length=SEQ_LENGTH,
        num_of_sequences=BATCH * 4,
        queue_size=8,
        max_images_per_example=4,
        max_images_per_knapsack=18,
    )
    collate = VQACollator(tokenizer, SEQ_LENGTH)
    return DataLoader(packs, batch_size=BATCH, collate_fn=collate, drop_last=True)


def old_style(tokenizer: Any) -> None:
    """The peer was written for a release whose chat template returned a list of ids."""
    render = tokenizer.apply_chat_template

    def apply(messages: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("return_dict", False)
        return render(messages, **kwargs)

    tokenizer.apply_chat_template = apply


def endless(loader: Any) -> Iterator[Any]:
    while True:
        yield from loader
