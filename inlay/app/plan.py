"""`inlay plan`: what a run will do, in numbers, before it starts."""

from __future__ import annotations

from typing import Any

from inlay.app.assemble import Parts
from inlay.app.curve import draw
from inlay.app.duration import describe_time
from inlay.app.memory.estimate import checkpoint_bytes, estimate, meta_model
from inlay.core.errors import ModelError
from inlay.engine.groups import own
from inlay.engine.schedule import Clock, learning_rate


def make_plan(cfg: Any, devices: int = 1) -> dict[str, Any]:
    """Build the data, not the weights, and count.

    Returns:
        JSON values: samples, tokens, masks, pictures, iterations, updates, batch sizes, warm-up,
        checkpoints, memory (bytes; or ``memory_unknown``, why there is no estimate), ``lr_curve``
        as ``[iteration, rate]`` pairs.
    """
    parts = Parts(cfg, seed=0)
    loader = parts.loader("train")
    loop, (optim, make, settings) = parts.train_loop(), parts.optim()
    plan = count(cfg, loader, loop, optim.accumulative_counts, devices)
    if loader.iters_per_epoch is not None:
        plan |= _data_counts(loader.dataset)
    rates = [rate for rate in optim.rates.lr_groups.values() if rate > 0]
    lr = rates[0] if rates else own(make, settings, "lr")
    length = plan["iterations_per_epoch"], plan["iterations"], optim.accumulative_counts
    schedules = parts.schedules()
    plan["lr_curve"] = _curve(lr, schedules, length)
    plan["warmup_iterations"] = _warmup(lr, schedules, length)
    plan |= _memory(cfg, plan)
    return plan


