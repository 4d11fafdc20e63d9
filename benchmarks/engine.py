"""What the engine adds to an iteration: a null model through the Runner, against a bare loop.

Both make the same updates on one thread: forward, backward, clip, fused AdamW, zero the gradients.
Ours also reads through the loader, runs the default hooks (logger every 10 iterations into a null
handler, JSON lines on disk), two schedules, and the non-finite guard.

    python benchmarks/engine.py
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _ratio import best_in_turns, cpu_seconds, header, row
from torch import nn

from inlay.core.types import Batch, StepOutput
from inlay.data.loader import WindowLoader
from inlay.engine.hooks import (
    CheckpointHook,
    DistSamplerSeedHook,
    IterTimerHook,
    LoggerHook,
    ParamSchedulerHook,
    ThroughputHook,
)
from inlay.engine.optim import build_optimizer
from inlay.engine.parallel.single import SingleDevice
from inlay.engine.runner import Runner
from inlay.engine.schedule import CosineAnnealingLR, LinearLR
from inlay.engine.settings import OptimWrapper, TrainLoop
from inlay.engine.trackers import LocalVisBackend

NUM_ITEMS = 1000


class NullModel(nn.Module):
    """One parameter; its loss is a copy of it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor) -> StepOutput:
        return StepOutput(self.weight * x, 1)


class ReadyBatches:
    """A data set whose batches are made in advance."""

    def __init__(self) -> None:
        self.batches = [Batch({"x": torch.tensor(i % 7 - 3.0)}, 1, 1, 1) for i in range(NUM_ITEMS)]
        self.loss_units = self.num_samples = np.ones(NUM_ITEMS, np.int64)

    def __len__(self) -> int:
        return NUM_ITEMS

    def item(self, index: int, seed: int, epoch: int = 0) -> Batch:
        return self.batches[index]

    def collate(self, items: list[Batch]) -> Batch:
        return items[0]


def silent_logger() -> logging.Logger:
    logger = logging.Logger("benchmark", logging.INFO)
    logger.addHandler(logging.NullHandler())
    return logger


def ours(iterations: int, folder: Path) -> float:
    """Return the CPU seconds of ``Runner.train``."""
    model, tracker = NullModel(), LocalVisBackend()
    tracker.open(folder)
    settings: dict[str, Any] = {"lr": 1e-3}
    runner = Runner(
        model=model,
        strategy=SingleDevice(torch.device("cpu")),
        optimizer=build_optimizer(model, torch.optim.AdamW, settings),
        schedules=[
            LinearLR(start_factor=1e-5, begin=0, end=0.03, convert_to_iter_based=True),
            CosineAnnealingLR(begin=0.03, convert_to_iter_based=True),
        ],
        train_loader=WindowLoader(ReadyBatches(), batch_size=1),
        loop=TrainLoop(max_iters=iterations),
        optim=OptimWrapper(optimizer=settings, clip_grad={"max_norm": 1.0}),
        hooks=[
            IterTimerHook(),
            DistSamplerSeedHook(),
            LoggerHook(interval=10),
            ParamSchedulerHook(),
            ThroughputHook(),
            CheckpointHook(by_epoch=False, interval=-1, save_last=False),
        ],
        work_dir=folder,
        logger=silent_logger(),
        trackers=[tracker],
    )
    seconds = cpu_seconds(runner.train)
    tracker.close()
    if runner.state.update != iterations:
        raise RuntimeError(f"{runner.state.update} updates, expected {iterations}")
    return seconds


def bare(iterations: int) -> float:
    """Return the CPU seconds of the plain loop."""
    model, batches = NullModel(), ReadyBatches().batches
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def loop() -> None:
        for i in range(iterations):
            out = model(**batches[i % NUM_ITEMS].inputs)
            out.loss_sum.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return cpu_seconds(loop)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--iterations", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        ours_s, bare_s = best_in_turns(
            [lambda: ours(args.iterations, Path(folder)), lambda: bare(args.iterations)],
            args.repeats,
        )
    per = 1e6 / args.iterations
    header()
    row("CPU us an iteration, peer: bare loop", ours_s * per, bare_s * per, "")
    row("added us, peer: the budget of 60 us", (ours_s - bare_s) * per, 60, "<= 1")


if __name__ == "__main__":
    main()
