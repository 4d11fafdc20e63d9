"""The runner: holds what a run is made of and is what hooks see."""

from __future__ import annotations

import logging
import signal
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inlay.core.errors import DataError
from inlay.core.types import Loader
from inlay.engine import checkpoint as ckpt
from inlay.engine import loop as loop_module
from inlay.engine import rng, snapshot
from inlay.engine.hooks.base import HookList
from inlay.engine.mmengine_names import MMEngineNames
from inlay.engine.optim import trainable
from inlay.engine.parallel.single import SingleDevice
from inlay.engine.schedule import AnySchedule, learning_rate
from inlay.engine.settings import OptimWrapper, TrainLoop
from inlay.engine.state import MessageHub, RunState, StepTimes
from inlay.engine.trackers.local import save_pictures

EXIT_CODES = {"SIGTERM": 143, "SIGINT": 130}


class Runner(MMEngineNames):
    """One run: model, data, optimizer, schedules, hooks, and where it stands.

    Args:
        model: ``forward(**batch.inputs) -> StepOutput``.
        strategy: who owns devices and ranks.
        optimizer: over the trainable parameters of ``model``, in their order.
        schedules: applied one after another to the optimizer's own rate.
        train_loader, val_loader, test_loader: see ``core.types.Loader``.
        loop, optim: settings of PART 4.
        hooks: in the order in which they are called.
        work_dir: where checkpoints go. log_dir: this start's folder in it.
        cfg: the config, for hooks; the engine does not read it.
        config_text: resolved config file, kept in every checkpoint.
        identity: fingerprints that a resumed run must find unchanged.
        seed: of data order and dropout.
        trackers: take the records that hooks log.
        run_name: what the run is called in its records; None: by its folders.
        run_id: of the run over all its starts, for trackers.

    Attributes:
        held: names of checkpoints that must not be deleted yet.
        last_saved: iteration of the last checkpoint of this start; None before the first.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        strategy: SingleDevice,
        optimizer: Any = None,
        schedules: list[AnySchedule] | None = None,
        train_loader: Loader | None = None,
        val_loader: Loader | None = None,
        test_loader: Loader | None = None,
        loop: TrainLoop,
        optim: OptimWrapper,
        hooks: list[Any],
        work_dir: Path,
        log_dir: Path | None = None,
        logger: logging.Logger | None = None,
        cfg: Any = None,
        config_text: str = "",
        identity: dict[str, str] | None = None,
        seed: int = 0,
        trackers: list[Any] | None = None,
        run_name: str | None = None,
        run_id: str | None = None,
    ) -> None:
        self.model = model
        self.strategy = strategy
        self.optimizer = optimizer
        self.wrapped = strategy.prepare(model, optimizer) if optimizer else model
        self.schedules = schedules or []
        self.train_dataloader: Any = train_loader
        self.val_dataloader: Any = val_loader
        self.test_dataloader: Any = test_loader
        self.loop, self.optim = loop, optim
        self.work_dir = Path(work_dir)
        self.log_dir = Path(log_dir) if log_dir else self.work_dir
        self.logger = logger or logging.getLogger("inlay")
        self.cfg, self.config_text = cfg, config_text
        self.identity = identity or {}
        self.seed = seed
        self.trackers = trackers or []
        self.run_name, self.run_id = run_name, run_id
        self.state = RunState()
        self.message_hub = MessageHub()
        self.hooks_list = HookList(hooks)
        self.hooks = self.hooks_list.hooks
        self.named_parameters = trainable(model)
        self.parameters = list(self.named_parameters.values())
        groups = optimizer.param_groups if optimizer else []
        self.base_lrs = [g["lr"] for g in groups]
        self.group_names = [g.get("name", "rest") for g in groups]
        self.pending = [0, 0]
        self.times = StepTimes()
        self.current_iter = 0
        self.shown_epoch: int | None = None
        self.window_start: loop_module.WindowStart | None = None
        self.held: set[str] = set()
        self.stop_reason: str | None = None
        self._asked: str | None = None
        self._random: dict[str, Any] = {}
        self.last_saved: int | None = None

    # -- what hooks read ---------------------------------------------------------------------

    @property
    def iter(self) -> int:
        """Index of the current iteration, from 0; after training, the number of iterations."""
        return self.current_iter

    @property
    def epoch(self) -> int:
        """Index of the current epoch, from 0."""
        return self.state.epoch if self.shown_epoch is None else self.shown_epoch

    @property
    def iters_per_epoch(self) -> int:
        """Micro-batches of one epoch; for a stream, of the whole run."""
        count = self.train_dataloader.iters_per_epoch if self.train_dataloader else 1
        return count or self.loop.max_iters or 1

    @property
    def max_iters(self) -> int:
        """Micro-batches of the run, per device."""
        if self.loop.max_iters is not None:
            return self.loop.max_iters
        return (self.loop.max_epochs or 0) * self.iters_per_epoch

    @property
    def max_epochs(self) -> int:
        """Epochs of the run, the last one perhaps cut short."""
        return self.loop.max_epochs or -(-self.max_iters // self.iters_per_epoch)

    @property
    def rank(self) -> int:
        return self.strategy.rank

    @property
    def world_size(self) -> int:
        return self.strategy.world_size

    @property
    def timestamp(self) -> str:
        """Name of this start's log folder, ``YYYYmmdd_HHMMSS``."""
        return self.log_dir.name

    @property
    def experiment_name(self) -> str:
        """``run_name``, or else work folder and start."""
        return self.run_name or f"{self.work_dir.name}_{self.timestamp}"

    def rates(self, iteration: int) -> list[float]:
        """Learning rate of every parameter group at ``iteration``."""
        length = self.iters_per_epoch, self.max_iters, self.optim.accumulative_counts
        return [learning_rate(base, self.schedules, iteration, *length) for base in self.base_lrs]

    def stop(self, reason: str) -> None:
        """Ask the loop to save and end after the current iteration."""
        self._asked = self._asked or reason
        if self.world_size == 1:
            self.stop_reason = self._asked  # several ranks agree in should_stop, and only there

    def should_stop(self) -> bool:
        """True when any rank was asked to stop; all ranks agree on the answer."""
        if self.world_size > 1:
            reasons = [r for r in self.strategy.gather(self._asked) if r]
            self.stop_reason = reasons[0] if reasons else None
        return self.stop_reason is not None

    # -- running -----------------------------------------------------------------------------

    def train(self) -> str | None:
        """Train, with all hooks. Returns None, or why the run stopped early."""
        self.model.train()
        previous = self._catch_signals()
        try:
            self.current_iter = self.state.iter
            self.hooks_list.call("before_run", self)
            self.hooks_list.call("before_train", self)
            # Hooks may have drawn numbers; training starts from its own, or the saved, state.
            if self._random:
                rng.restore(self._random)
            else:
                rng.seed_everything(self.seed + self.rank)
            loop_module.train(self)
            self.current_iter = self.state.iter
            if self.stop_reason:
                self._save_on_stop()
            else:
                self.hooks_list.call("after_train", self)
            self.hooks_list.call("after_run", self)
            if not self.stop_reason:
                self.logger.info("finished: all %d iterations are done", self.state.iter)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return self.stop_reason

    def val(self) -> dict[str, float]:
        """Evaluate on ``val_dataloader``; see ``loop.evaluate`` for the result."""
        metrics = loop_module.evaluate(self, self.val_dataloader, "val")
        if metrics:
            self.state.validated_at = self.state.iter
        return metrics

    def test(self) -> dict[str, float]:
        """Evaluate on ``test_dataloader``, with ``before_run`` and ``after_run`` around it.

        Raises:
            DataError: nothing in the data is trained, so that there is nothing to judge.
        """
        self.hooks_list.call("before_run", self)
        metrics = loop_module.evaluate(self, self.test_dataloader, "test")
        self.hooks_list.call("after_run", self)
        if metrics and "loss" not in metrics:
            raise DataError("nothing to judge: the test data hold no trained token")
        return metrics

    def validates_after_iter(self, done: int) -> bool:
        interval = self.loop.val_interval or 0
        return (
            self.val_dataloader is not None
            and not self.loop.by_epoch
            and done >= self.loop.val_begin
            and done % interval == 0
        )

    def validates_after_epoch(self, done: int) -> bool:
        interval = self.loop.val_interval or 0
        return (
            self.val_dataloader is not None
            and bool(self.loop.by_epoch)
            and done >= self.loop.val_begin
            and done % interval == 0
        )

    def owes_validation(self) -> bool:
        """True where a validation is due and has not been completed: at the start with
        ``val_begin=0``, at the end, and after a resume from the moment before one."""
        state = self.state
        if self.val_dataloader is None or state.validated_at == state.iter:
            return False
        if state.iter == 0:
            return self.loop.val_begin == 0
        if state.iter >= self.max_iters:
            return True
        if self.loop.by_epoch:
            return state.position == 0 and self.validates_after_epoch(state.epoch)
        return self.validates_after_iter(state.iter)

    def _catch_signals(self) -> dict[int, Any]:
        """SIGTERM and Ctrl-C save and stop; a second Ctrl-C stops at once."""

        def handler(number: int, _frame: Any) -> None:
            name = signal.Signals(number).name
            if self._asked == "SIGINT" and number == signal.SIGINT:
                raise KeyboardInterrupt
            self.stop(name)

        try:
            return {n: signal.signal(n, handler) for n in (signal.SIGTERM, signal.SIGINT)}
        except ValueError:
            return {}  # not in the main thread: the caller owns the signals

    def _save_on_stop(self) -> None:
        done = self.state.iter
        if self.stop_reason in EXIT_CODES and done and self.last_saved != done:
            self.optimizer.zero_grad(set_to_none=True)
            self.save_checkpoint(f"iter_{done}")
        self.logger.info("stopped by %s at iteration %d", self.stop_reason, done)

    def track(self, record: dict[str, Any], axis: str | None = None) -> None:
        """Hand a record to every tracker; ``step`` is its iteration.

        Args:
            axis: ``"evaluation"`` for a checkpoint that was judged beside the training: its step
                is the checkpoint's, and may be long past.
        """
        for tracker in self.trackers:
            tracker.write(record if axis is None else {**record, "axis": axis})

    def track_table(self, name: str, rows: list[dict[str, Any]]) -> None:
        """Hand a table of texts and numbers to every tracker; each row has the same columns."""
        for tracker in self.trackers:
            tracker.write_table(name, rows, self.state.iter)

    def track_images(self, name: str, images: list[tuple[str, Any]]) -> None:
        """Hand pictures (PIL, or files) with their captions to every tracker, as PNG files."""
        if not self.trackers:
            return
        try:
            files = save_pictures(self.log_dir / "vis_data", name, images, self.state.iter)
        except OSError as error:
            self.logger.warning("pictures of '%s' could not be written: %s", name, error)
            return
        for tracker in self.trackers:
            tracker.write_images(name, files, self.state.iter)

    # -- counters ----------------------------------------------------------------------------

    def sync_counts(self) -> None:
        """Add what every rank has trained since the last call to ``state.samples`` and tokens."""
        counts = self.strategy.sum(torch.tensor(self.pending, dtype=torch.float64)).tolist()
        self.state.samples += int(counts[0])
        self.state.tokens += int(counts[1])
        self.pending = [0, 0]

    # -- checkpoints -------------------------------------------------------------------------

    def save_checkpoint(self, name: str) -> Path | None:
        """Write ``work_dir/name``; every rank calls it. Returns the folder on rank 0."""
        path = snapshot.save(self, name)
        if ckpt.NAME.match(name):
            self.last_saved = self.state.iter
        return path

    def load_weights(self, tensors: dict[str, torch.Tensor], source: str | Path) -> None:
        """Copy trained weights into the model; ``source`` is named in errors."""
        snapshot.copy_weights(self.named_parameters, tensors, source, self.strategy)

    def restore(self, checkpoint: ckpt.Checkpoint, source: str | Path) -> None:
        """Continue from ``checkpoint``; ``source`` is named in errors."""
        self._random = snapshot.restore(self, checkpoint, source)

    def plan(self) -> dict[str, Any]:
        """What a resumed run compares, besides the identity."""
        return snapshot.plan(self)
