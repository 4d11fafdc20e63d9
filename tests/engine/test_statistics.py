"""Statistics over all ranks: sums over sums, extremes of extremes, on two gloo ranks."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from toy import build

from inlay.core.types import Batch
from inlay.engine.hooks import StatisticsHook
from inlay.engine.hooks.statistics import Tally, statistics
from inlay.engine.settings import TrainLoop


@dataclass
class Times:
    data: float
    compute: float
    update: float


def tally(*seen: tuple[Times, tuple[int, int, int, int]]) -> Tally:
    """Micro-batches of (samples, tokens, units, pictures)."""
    total = Tally()
    for times, (samples, tokens, units, images) in seen:
        total.see(times, Batch({}, units, samples, tokens, images))
    return total


def test_means_are_over_all_micro_batches_not_means_of_means() -> None:
    """Fault 7: rank 0 saw three micro-batches, rank 1 one of another size."""
    first = tally(
        (Times(1.0, 2.0, 0.0), (2, 100, 10, 2)),
        (Times(0.0, 2.0, 0.0), (2, 100, 20, 0)),
        (Times(0.0, 2.0, 1.0), (4, 100, 30, 12)),
    )
    second = tally((Times(4.0, 3.0, 0.5), (1, 500, 0, 1)))
    stats = statistics([first, second])
    assert stats == pytest.approx(
        {
            "avg_tokens_per_second": 800 / 8.0,
            "avg_data_load_time": 5 / 4,
            "max_data_load_time": 4.0,
            "avg_fw_bw_time": 9 / 4,
            "max_fw_bw_time": 3.0,
            "avg_post_process_time": 1.5 / 4,
            "max_post_process_time": 1.0,
            "avg_images_per_sample": 15 / 9,
            "min_images_per_sample": 0.0,
            "max_images_per_sample": 3.0,
            "trained_token_share": 60 / 800,
        }
    )


def test_a_rank_of_stand_ins_counts_for_nothing() -> None:
    idle = tally((Times(0.0, 1.0, 0.0), (0, 0, 0, 0)))
    busy = tally((Times(0.0, 1.0, 0.0), (2, 10, 5, 4)))
    stats = statistics([busy, idle])
    assert stats["min_images_per_sample"] == stats["max_images_per_sample"] == 2.0
    assert "avg_images_per_sample" not in statistics([idle])


def test_positions_that_are_nobodys_are_padding() -> None:
    """A batch of text for a model with eyes ends with a blank picture of 20 tokens."""
    times, total = Times(0.0, 1.0, 0.0), Tally()
    total.see(times, Batch({"input_ids": torch.zeros(1, 100)}, 10, 2, 80))
    total.see(times, Batch({"row": {"input_ids": torch.zeros(1, 100)}}, 10, 2, 100))
    total.see(times, Batch({"row": None}, 10, 2, 50))  # of cached grounding: no row at all
    assert statistics([total, Tally()])["padding_share"] == 20 / 200


class Records:
    """Keeps what is logged."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def write(self, record: dict[str, Any]) -> None:
        self.rows.append(record)


def test_one_process_logs_at_intervals_and_at_the_end(tmp_path: Path) -> None:
    runner = build(tmp_path, [StatisticsHook(4)], accumulate=2, loop=TrainLoop(max_iters=10))
    runner.trackers = [records := Records()]
    runner.train()
    assert [r["step"] for r in records.rows] == [4, 8, 10]
    for row in records.rows:
        assert row["training_stats/avg_fw_bw_time"] > 0
        assert row["training_stats/avg_post_process_time"] > 0
        assert row["training_stats/trained_token_share"] == 1.0
        assert row["training_stats/max_images_per_sample"] == 0.0


def rank_main(rank: int, port: int, folder: Path) -> None:
    """A run on rank ``rank`` of two; rank 1 waits for its data."""
    import time

    import torch.distributed as dist

    from inlay.engine.parallel.ddp import DataParallel

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    runner = build(folder, [StatisticsHook(2)], loop=TrainLoop(max_iters=4))
    loader = runner.train_dataloader
    loader.rank, loader.world_size = rank, 2
    if rank == 1:
        item = loader.dataset.item

        def slow(index: int, seed: int, epoch: int = 0) -> Any:
            time.sleep(0.03)
            return item(index, seed, epoch)

        loader.dataset.item = slow
    runner.strategy = DataParallel(torch.device("cpu"))
    runner.trackers = [records := Records()]
    runner.train()
    (folder / f"{rank}.json").write_text(json.dumps([records.rows, runner.pending]))
    dist.destroy_process_group()


def test_two_ranks_are_added_up(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = torch.multiprocessing.start_processes(
        rank_main, (port, tmp_path), nprocs=2, join=False, start_method="fork"
    )
    while not context.join(60):
        pass
    (rows, zero), (none, one) = (json.loads((tmp_path / f"{r}.json").read_text()) for r in (0, 1))
    assert none == [] and [r["step"] for r in rows] == [2, 4]
    # Rank 1 sleeps 2 x 0.03 s a micro-batch, rank 0 does not wait for its own data.
    for row in rows:
        average, longest = (row[f"training_stats/{k}_data_load_time"] for k in ("avg", "max"))
        assert longest >= 0.06 and 0.03 <= average < longest
    assert zero[1] + one[1] > zero[1] > 0
