"""Training a small VLM from backbones: tokens per CPU-second beside nanoVLM's own public code.

The same rows (generated pictures and lognormal texts), the same shapes, one process, bfloat16
autocast, AdamW, clipping; reading, tiling, packing and training are all counted. ``--peer`` is a
checkout of github.com/huggingface/nanoVLM; its torchvision, einops and tokenizer calls are given
what they expect of older releases, its code is not changed. Without ``--peer`` only ours runs.

    python benchmarks/vlm_throughput.py --peer PATH [--updates 40]
"""

from __future__ import annotations

import argparse
import io
import math
import random
import resource
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator
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


def train_ours(rows_file: Path, tower: Path, llm: Path, updates: int) -> Meter:
    """The product's own data path, model and update, as `nanovlm_450m` puts them together."""
    from torch.optim import AdamW
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from inlay.data import ChatDataset, TiledImageProcessor, WindowLoader
    from inlay.engine.groups import PartRates
    from inlay.engine.optim import build_optimizer
    from inlay.engine.parallel.single import SingleDevice
    from inlay.engine.runner import Runner
    from inlay.engine.settings import OptimWrapper, TrainLoop
    from inlay.models import LLaVAModel, load_visual_encoder

    meter = Meter()
    tokenizer = AutoTokenizer.from_pretrained(llm)
    processor = TiledImageProcessor(
        tokenizer, str(tower), pixel_shuffle_factor=SHUFFLE, max_image_size=MAX_IMAGE
    )
    model = LLaVAModel(
        AutoModelForCausalLM.from_pretrained(llm),
        load_visual_encoder(str(tower)),
        tokenizer,
        projector="pixel_shuffle",
        pixel_shuffle_factor=SHUFFLE,
        visual_select_layer=None,
        use_activation_checkpointing=False,
    )
    with tempfile.TemporaryDirectory() as cache:
        dataset = ChatDataset(
            str(rows_file),
            tokenizer,
            image_processor=processor,
            max_length=SEQ_LENGTH,
            overlong="drop",
            cache_dir=cache,
        )

        class Ticks:
            def after_train_iter(self, runner: Any, data_batch: Any = None, **_: Any) -> None:
                n = data_batch.num_tokens
                meter.update(n, data_batch.loss_units, data_batch.inputs["input_ids"].numel())

        Runner(
            model=model,
            strategy=SingleDevice(torch.device("cpu"), "bfloat16"),
            optimizer=build_optimizer(model, AdamW, {"lr": 5e-5}, PartRates(RATES)),
            train_loader=WindowLoader(dataset, batch_size=BATCH),
            loop=TrainLoop(max_iters=updates + 1),
            optim=OptimWrapper(optimizer={"lr": 5e-5}, clip_grad={"max_norm": 1.0}),
            hooks=[Ticks()],
            work_dir=Path(cache),
        ).train()
    return meter


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
    from data.advanced_datasets import ConstantLengthDataset  # type: ignore[import-not-found]
    from data.collators import VQACollator  # type: ignore[import-not-found]
    from data.datasets import VQADataset  # type: ignore[import-not-found]
    from data.processors import (  # type: ignore[import-not-found]
        get_image_processor,
        get_tokenizer,
    )
    from models.config import VLMConfig  # type: ignore[import-not-found]
    from models.vision_language_model import (  # type: ignore[import-not-found]
        VisionLanguageModel,
    )
    from torch.utils.data import DataLoader

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
    tokenizer = get_tokenizer(cfg.lm_tokenizer, cfg.vlm_extra_tokens, cfg.lm_chat_template)
    old_style(tokenizer)
    cfg.lm_vocab_size = VOCABULARY
    torch.manual_seed(SEED)
    model = VisionLanguageModel(cfg, load_backbone=False)
    processor = get_image_processor(MAX_IMAGE, TILE, blow_up)
    samples = VQADataset(PeerRows(rows), tokenizer, processor, TILE_TOKENS)
    packs = ConstantLengthDataset(
        samples,
        infinite=False,
        max_sample_length=SEQ_LENGTH,
        seq_length=SEQ_LENGTH,
        num_of_sequences=BATCH * 4,
        queue_size=8,
        max_images_per_example=4,
        max_images_per_knapsack=18,
    )
    collate = VQACollator(tokenizer, SEQ_LENGTH)
    loader = DataLoader(packs, batch_size=BATCH, collate_fn=collate, drop_last=True)
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


def report(name: str, meter: Meter) -> float:
    rate = meter.tokens / meter.seconds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{name:<34} {rate:>10.0f} tokens, {meter.trained / meter.seconds:>8.0f} trained per "
        f"CPU-second; {meter.tokens / meter.positions:>6.1%} of the positions are tokens; "
        f"peak so far {peak:,.0f} MB"
    )
    return rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", type=Path, help="checkout of nanoVLM")
    parser.add_argument("--updates", type=int, default=40)
    args = parser.parse_args()
    import pyarrow as pa
    import pyarrow.parquet

    torch.set_num_threads(1)
    rows = make_rows()
    print(f"{NUM_ROWS} generated rows, seed {SEED}; tiles of {TILE} px, packs of {SEQ_LENGTH}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tower, llm = write_parts(folder)
        pa.parquet.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
        ours = report("ours", train_ours(folder / "rows.parquet", tower, llm, args.updates))
        if args.peer:
            for blow_up in (False, True):
                label = f"nanoVLM, resize_to_max {blow_up}"
                meter = train_peer(args.peer, rows, llm, args.updates, blow_up)
                print(f"ratio ours / peer: {ours / report(label, meter):.2f}x (aim >= 1.5x)")


if __name__ == "__main__":
    main()
