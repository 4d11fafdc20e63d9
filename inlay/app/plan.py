"""`inlay plan`: what a run will do, in numbers, before it starts."""

from __future__ import annotations

from typing import Any

from inlay.app.assemble import Parts
from inlay.app.curve import draw
from inlay.app.memory import checkpoint_bytes, estimate, meta_model
from inlay.engine.schedule import learning_rate


def make_plan(cfg: Any, devices: int = 1) -> dict[str, Any]:
    """Build the data, not the weights, and count.

    Returns:
        JSON values: samples, tokens, iterations, updates, batch sizes, warm-up, checkpoints,
        memory (bytes), ``lr_curve`` as ``[iteration, rate]`` pairs.
    """
    parts = Parts(cfg, seed=0)
    loader = parts.loader("train")
    loop, (optim, _, settings) = parts.train_loop(), parts.optim()
    dataset, batch = loader.dataset, loader.batch_size
    accumulate = optim.accumulative_counts
    plan: dict[str, Any] = {
        "devices": devices,
        "batch_size": batch,
        "accumulative_counts": accumulate,
        "effective_batch_size": batch * devices * accumulate,
    }
    if loader.iters_per_epoch is None:
        per_epoch = loop.max_iters
    else:
        per_epoch = -(-len(dataset) // (batch * devices))
        plan |= _data_counts(dataset)
    total = loop.max_iters or loop.max_epochs * per_epoch
    plan |= {
        "iterations_per_epoch": per_epoch,
        "updates_per_epoch": -(-per_epoch // accumulate),
        "epochs": total / per_epoch,
        "iterations": total,
        "updates": _updates(total, per_epoch, accumulate),
        "checkpoints": _checkpoints(cfg, total, per_epoch),
    }
    schedules = parts.schedules()
    plan["lr_curve"] = _curve(settings["lr"], schedules, per_epoch, total)
    plan["warmup_iterations"] = _warmup(settings["lr"], schedules, per_epoch, total)
    plan |= _memory(cfg, plan)
    return plan


def _data_counts(dataset: Any) -> dict[str, Any]:
    units = int(dataset.loss_units.sum())
    tokens = int(dataset.lengths.sum())
    return {
        "samples": int(dataset.num_samples.sum()),
        "items": len(dataset),
        "tokens": tokens,
        "trained_tokens": units,
        "tokens_per_item": tokens / len(dataset),
    }


def _updates(total: int, per_epoch: int, accumulate: int) -> int:
    """Every epoch ends with its own, perhaps short, window."""
    whole, rest = divmod(total, per_epoch)
    return whole * -(-per_epoch // accumulate) + -(-rest // accumulate)


def _checkpoints(cfg: Any, total: int, per_epoch: int) -> dict[str, Any]:
    node = dict((cfg.get("default_hooks") or {}).get("checkpoint") or {})
    interval, by_epoch = node.get("interval", -1), node.get("by_epoch", True)
    span = -(-total // per_epoch) if by_epoch else total
    written = 0 if not node else (span // interval if interval > 0 else 0)
    if node and (interval <= 0 or span % interval):
        written += 1
    keep = node.get("max_keep_ckpts", -1)
    return {"written": written, "kept": min(written, keep) if keep > 0 else written}


def _curve(lr: float, schedules: list[Any], per_epoch: int, total: int) -> list[list[float]]:
    step = max(1, total // 500)
    points = sorted({*range(0, total, step), total - 1})
    return [[i, learning_rate(lr, schedules, i, per_epoch, total)] for i in points]


def _warmup(lr: float, schedules: list[Any], per_epoch: int, total: int) -> int:
    """Iterations before the rate first reaches its peak, when it starts below it."""
    values = [learning_rate(lr, schedules, i, per_epoch, total) for i in range(min(total, 100_000))]
    peak = max(values)
    return values.index(peak) if values and values[0] < peak else 0


def _memory(cfg: Any, plan: dict[str, Any]) -> dict[str, Any]:
    llm = meta_model(cfg)
    if llm is None:
        return {}
    node = cfg["train_dataloader"]["dataset"]
    longest = node.get("max_length", 2048)
    per_item = longest if node.get("pack_to_max_length", True) else plan["tokens_per_item"]
    share = plan.get("trained_tokens", 1) / max(plan.get("tokens", 1), 1)
    plan["checkpoints"]["bytes_each"] = checkpoint_bytes(cfg, llm)
    tokens = int(min(per_item, plan.get("tokens_per_item", per_item)) * plan["batch_size"])
    return {"memory": estimate(cfg, llm, tokens, share)}


def describe(plan: dict[str, Any]) -> str:
    """The plan as text."""
    lines = []
    if "samples" in plan:
        share = plan["trained_tokens"] / plan["tokens"]
        lines.append(
            f"data          {plan['samples']:,} samples, {plan['tokens']:,} tokens "
            f"({share:.0%} trained), {plan['items']:,} items"
        )
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
    if "memory" in plan:
        parts = plan["memory"]
        lines.append(f"parameters    {parts['parameters']:,.0f}, {parts['trained']:,.0f} trained")
        named = ("weights", "gradients", "optimizer", "activations", "logits")
        detail = ", ".join(f"{k} {_bytes(parts[k])}" for k in named)
        lines.append(f"memory        about {_bytes(parts['total'])} per device ({detail})")
    rates = [rate for _, rate in plan["lr_curve"]]
    curve = draw(rates, f"{plan['iterations']:,} iterations")
    return "\n".join([*lines, "", "learning rate", curve])


def _bytes(count: float) -> str:
    if count < 1024:
        return f"{count:.0f} B"
    for unit in ("KB", "MB"):
        count /= 1024
        if count < 1024:
            return f"{count:.1f} {unit}"
    return f"{count / 1024:.1f} GB"
