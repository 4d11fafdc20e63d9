"""Training a small VLM from backbones: tokens per CPU-second beside nanoVLM's own public code.

The same rows (generated pictures and lognormal texts), the same shapes, one process, bfloat16
autocast, AdamW, clipping; reading, tiling, packing and training are all counted. ``--peer`` is a
checkout of github.com/huggingface/nanoVLM. Without ``--peer`` only ours runs.

    python benchmarks/vlm_throughput.py --peer PATH [--updates 40]
"""

from __future__ import annotations

import argparse
import resource
import tempfile
from pathlib import Path
from typing import Any

import torch
from nanovlm_peer import train_peer
from nanovlm_setup import (
    BATCH,
    MAX_IMAGE,
    NUM_ROWS,
    RATES,
    SEED,
    SEQ_LENGTH,
    SHUFFLE,
    TILE,
    Meter,
    make_rows,
    write_parts,
)


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
