"""ZeRO shards become whole weights: laid out by a writer of this test, and by DeepSpeed itself."""

from __future__ import annotations

import contextlib
import enum
import io
import math
import os
import shutil
import socket
import sys
import types
from pathlib import Path
from typing import Any

import originals
import pytest
import torch
from safetensors.torch import load_file

from inlay.cli import main
from inlay.core.errors import CheckpointError
from inlay.core.torch_file import load_torch
from inlay.core.zero import ZeroCheckpoint, find_zero, read_zero

Tensors = dict[str, torch.Tensor]
SHAPES = [[("a", (3, 5)), ("b", (7,)), ("c", ())], [("d.weight", (4, 2, 3)), ("e", (1,))]]
"""Weights of two parameter groups; sizes that no number of ranks divides."""


def values(seed: int = 0) -> list[Tensors]:
    torch.manual_seed(seed)
    return [{name: torch.randn(shape) for name, shape in group} for group in SHAPES]


def cut_groups(groups: list[Tensors], ranks: int, padded: bool) -> list[list[torch.Tensor]]:
    """What ZeRO-1 and 2 hold: by rank, a piece of every group (padding kept or not)."""
    pieces: list[list[torch.Tensor]] = [[] for _ in range(ranks)]
    for group in groups:
        flat = torch.cat([t.flatten() for t in group.values()])
        size = math.ceil(len(flat) / (2 * ranks)) * 2  # aligned to twice the ranks in all
        whole = torch.cat([flat, torch.full((size * ranks - len(flat),), 99.0)])
        for rank in range(ranks):
            stop = (rank + 1) * size if padded else min((rank + 1) * size, len(flat))
            pieces[rank].append(whole[rank * size : stop].clone())
    return pieces


def cut_weights(groups: list[Tensors], ranks: int, sub_groups: int) -> list[list[torch.Tensor]]:
    """What ZeRO-3 holds: by rank, an equal piece of every weight, in tensors of several weights."""
    pieces: list[list[torch.Tensor]] = [[] for _ in range(ranks)]
    for group in groups:
        for tensor in group.values():
            flat = tensor.flatten()
            size = math.ceil(len(flat) / ranks)
            whole = torch.cat([flat, torch.full((size * ranks - len(flat),), 99.0)])
            for rank in range(ranks):
                pieces[rank].append(whole[rank * size : (rank + 1) * size])
    cuts = [range(i, len(pieces[0]), sub_groups) for i in range(sub_groups)]
    order = sorted(i for cut in cuts for i in cut)
    chunk = math.ceil(len(order) / sub_groups)
    return [
        [torch.cat([p[i] for i in order[at : at + chunk]]) for at in range(0, len(order), chunk)]
        for p in pieces
    ]


def write(folder: Path, stage: int, ranks: int, sub_groups: int = 2) -> list[list[Tensors]]:
    """Write a checkpoint of ``stage``; return weights, first and second moments by group."""
    folder.mkdir(parents=True)
    kinds = [values(seed) for seed in range(3)]
    shapes = [{n: t.shape for n, t in group.items()} for group in kinds[0]]
    model = {
        "module": {n: t.bfloat16() for group in kinds[0] for n, t in group.items()},
        "param_shapes": shapes,
        "buffer_names": [],
        "shared_params": {"tied": "b"},
        "frozen_param_shapes": {"ice": torch.Size([10])},
        "global_steps": 4,
        "global_samples": 32,
        "meta": {"iter": 8, "epoch": 0},
    }
    for rank in range(ranks if stage == 3 else 1):
        name = f"zero_pp_rank_{rank}_mp_rank_00" if stage == 3 else "mp_rank_00"
        torch.save(model, folder / f"{name}_model_states.pt")
    if stage == 3:
        weights, first, second = (cut_weights(k, ranks, sub_groups) for k in kinds)
    else:
        weights = cut_groups(kinds[0], ranks, padded=False)
        first, second = (cut_groups(k, ranks, padded=True) for k in kinds[1:])
    for rank in range(ranks):
        states = {
            i: {"step": torch.tensor(4.0), "exp_avg": a, "exp_avg_sq": b}
            for i, (a, b) in enumerate(zip(first[rank], second[rank], strict=True))
        }
        base = {"state": states, "param_groups": [{"lr": 0.1}]}
        optimizer: dict[str, Any] = {"zero_stage": stage}
        if stage == 3:
            optimizer |= {"partition_count": ranks, "optimizer_state_dict": base}
            optimizer["fp32_flat_groups"] = weights[rank]
        else:
            optimizer |= {"partition_count": [ranks] * len(SHAPES), "base_optimizer_state": base}
            optimizer["single_partition_of_fp32_groups"] = weights[rank]
        path = folder / f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        torch.save({"optimizer_state_dict": optimizer, "ds_version": "0"}, path)
    return kinds


