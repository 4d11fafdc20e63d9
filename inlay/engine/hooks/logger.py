"""The console line and the record behind it."""

from __future__ import annotations

import datetime
import math
import resource
import sys
from collections import deque
from typing import Any

import torch

from inlay.engine.hooks.base import Hook

OWN = {"train/time", "train/data_time", "train/loss", "train/lr"}
SHOWN = frozenset(
    [
        "iter",
        "update",
        "epoch",
        "loss",
        "lr",
        "grad_norm",
        "tokens",
        "samples",
        "time",
        "data_time",
        "memory",
        "tokens_per_sec",
        "step",
    ]
)
"""Keys of a record that have their place in the line, or none."""


class LoggerHook(Hook):
    """Logs every ``interval`` iterations: means since the last line, over all ranks.

    The loss is the sum over all trained units since the last line, divided by their number. What
    has not been logged yet is kept in checkpoints, so that a resumed run logs the same lines.

    Args:
        interval: iterations between two lines.
        log_metric_by_epoch: show progress as ``Epoch(train) [epoch][iter/iters]``.
    """

    priority = "BELOW_NORMAL"

    def __init__(self, interval: int = 10, log_metric_by_epoch: bool = False) -> None:
        self.interval = interval
        self.log_metric_by_epoch = log_metric_by_epoch
        self._pending: deque[tuple[int, Any, int]] = deque()
        self._metrics: dict[str, list[Any]] = {}
        self._tokens = 0

    def after_load_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        ranks = checkpoint.get("logger", ())
        if len(ranks) == runner.world_size:
            rows = ranks[runner.rank]
        else:
            rows = [row for rank in ranks for row in rank] if runner.rank == 0 else []
        self._pending = deque(tuple(row) for row in rows)

    def before_save_checkpoint(self, runner: Any, checkpoint: dict[str, Any]) -> None:
        start = runner.window_start
        done = start.state.iter if start else runner.state.iter
        # An iteration at a logged boundary is on its way to the log, not pending.
        boundary = done - done % self.interval
        rows = [[i, float(loss), units] for i, loss, units in self._pending if boundary <= i < done]
        checkpoint["logger"] = runner.strategy.gather(rows)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self._pending.append((runner.iter, outputs.loss_sum.detach(), outputs.loss_units))
        self._tokens += data_batch.num_tokens
        for key, value in outputs.metrics.items():
            self._metrics.setdefault(key, []).append(value.detach())
        if self.every_n_train_iters(runner, self.interval) or self.is_last_train_iter(runner):
            self._log(runner)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float]) -> None:
        self._log_evaluation(runner, "val", metrics)

    def after_test_epoch(self, runner: Any, metrics: dict[str, float]) -> None:
        self._log_evaluation(runner, "test", metrics)

    def _log(self, runner: Any) -> None:
        record = self._record(runner)
        hub = runner.message_hub
        hub.update_scalar("train/loss", record["loss"])
        hub.update_scalar("train/lr", record["lr"])
        if runner.rank == 0:
            runner.logger.info(self._line(runner, record))
            runner.track(record)

    def _record(self, runner: Any) -> dict[str, Any]:
        """All that is logged about the iterations since the last line."""
        hub, count = runner.message_hub, self.interval
        sums = torch.tensor(
            [
                sum(_floats([loss for _, loss, _ in self._pending])),
                sum(units for _, _, units in self._pending),
                self._tokens,
            ],
            dtype=torch.float64,
        )
        local = max(len(self._pending), 1)
        loss_sum, units, tokens = runner.strategy.sum(sums).tolist()
        runner.sync_counts()
        scalars = hub.log_scalars
        seconds = scalars["train/time"].mean(count) if "train/time" in scalars else 0.0
        data = scalars["train/data_time"].mean(count) if "train/data_time" in scalars else 0.0
        state, rates = runner.state, runner.rates(runner.iter)
        record = {
            "iter": state.iter,
            "update": state.update,
            "epoch": runner.epoch + 1,
            "loss": loss_sum / max(units, 1),
            "lr": rates[0],
            "grad_norm": state.grad_norm,
            "tokens": state.tokens,
            "samples": state.samples,
            "time": seconds,
            "data_time": data,
            "memory": peak_memory(runner.strategy.device),
            "tokens_per_sec": tokens / (seconds * local) if seconds else 0.0,
            "step": state.iter,
        }
        if len(rates) > 1:
            record |= {f"lr/{name}": r for name, r in zip(runner.group_names, rates, strict=True)}
        for key, values in self._metrics.items():
            record[key] = float(torch.stack(values).float().mean())
        for key, history in scalars.items():
            if key.startswith("train/") and key not in OWN:
                record.setdefault(key.removeprefix("train/"), history.current())
        self._pending.clear()
        self._metrics, self._tokens = {}, 0
        return record

    def _line(self, runner: Any, record: dict[str, Any]) -> str:
        """The line in the originals' layout."""
        width = len(str(runner.max_iters))
        if self.log_metric_by_epoch:
            size = runner.iters_per_epoch
            inner = runner.iter % size + 1
            place = f"Epoch(train) [{record['epoch']}][{inner:{len(str(size))}d}/{size}]"
        else:
            place = f"Iter(train) [{record['iter']:{width}d}/{runner.max_iters}]"
        left = (runner.max_iters - record["iter"]) * record["time"]
        norm = math.nan if record["grad_norm"] is None else record["grad_norm"]
        eta = datetime.timedelta(seconds=int(left))
        shown = (
            f"{place}  lr: {record['lr']:.4e}  eta: {eta}  time: {record['time']:.4f}  "
            f"data_time: {record['data_time']:.4f}  memory: {record['memory']}  "
            f"grad_norm: {norm:.4f}  loss: {record['loss']:.4f}  "
            f"tokens/s: {record['tokens_per_sec']:.0f}"
        )
        others = {k: v for k, v in record.items() if k not in SHOWN and not k.startswith("lr/")}
        return shown + "".join(f"  {k}: {v:.4f}" for k, v in others.items())

    def _log_evaluation(self, runner: Any, mode: str, metrics: dict[str, float]) -> None:
        if runner.rank != 0:
            return
        loader = runner.val_dataloader if mode == "val" else runner.test_dataloader
        size = loader.iters_per_epoch  # a stream's is not known
        place = f"Iter({mode}) [{size}/{size}]" if size else f"Iter({mode})"
        shown = {k: f"{v:.4f}" if isinstance(v, float) else v for k, v in metrics.items()}
        text = "  ".join(f"{k}: {v}" for k, v in shown.items())
        runner.logger.info(f"{place}  {text}")
        state = runner.state
        runner.track(
            {"iter": state.iter, "step": state.iter, "epoch": runner.epoch + 1}
            | {f"{mode}/{k}": v for k, v in metrics.items()}
        )


def _floats(values: list[Any]) -> list[float]:
    """Return numbers and scalar tensors as numbers; tensors are read from the device at once."""
    tensors = [v for v in values if isinstance(v, torch.Tensor)]
    read = iter(torch.stack(tensors).tolist() if tensors else [])
    return [next(read) if isinstance(v, torch.Tensor) else float(v) for v in values]


def peak_memory(device: torch.device) -> int:
    """Peak memory of this process in MB: of the GPU, or resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) >> 20
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit >> 20
