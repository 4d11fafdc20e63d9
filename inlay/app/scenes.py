"""`inlay scenes`: pictures of shapes with text and masks, and backbones to train on them."""

from __future__ import annotations

from pathlib import Path

from inlay.core.errors import InlayError
from inlay.data.scenes.build import TEST_SPLITS, write
from inlay.data.scenes.draw import SIZE

MODEL, SAM = "model", "sam"
TEST_COUNT = 500


def make_scenes(folder: Path, count: int, seed: int) -> list[Path]:
    """Write the data sets of the scenes, and random backbones.

    Args:
        folder: new; gets ``train.jsonl`` with ``count`` rows, a file of ``TEST_COUNT`` rows for
            each of ``TEST_SPLITS``, ``images/``, and random weights to begin with: ``model/`` and
            ``sam/``.
        seed: of everything drawn by lot; test sets have seeds of their own.

    Returns:
        What was written.

    Raises:
        InlayError: ``folder`` exists, or ``count`` is not positive.
    """
    from inlay.data.scenes.words import scene_tokenizer
    from inlay.models.tiny import write_tiny_backbones, write_tiny_sam

    if folder.exists():
        raise InlayError(f"{folder} exists. Choose another folder, or remove it")
    if count < 1:
        raise InlayError(f"--count must be at least 1, found {count}")
    written = [write(folder, "train", count, seed)]
    written += [write(folder, split, min(count, TEST_COUNT), seed) for split in TEST_SPLITS]
    write_tiny_backbones(folder / MODEL, scene_tokenizer(), SIZE, seed=seed)
    write_tiny_sam(folder / SAM, SIZE, seed=seed)
    return [*written, folder / MODEL, folder / SAM]
