"""How large the cache of a grounding run becomes: told, and held against the disk, beforehand."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from inlay.core.errors import ConfigError
from inlay.data.grounding.dataset import GroundingDataset
from inlay.models.grounding.cache import num_bytes

if TYPE_CHECKING:
    from inlay.engine.runner import Runner

log = logging.getLogger("inlay")
MEASURED = 32
"""Items, evenly spread over a data set, whose texts are counted."""


def check_room(runner: Runner) -> None:
    """Log what the cache of the run's model will hold, if it has one.

    Pictures are counted by their files, texts by the captions of all epochs of the run: a picture
    or a text that occurs in two places is kept once, so that there may be fewer.

    Raises:
        ConfigError: it does not fit on the disk.
    """
    cache = getattr(runner.model, "cache", None)
    loaders = [runner.train_dataloader, runner.val_dataloader]
    datasets = [loader.dataset for loader in loaders if loader is not None]
    if cache is None or not all(isinstance(data, GroundingDataset) for data in datasets):
        return
    if not cache.kinds:
        log.warning(
            "cache: %s keeps nothing: no frozen encoder of pictures, no texts", cache.folder
        )
        return
    epochs = [runner.max_epochs, 1]
    parts, missing = [], {}
    if "image" in cache.kinds:
        count, size = sum(map(_num_pictures, datasets)), _picture_bytes(runner)
        missing["image"] = max(count * size - cache.kept_bytes("image"), 0)
        parts.append(f"{count:,} pictures of {_readable(size)}")
    if "text" in cache.kinds:
        counts = [_texts(runner.model, *pair) for pair in zip(datasets, epochs, strict=False)]
        count, total = (sum(column) for column in zip(*counts, strict=True))
        missing["text"] = max(total - cache.kept_bytes("text"), 0)
        parts.append(f"{count:,} texts of {_readable(total / count)}")
    free, needed = cache.free_bytes(), sum(missing.values())
    log.info(
        "cache: up to %s in %s: %s are still to be written, %s are free",
        " and ".join(parts),
        cache.folder,
        _readable(needed),
        _readable(free),
    )
    if needed > free:
        raise ConfigError(_no_room(cache, parts, missing, free))


def _num_pictures(dataset: Any) -> int:
    """Picture files of a data set."""
    files = {s.files.place(entry.image) for s in dataset.sources for entry in s.entries}
    return min(len(files), len(dataset))


def _picture_bytes(runner: Runner) -> int:
    """Bytes of an embedding, from a blank picture in the run's precision."""
    model: Any = runner.model
    side, strategy = model.refiner.picture_size, runner.strategy
    blank = torch.zeros(3, side, side, dtype=torch.uint8)
    lower = torch.autocast(
        strategy.device.type, dtype=strategy.dtype, enabled=strategy.dtype is not None
    )
    with torch.no_grad(), lower:
        (made,) = model.refiner.embed([blank])
    return num_bytes(made)


def _texts(model: Any, dataset: Any, epochs: int) -> tuple[int, int]:
    """Captions that a data set has in so many epochs, and the bytes of all."""
    captions = np.minimum(dataset.periods, epochs)
    places = np.unique(np.linspace(0, len(dataset) - 1, MEASURED).astype(int)).tolist()
    # One item is seen with its first caption, the next one with its second, ...
    items = [dataset.item(i, 0, n % int(captions[i])) for n, i in enumerate(places)]
    size = np.mean([_text_bytes(model, item) for item in items])
    return int(captions.sum()), int(size * captions.sum())


def _text_bytes(model: Any, item: Any) -> int:
    named = item.tokens.mask_ids >= 0
    tokens = len(named) if model.selector is not None else int(named.sum())
    return model.text_bytes(item.views, len(item.masks), tokens)


def _no_room(cache: Any, parts: list[str], missing: dict[str, int], free: int) -> str:
    needed = sum(missing.values())
    hints = ["name a folder on a larger disk (cache_dir)"]
    if len(missing) > 1 and missing["image"] <= free:
        hints.append(f"keep pictures alone, {_readable(missing['image'])} (cache_texts=False)")
    return (
        f"the cache does not fit: {' and '.join(parts)} in {cache.folder} take {_readable(needed)} "
        f"more, {_readable(free)} are free. Either {', '.join(hints)}, or keep nothing "
        "(cache_dir=None)"
    )


def _readable(count: float) -> str:
    """Bytes with three digits and a unit."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
