"""How a run that needs too much memory goes on with less: settings, and the command to type."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlay.app.memory.shortage import Moment, unused_memory
from inlay.config.load import load_config
from inlay.core import dist
from inlay.engine import checkpoint as ckpt

if TYPE_CHECKING:
    from inlay.app.train import TrainOptions

BATCH = ("train_dataloader", "batch_size")
ACCUMULATE = ("optim_wrapper", "accumulative_counts")
SETTINGS = {
    BATCH: ("batch_size",),
    ACCUMULATE: ("accumulative_counts", "gradient_accumulation_steps"),
}
"""Places of a config, and what PART 1 calls them: everything else that depends on a setting there
follows it."""
RECOMPUTE = "use_activation_checkpointing"


def advise(
    config: str,
    options: TrainOptions,
    cfg: Any,
    work_dir: Path,
    moment: Moment,
    shortage: BaseException,
) -> str:
    """Return the commands that continue the run with less memory, and what else would help."""
    lines: list[str] = []
    if moment.runner is not None:
        lines = _with_less(config, options, cfg, work_dir)
    lines += ["What else needs less:" if lines else "What needs less:"]
    lines += [f"  - {text}" for text in _measures(options, cfg, moment, shortage)]
    return "\n".join(lines)


def _with_less(config: str, options: TrainOptions, cfg: Any, work_dir: Path) -> list[str]:
    """The commands that go on with the same run, the one nearest to it first."""
    batch, accumulate = _sizes(cfg)
    saved = ckpt.list_checkpoints(work_dir)
    ways = [
        (
            f"{size} x {count} in place of {batch} x {accumulate} (batch_size x "
            "accumulative_counts, an equal product):",
            spell(config, options.cfg_options, cfg, size, count),
        )
        for size, count in equal_products(batch, accumulate)
    ]
    if not ways and _keeps_activations(cfg):
        ways = [("With activations computed anew in backward:", [f"model.{RECOMPUTE}=True"])]
    lines = []
    for what, settings in ways or [("batch_size is 1 already. Where there is more room:", [])]:
        lines += [what, f"  {resume_command(config, options, work_dir, settings, saved)}"]
    source = saved[-1].name if saved else options.resume
    start = "It starts anew: there is no checkpoint yet."
    return [*lines, f"It goes on from {source}." if source not in (None, "auto") else start, ""]


def _keeps_activations(cfg: Any) -> bool:
    return cfg["model"].get(RECOMPUTE) is False


def _sizes(cfg: Any) -> tuple[int, int]:
    """Batch size and accumulation of a config."""
    batch, accumulate = (cfg[group].get(key, 1) for group, key in (BATCH, ACCUMULATE))
    return batch, accumulate


def equal_products(batch: int, accumulate: int) -> list[tuple[int, int]]:
    """Return smaller batches with the accumulation that makes the same product.

    The largest one of half the size or less, and 1; none for a batch of 1.
    """
    product = batch * accumulate
    sizes = [n for n in range(1, batch // 2 + 1) if product % n == 0]
    return [(n, product // n) for n in dict.fromkeys(reversed(sizes[:1] + sizes[-1:]))]


def spell(config: str, given: Sequence[str], cfg: Any, size: int, count: int) -> list[str]:
    """Return ``KEY=VALUE`` words that set batch size and accumulation, and keep the run's length.

    PART 1's names where they reach both places, since intervals may depend on them.
    """
    wanted = {BATCH: size, ACCUMULATE: count}
    names = [
        f"{next((n for n in SETTINGS[place] if n in cfg), '.'.join(place))}={value}"
        for place, value in wanted.items()
    ]
    changed = _reloaded(config, merge(given, names))
    if changed is None or _sizes(changed) != (size, count):
        names = [f"{'.'.join(place)}={value}" for place, value in wanted.items()]
        changed = cfg
    length = cfg["train_cfg"].get("max_iters")
    if length is None or changed["train_cfg"].get("max_iters") != length:
        return names
    # Counted in micro-batches, which are smaller now.
    before, _ = _sizes(cfg)
    name = "max_iters" if cfg.get("max_iters") == length else "train_cfg.max_iters"
    return [*names, f"{name}={math.ceil(length * before / size)}"]


def _reloaded(config: str, options: Sequence[str]) -> Any:
    try:
        return load_config(config, options)
    except Exception:  # memory is short: whatever fails here must not hide the message
        return None


def merge(given: Sequence[str], new: Sequence[str]) -> list[str]:
    """Join ``KEY=VALUE`` words; a new value of a key takes the place of the one given."""
    keys = {word.partition("=")[0] for word in new}
    return [*(word for word in given if word.partition("=")[0] not in keys), *new]


def resume_command(
    config: str, options: TrainOptions, work_dir: Path, settings: Sequence[str], saved: list[Path]
) -> str:
    """Return the command that goes on with this run under other settings."""
    words = ["inlay", "train", config, "--work-dir", str(work_dir), "--resume"]
    if not saved and options.resume not in (None, "auto"):
        words += [options.resume]
    if dist.world_size() > 1 and os.environ.get("LOCAL_WORLD_SIZE") == str(dist.world_size()):
        words += ["--gpus", str(dist.world_size())]
    if options.seed is not None:
        words += ["--seed", str(options.seed)]
    if isinstance(options.strategy, str):
        words += ["--strategy", options.strategy]
    elif options.strategy:
        words += ["--deepspeed", options.strategy["config"]]
    if options.track:
        words += ["--track", ",".join(options.track)]
    if options.allow_change:
        words += ["--allow-change", *options.allow_change]
    if all_settings := merge(options.cfg_options, settings):
        words += ["--cfg-options", *all_settings]
    return shlex.join(words)


def _measures(
    options: TrainOptions, cfg: Any, moment: Moment, shortage: BaseException
) -> list[str]:
    """What else helps: what the same run may take on first, what makes a new run last."""
    found = []
    if unused := unused_memory(shortage):
        found.append(
            f"PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True in front: torch held {unused:g} GiB "
            "in pieces that it could not use"
        )
    if _keeps_activations(cfg) and equal_products(*_sizes(cfg)):  # else it is the first advice
        found.append(f"model.{RECOMPUTE}=True: the same losses, a third more compute")
    if moment.phase == "validation" and (cfg["val_dataloader"].get("batch_size", 1) > 1):
        found.append("val_dataloader.batch_size=1: it was the validation that found no room")
    if "CUDA" in str(shortage) and cfg["optim_wrapper"].get("dtype") in (None, "float32"):
        found.append('optim_wrapper.dtype="bfloat16": activations of half the size')
    found += _shared_out(options.strategy or cfg.get("strategy"))
    found += _new_runs(cfg)
    return [*found, "`inlay memory CONFIG` measures which batch sizes fit"]


def _shared_out(strategy: Any) -> list[str]:
    """Strategies that hold less on each device, where there are several."""
    import torch

    devices = max(torch.cuda.device_count(), dist.world_size())
    if devices < 2:
        return []
    if strategy in (None, "ddp"):
        return [
            f"--gpus {devices} --strategy fsdp or --deepspeed deepspeed_zero3: each of the "
            f"{devices} devices holds a part of weights, gradients and optimizer state (keep "
            "batch_size x devices x accumulative_counts)"
        ]
    return ["--deepspeed deepspeed_zero3_offload: weights and optimizer state on the host"]


def _new_runs(cfg: Any) -> list[str]:
    """Settings that cannot change in the middle of a run."""
    data, model = cfg["train_dataloader"]["dataset"], cfg["model"]
    base = model.get("llm") or model.get("vlm") or {}
    found = []
    if length := data.get("max_length"):
        packed = data.get("pack_to_max_length", True)
        what = "a row holds batch_size packs of it" if packed else "longer samples are cut"
        key = "max_length" if cfg.get("max_length") == length else "the data set's max_length"
        found.append(f"{key}={length // 2} ({length} now; {what}): a new run")
    if not (isinstance(base, dict) and base.get("quantization_config")):
        name = "QLoRA" if model.get("lora") or model.get("llm_lora") else "LoRA or QLoRA"
        found.append(f"{name} (`inlay list-cfg -p lora`): a new run")
    return found