def merged(folder: Path) -> ZeroCheckpoint:
    found = find_zero(folder)
    assert found is not None
    return read_zero(found)


class ByName(int, enum.Enum):
    """DeepSpeed's enum of stages, as the first releases of Python 3.11 write any enum."""

    __module__, __qualname__ = "deepspeed.runtime.zero.config", "ZeroStageEnum"
    optimizer_states = 1
    gradients = 2
    weights = 3

    def __reduce_ex__(self, _protocol: Any) -> Any:
        return getattr, (type(self), self.name)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_stage_that_is_written_by_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    module = types.ModuleType(ByName.__module__)
    module.ZeroStageEnum = ByName  # type: ignore[attr-defined]
    for name in ("deepspeed", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    write(tmp_path / "iter_8.pth", ByName(stage), ranks=2)
    assert b"getattr" in next((tmp_path / "iter_8.pth").glob("bf16*")).read_bytes()
    assert merged(tmp_path / "iter_8.pth").stage == stage


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 12])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_weights_and_moments_come_back_whole(tmp_path: Path, stage: int, ranks: int) -> None:
    weights, first, second = write(tmp_path / "iter_8.pth", stage, ranks)
    zero = merged(tmp_path / "iter_8.pth")
    assert (zero.stage, zero.world_size) == (stage, ranks)
    assert zero.client["meta"]["iter"] == 8
    wanted = {n: t for group in weights for n, t in group.items()}
    assert list(zero.weights) == [*wanted, "tied"]
    assert torch.equal(zero.weights["tied"], wanted["b"])
    for name, tensor in wanted.items():
        assert torch.equal(zero.weights[name], tensor), name
        assert float(zero.states[name]["step"]) == 4.0
    for key, groups in (("exp_avg", first), ("exp_avg_sq", second)):
        for name, tensor in ((n, t) for group in groups for n, t in group.items()):
            found = zero.states[name][key]
            assert torch.equal(found.reshape(tensor.shape), tensor), (name, key)


@pytest.mark.parametrize("stage", [2, 3])
def test_damage_is_told(tmp_path: Path, stage: int) -> None:
    write(tmp_path / "whole", stage, 3)
    shard = "bf16_zero_pp_rank_{}_mp_rank_00_optim_states.pt"

    def broken(name: str) -> Path:
        return Path(shutil.copytree(tmp_path / "whole", tmp_path / name))

    for rank in range(3):
        folder = broken(f"without_{rank}")
        (folder / shard.format(rank)).unlink()
        with pytest.raises(CheckpointError, match=rf"of 3 ranks, the file of rank {rank} is miss"):
            merged(folder)
    folder = broken("cut")
    data = (folder / shard.format(1)).read_bytes()
    (folder / shard.format(1)).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match=r"rank_1_mp_rank_00_optim_states\.pt' is damaged"):
        merged(folder)
    folder = broken("more")
    shutil.copy(folder / shard.format(2), folder / shard.format(3))
    with pytest.raises(CheckpointError, match="shards of 4 ranks, but was written by 3"):
        merged(folder)
    folder = broken("twice")
    shutil.copy(folder / shard.format(2), folder / shard.format(2).removeprefix("bf16_"))
    with pytest.raises(CheckpointError, match="are both of rank 2"):
        merged(folder)
    folder = broken("split")
    shutil.copy(
        folder / shard.format(2), folder / shard.format(0).replace("mp_rank_00", "mp_rank_01")
    )
    with pytest.raises(CheckpointError, match="split over several ranks"):
        merged(folder)
    folder = broken("model_gone")
    for path in folder.glob("*_model_states.pt"):
        path.unlink()
    with pytest.raises(CheckpointError, match=r"model_states\.pt is missing"):
        merged(folder)


def test_shards_of_another_run(tmp_path: Path) -> None:
    write(tmp_path / "a", 2, 2)
    name = "mp_rank_00_model_states.pt"
    whole = {**load_torch(tmp_path / "a" / name), "module": {}}  # its tensors are the file's
    for change, message in (
        ({"more": torch.Size([99])}, "end inside of 'more'"),
        (None, "more than"),
    ):
        model = dict(whole)
        groups = [dict(group) for group in whole["param_shapes"]]
        model["param_shapes"] = [groups[0] | change, groups[1]] if change else [{}, groups[1]]
        torch.save(model, tmp_path / "a" / name)
        with pytest.raises(CheckpointError, match=message):
            merged(tmp_path / "a")
    torch.save({"module": {}}, tmp_path / "a" / name)
    with pytest.raises(CheckpointError, match="of a release that lays its files"):
        merged(tmp_path / "a")


