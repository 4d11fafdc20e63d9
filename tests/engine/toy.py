"""A small regression run with everything that makes resume hard: dropout and augmentation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from inlay.core.types import Batch, StepOutput
from inlay.data.loader import WindowLoader
from inlay.engine.groups import PartRates, freeze_parts
from inlay.engine.optim import build_optimizer
from inlay.engine.parallel.single import SingleDevice
from inlay.engine.runner import Runner
from inlay.engine.schedule import CosineAnnealingLR, LinearLR
from inlay.engine.settings import OptimWrapper, TrainLoop


class ToyData:
    """Items of 1 to 4 units; every item is augmented by noise from its own seed."""

    def __init__(self, size: int = 23, poison: int | None = None) -> None:
        self.size, self.poison = size, poison
        self.loss_units = np.arange(size, dtype=np.int64) % 4 + 1
        self.num_samples = np.ones(size, dtype=np.int64)

    def __len__(self) -> int:
        return self.size

    def item(self, index: int, seed: int, epoch: int = 0) -> Any:
        noise = np.random.default_rng(seed).normal(size=(int(self.loss_units[index]), 3)) * 0.1
        x = np.full_like(noise, index / self.size) + noise
        if index == self.poison:
            x[0, 0] = np.nan
        return index, x.astype(np.float32)

    def collate(self, items: list[Any]) -> Batch:
        x = torch.from_numpy(np.concatenate([x for _, x in items]))
        ids = torch.tensor([i for i, _ in items])
        return Batch({"x": x, "ids": ids, "live": True}, len(x), len(items), len(x))

    def stand_in(self, item: Any) -> Batch:
        batch = self.collate([item])
        return Batch({**batch.inputs, "live": False}, 0, 0, 0)

    def identity(self) -> dict[str, str]:
        return {"data": f"toy-{self.size}"}


class ToyModel(nn.Module):
    """Two layers with dropout; the loss is summed over rows."""

    def __init__(self, dropout: float = 0.2) -> None:
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor, ids: torch.Tensor, live: bool) -> StepOutput:
        out = self.second(self.dropout(torch.tanh(self.first(x))))
        loss = (out[:, 0] - x.sum(1).sin()).square().sum()
        return StepOutput(loss if live else loss * 0.0, len(x) if live else 0)


class Losses:
    """Records every micro-batch: iteration, loss and which items it held."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, float, list[int]]] = []

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        ids = data_batch.inputs["ids"].tolist()
        self.rows.append((runner.iter, outputs.loss_sum.item(), ids))


def build(
    work_dir: Path,
    hooks: list[Any],
    *,
    batch_size: int = 2,
    accumulate: int = 1,
    workers: int = 0,
    loop: TrainLoop | None = None,
    data: ToyData | None = None,
    val: ToyData | None = None,
    dropout: float = 0.2,
    lr: float = 1e-2,
    seed: int = 3,
    max_skipped_updates: int = 10,
    rates: PartRates | None = None,
) -> Runner:
    torch.manual_seed(0)
    model = ToyModel(dropout)
    freeze_parts(model, rates or PartRates())
    settings = {"lr": lr}
    data = data or ToyData()
    optim = OptimWrapper(
        optimizer=settings,
        clip_grad={"max_norm": 1.0},
        accumulative_counts=accumulate,
        max_skipped_updates=max_skipped_updates,
    )
    loader = WindowLoader(data, batch_size=batch_size, num_workers=workers, seed=seed)
    val_loader = WindowLoader(val, batch_size=4, shuffle=False) if val else None
    return Runner(
        model=model,
        strategy=SingleDevice(torch.device("cpu")),
        optimizer=build_optimizer(model, torch.optim.AdamW, settings, rates),
        schedules=[
            LinearLR(start_factor=1e-5, begin=0, end=0.3, convert_to_iter_based=True),
            CosineAnnealingLR(begin=0.3, convert_to_iter_based=True),
        ],
        train_loader=loader,
        val_loader=val_loader,
        test_loader=val_loader,
        loop=loop or TrainLoop(max_epochs=3),
        optim=optim,
        hooks=hooks,
        work_dir=work_dir,
        logger=logging.getLogger("toy"),
        identity={**data.identity(), "effective_batch": str(batch_size * accumulate)},
        seed=seed,
    )
