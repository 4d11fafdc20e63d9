"""A picture's way from its file to a model's pixels: pictures per CPU-second, one thread.

Both sides open and decode the same files. Peers: for one view a picture the encoder's own
processor of transformers (CLIP-L at 336 px); for tiles SmolVLM's (512-px tiles of a 2048-px long
side, a view of the whole, as ours with ``resize_to_max``), and with ``--peer`` nanoVLM's own
transforms. The pictures are generated JPEGs of usual sizes, or those of a folder.

    python benchmarks/image_path.py [--folder DIR] [--peer NANOVLM_CHECKOUT]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from _ratio import best_in_turns, cpu_seconds, header, row
from PIL import Image

from inlay.core.types import ImageRef
from inlay.data.vision.files import open_image
from inlay.data.vision.square import SquareImageProcessor
from inlay.data.vision.tiled import TiledImageProcessor

SIZES = [(640, 480), (480, 640), (1024, 768), (300, 200), (1920, 1080), (100, 100), (1400, 2000)]
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
SEED = 0


def write_pictures(folder: Path) -> None:
    """Save two JPEGs of every size: coarse noise, enlarged, with fine noise over it."""
    draw = np.random.default_rng(SEED)
    for index, (width, height) in enumerate(SIZES * 2):
        coarse = Image.fromarray(draw.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
        grain = draw.normal(0, 6, (height, width, 1))
        picture = np.clip(smooth + grain, 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"{index:02}.jpg", quality=90)


def byte_tokenizer() -> Any:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE({"a": 0}, [])))


def clip_encoder(folder: Path) -> Any:
    """Save CLIP-L/336's config and image processor; return the image processor."""
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig

    side = {"height": 336, "width": 336}
    CLIPVisionConfig(image_size=336, patch_size=14).save_pretrained(folder)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 336}, crop_size=side)
    processor.save_pretrained(folder)
    return processor


def nanovlm_transform(checkout: str, resize_to_max: bool) -> Callable[[Any], Any]:
    """Return the peer's own chain of transforms."""
    from vlm_throughput import stand_in_modules

    stand_in_modules()
    sys.path.insert(0, checkout)
    from data.processors import get_image_processor

    return get_image_processor(2048, 512, resize_to_max)


def compare(
    name: str, files: list[Path], ours: Any, peer: Callable[[Any], Any], repeats: int, target: str
) -> None:
    """Print pictures per CPU-second of both, file to pixels."""

    def our_way() -> None:
        for file in files:
            ours.pixels(open_image(ImageRef(path=str(file))))

    def their_way() -> None:
        for file in files:
            peer(Image.open(file).convert("RGB"))

    seconds = best_in_turns([lambda: cpu_seconds(our_way), lambda: cpu_seconds(their_way)], repeats)
    row(f"{name}, pictures per CPU-second", *(len(files) / s for s in seconds), target)


def main() -> None:
    import torch
    from transformers import SmolVLMImageProcessorPil

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="pictures to read instead of generated ones")
    parser.add_argument("--peer", help="a checkout of github.com/huggingface/nanoVLM")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        write_pictures(Path(temporary))
        folder = args.folder or Path(temporary)
        files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in SUFFIXES)
        if not files:
            parser.error(f"no pictures ({', '.join(sorted(SUFFIXES))}) in {folder}")
        clip = clip_encoder(Path(temporary) / "clip")
        square = SquareImageProcessor(byte_tokenizer(), Path(temporary) / "clip")
        tiled = TiledImageProcessor(byte_tokenizer(), resize_to_max=True)
        small = TiledImageProcessor(byte_tokenizer())
        smol = SmolVLMImageProcessorPil(
            size={"longest_edge": 2048}, max_image_size={"longest_edge": 512}
        )
        print(f"{len(files)} pictures, seed {SEED}")
        header()
        compare("one view, CLIP", files, square, library_call(clip), args.repeats, ">= 1")
        compare("tiles, SmolVLM", files, tiled, library_call(smol), args.repeats, ">= 1.5")
        if args.peer:
            for name, ours, most in (("to max", tiled, True), ("next tile", small, False)):
                peer = nanovlm_transform(args.peer, most)
                compare(f"tiles {name}, nanoVLM", files, ours, peer, args.repeats, ">= 1")


def library_call(processor: Any) -> Callable[[Any], Any]:
    return lambda image: processor(image, return_tensors="np")


if __name__ == "__main__":
    main()