def test_the_command_writes_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {n: t for group in write(tmp_path / "iter_8.pth", 3, 2)[0] for n, t in group.items()}
    out = tmp_path / "new" / "model.safetensors"
    assert main(["convert", "deepspeed", f"{tmp_path / 'iter_8.pth'}/", str(out)]) == 0
    assert "model.safetensors: 6 weights in float32" in capsys.readouterr().out
    found = load_file(out)
    assert all(torch.equal(found[n], t) for n, t in weights.items())
    assert (
        main(["convert", "deepspeed", str(tmp_path / "iter_8.pth"), str(tmp_path / "m.pth")]) == 0
    )
    found = torch.load(tmp_path / "m.pth", weights_only=True)
    assert all(torch.equal(found[n], t) for n, t in weights.items())
    for source, target, message in (
        ("iter_9.pth", "x.pth", "does not exist"),
        ("new", "x.pth", "holds no files of DeepSpeed"),
        ("iter_8.pth", "x", "name a file to write"),
    ):
        assert main(["convert", "deepspeed", str(tmp_path / source), str(tmp_path / target)]) == 1
        assert message in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["iter_8.pth", "m.pth", "new"]


def by_deepspeed(folder: Path) -> Tensors:
    """DeepSpeed's own merge."""
    os.environ["DS_ACCELERATOR"] = "cpu"
    zero_to_fp32 = pytest.importorskip("deepspeed.utils.zero_to_fp32")
    with contextlib.redirect_stdout(io.StringIO()):
        return zero_to_fp32.get_fp32_state_dict_from_zero_checkpoint(
            str(folder.parent), folder.name
        )


def test_deepspeed_merges_what_this_test_writes_likewise(tmp_path: Path) -> None:
    for stage in (2, 3):
        folder = tmp_path / str(stage) / "step"
        write(folder, stage, 3)
        for path in folder.glob("*model_states.pt"):  # its merge wants the frozen weights, too
            changed = {**load_torch(path), "frozen_param_shapes": None, "module": {}}
            torch.save(changed, path)
        ours, theirs = merged(folder).weights, by_deepspeed(folder)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[n], theirs[n]) for n in theirs), stage


def _train(rank: int, stage: int, ranks: int, port: int, folder: str) -> None:
    """Two updates of a small model under real ZeRO on a CPU, then DeepSpeed's save."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_PORT": port}
    os.environ.update({k: str(v) for k, v in place.items()} | {"MASTER_ADDR": "127.0.0.1"})
    os.environ["DS_ACCELERATOR"] = "cpu"
    sys.stdout = io.StringIO()
    import deepspeed

    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.Linear(7, 3), torch.nn.Linear(3, 3))
    model[2].requires_grad_(False)
    groups = [{"params": model[0].parameters()}, {"params": model[1].parameters(), "lr": 0.02}]
    config = {
        "train_micro_batch_size_per_gpu": 2,
        "zero_optimization": {"stage": stage},
        "bf16": {"enabled": True},
        "zero_allow_untested_optimizer": True,
    }
    deepspeed.init_distributed("gloo")
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    for step in range(2):
        torch.manual_seed(10 * step + rank)
        loss = engine(torch.randn(2, 5).bfloat16()).float().pow(2).sum()
        engine.backward(loss)
        engine.step()
    engine.save_checkpoint(folder, tag="step_2", exclude_frozen_parameters=stage == 1)


@pytest.mark.long
@pytest.mark.timeout(900)  # DeepSpeed compiles an extension at its first start
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_checkpoints_that_deepspeed_writes(tmp_path: Path, stage: int) -> None:
    pytest.importorskip("deepspeed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_train, (stage, 2, port, str(tmp_path)), nprocs=2)
    theirs = by_deepspeed(tmp_path / "step_2")
    zero = merged(tmp_path)  # through `latest`
    assert (zero.stage, zero.world_size) == (stage, 2)
    assert set(zero.weights) == {f"{i}.{part}" for i in (0, 1) for part in ("weight", "bias")}
    assert all(torch.equal(t, theirs[n]) for n, t in zero.weights.items())
    assert set(zero.frozen) == (set() if stage == 1 else {"2.weight", "2.bias"})
    for name, state in zero.states.items():
        assert state["exp_avg"].shape == zero.weights[name].shape
        assert float(state["step"]) == 2.0
        assert float(state["exp_avg_sq"].min()) >= 0.0


def test_what_the_original_wrote_is_merged_as_it_merges(tmp_path: Path) -> None:
    """The pieces of XTuner's two ranks, one after the other."""
    zero = merged(originals.FOLDER / "zero2_iter_7.pth")
    pieces = []
    for rank in range(2):
        name = f"bf16_zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        saved = load_torch(originals.FOLDER / "zero2_iter_7.pth" / name)["optimizer_state_dict"]
        pieces += saved["single_partition_of_fp32_groups"]
    flat = torch.cat([t.flatten() for t in zero.weights.values()])
    assert torch.equal(flat, torch.cat(pieces)[: len(flat)])