def count(cfg: Any, loader: Any, loop: Any, accumulate: int, devices: int) -> dict[str, Any]:
    """Count iterations, updates, validations and checkpoints of a run on ``devices`` devices."""
    batch = loader.batch_size
    if loader.iters_per_epoch is None:
        per_epoch = loop.max_iters
    else:
        per_epoch = -(-len(loader.dataset) // (batch * devices))
    total = loop.max_iters or loop.max_epochs * per_epoch
    return {
        "devices": devices,
        "batch_size": batch,
        "accumulative_counts": accumulate,
        "effective_batch_size": batch * devices * accumulate,
        "iterations_per_epoch": per_epoch,
        "updates_per_epoch": -(-per_epoch // accumulate),
        "epochs": total / per_epoch,
        "iterations": total,
        "updates": Clock(0, per_epoch, total, accumulate).total_updates,
        "validations": _validations(loop, total, per_epoch) if cfg.get("val_dataloader") else 0,
        "checkpoints": _checkpoints(cfg, total, per_epoch),
    }


def counts_masks(dataset: Any) -> bool:
    """Whether the loss units of a data set are masks, and not trained tokens."""
    from inlay.data import GroundingDataset

    return isinstance(dataset, GroundingDataset)


def _data_counts(dataset: Any) -> dict[str, Any]:
    units = int(dataset.loss_units.sum())
    tokens = int(dataset.lengths.sum())
    counts = {
        "samples": int(dataset.num_samples.sum()),
        "items": len(dataset),
        "tokens": tokens,
        "masks" if counts_masks(dataset) else "trained_tokens": units,
        "tokens_per_item": tokens / len(dataset),
    }
    pictures = getattr(dataset, "num_images", None)
    if pictures is not None and pictures.any():
        counts |= {"pictures": int(pictures.sum()), "tiles": int(dataset.tiles.sum())}
    return counts


def _validations(loop: Any, total: int, per_epoch: int) -> int:
    """Passes over the held-out data: at intervals, at the end, and, if asked for, at the start."""
    span, unit = (total // per_epoch, per_epoch) if loop.by_epoch else (total, 1)
    due = [i for i in range(loop.val_interval, span + 1, loop.val_interval) if i >= loop.val_begin]
    at_end = bool(due) and due[-1] * unit == total
    return len(due) + (not at_end) + (loop.val_begin == 0)


def _checkpoints(cfg: Any, total: int, per_epoch: int) -> dict[str, Any]:
    node = dict((cfg.get("default_hooks") or {}).get("checkpoint") or {})
    interval, by_epoch = node.get("interval", -1), node.get("by_epoch", True)
    span = -(-total // per_epoch) if by_epoch else total
    written = 0 if not node else (span // interval if interval > 0 else 0)
    if node and (interval <= 0 or span % interval):
        written += 1
    keep = node.get("max_keep_ckpts", -1)
    return {"written": written, "kept": min(written, keep) if keep > 0 else written}


def _curve(lr: float, schedules: list[Any], length: tuple[int, int, int]) -> list[list[float]]:
    total = length[1]
    points = sorted({*range(0, total, max(1, total // 500)), total - 1})
    return [[i, learning_rate(lr, schedules, i, *length)] for i in points]


def _warmup(lr: float, schedules: list[Any], length: tuple[int, int, int]) -> int:
    """Iterations before the rate first reaches its peak, when it starts below it."""
    tried = range(min(length[1], 100_000))
    values = [learning_rate(lr, schedules, i, *length) for i in tried]
    peak = max(values)
    return values.index(peak) if values and values[0] < peak else 0


def _memory(cfg: Any, plan: dict[str, Any]) -> dict[str, Any]:
    try:
        model = meta_model(cfg)
    except ModelError as error:
        return {"memory_unknown": str(error)}
    if model is None:
        return {"memory_unknown": "the model does not say its base"}
    node = cfg["train_dataloader"]["dataset"]
    longest = node.get("max_length", 2048)
    per_item = longest if node.get("pack_to_max_length", True) else plan.get("tokens_per_item", 0)
    share = plan.get("trained_tokens", 1) / max(plan.get("tokens", 1), 1)
    tiles = plan.get("tiles", 0) / plan.get("items", 1) * plan["batch_size"]
    plan["checkpoints"]["bytes_each"] = checkpoint_bytes(cfg, model)
    tokens = int(min(per_item, plan.get("tokens_per_item", per_item)) * plan["batch_size"])
    return {"memory": estimate(cfg, model, tokens, share, tiles)}


def describe(plan: dict[str, Any]) -> str:
    """The plan as text."""
    lines = _describe_data(plan) if "samples" in plan else []
    lines += [
        f"batch         {plan['batch_size']} per device x {plan['devices']} device(s) x "
        f"{plan['accumulative_counts']} accumulated = {plan['effective_batch_size']} effective",
        f"an epoch      {plan['iterations_per_epoch']:,} iterations, "
        f"{plan['updates_per_epoch']:,} updates",
        f"the run       {plan['epochs']:.3g} epochs, {plan['iterations']:,} iterations, "
        f"{plan['updates']:,} updates, warm-up {plan['warmup_iterations']:,} iterations",
    ]
    saves = plan["checkpoints"]
    size = f", {_bytes(saves['bytes_each'])} each" if "bytes_each" in saves else ""
    lines.append(f"checkpoints   {saves['written']} written, {saves['kept']} kept{size}")
    lines += _describe_memory(plan)
    if "time" in plan:
        lines.append(f"time          {describe_time(plan['time'])}")
    rates = [rate for _, rate in plan["lr_curve"]]
    curve = draw(rates, f"{plan['iterations']:,} iterations")
    return "\n".join([*lines, "", "learning rate", curve])


def _describe_data(plan: dict[str, Any]) -> list[str]:
    if "masks" in plan:
        learned = f", {plan['masks']:,} masks"
    else:
        learned = f" ({plan['trained_tokens'] / plan['tokens']:.0%} trained)"
    lines = [
        f"data          {plan['samples']:,} samples, {plan['tokens']:,} tokens{learned}, "
        f"{plan['items']:,} items"
    ]
    if "pictures" in plan:
        lines.append(f"pictures      {plan['pictures']:,}, {plan['tiles']:,} tiles")
    return lines


def _describe_memory(plan: dict[str, Any]) -> list[str]:
    if "memory" not in plan:
        why = plan["memory_unknown"]
        return [f"memory        cannot be estimated ({why}); `inlay memory` measures it"]
    parts = plan["memory"]
    named = ("weights", "gradients", "optimizer", "activations", "logits")
    detail = ", ".join(f"{k} {_bytes(parts[k])}" for k in named)
    return [
        f"parameters    {parts['parameters']:,.0f}, {parts['trained']:,.0f} trained",
        f"memory        about {_bytes(parts['total'])} per device ({detail})",
    ]


def _bytes(count: float) -> str:
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KB", "MB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} GB"
