"""Every way in which a run is started as several processes, by their environment, on gloo."""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import start, train, trained, write_config

from inlay.app.launch import add_launch_options, place
from inlay.core.dist import adopt, first_host
from inlay.core.errors import InlayError

TWO = ("--cfg-options", "batch_size=1")
ONE = ("--cfg-options", "batch_size=2")


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def slurm(rank: int, port: str) -> dict[str, str]:
    return {
        "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NTASKS": "2",
        "SLURM_NODELIST": "localhost", "SLURM_JOB_ID": "77", "PORT": port,
    }  # fmt: skip


def mpi(rank: int, port: str) -> dict[str, str]:
    names = {"RANK": str(rank), "LOCAL_RANK": str(rank), "SIZE": "2", "LOCAL_SIZE": "2"}
    return {"PORT": port, **{f"OMPI_COMM_WORLD_{k}": v for k, v in names.items()}}


def pytorch(rank: int, port: str) -> dict[str, str]:
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    return {**place, "RANK": str(rank)}


@pytest.mark.parametrize("launcher", [slurm, mpi, pytorch])
def test_processes_find_one_another_as_ranks_of_one_run(
    tmp_path: Path, tiny_model: Path, launcher: Callable[[int, str], dict[str, str]]
) -> None:
    config = write_config(tmp_path, tiny_model, max_epochs=1)
    train(config, tmp_path / "one", *ONE)
    port = free_port()
    words: list[Any] = ["train", config, "--work-dir", tmp_path / "w", *TWO]
    words += ["--launcher", launcher.__name__]
    local = [["--local_rank", str(r)] if launcher is pytorch else [] for r in (0, 1)]
    children = [start([*words, *local[r]], tmp_path, launcher(r, port)) for r in (0, 1)]
    codes = [child.wait() for child in children]
    assert codes == [0, 0], "\n".join(child.text for child in children)
    assert [r[6:] for r in trained(tmp_path / "w")] == [r[6:] for r in trained(tmp_path / "one")]


@pytest.mark.parametrize(
    "nodes,first",
    [
        ("gpu-[003-007,9],login", "gpu-003"),
        ("node7", "node7"),
        ("a1,a2", "a1"),
        ("rack[1-2]node[01-04]", "rack1node01"),
        ("dgx[12,14]", "dgx12"),
        ("node-a-[5]-ib0,x", "node-a-5-ib0"),
        ("", ""),
    ],
)
def test_the_first_host_of_a_node_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_slurm_gives_all_processes_of_a_job_one_address_and_port() -> None:
    env = {
        "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NTASKS": "8",
        "SLURM_NODELIST": "gpu[03-04]", "SLURM_JOB_ID": "123456",
    }  # fmt: skip
    adopt("slurm", None, env)
    assert {k: env[k] for k in ("RANK", "LOCAL_RANK", "WORLD_SIZE")} == {
        "RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8",
    }  # fmt: skip
    assert (env["MASTER_ADDR"], env["MASTER_PORT"]) == ("gpu03", "23456")
    chosen = {**env, "MASTER_ADDR": "head", "MASTER_PORT": "1"}
    adopt("slurm", None, chosen)
    assert (chosen["MASTER_ADDR"], chosen["MASTER_PORT"]) == ("head", "1")


@pytest.mark.parametrize(
    "launcher,env,said",
    [
        ("slurm", {}, "SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID is not set.*started by srun"),
        ("mpi", {"OMPI_COMM_WORLD_RANK": "0"}, "OMPI_COMM_WORLD_SIZE, .*started by mpirun"),
        ("pytorch", {"RANK": "0", "WORLD_SIZE": "2"}, "LOCAL_RANK is not set.*torchrun"),
        ("mpi", {**mpi(1, ""), "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}, "mpirun -x MASTER_ADDR"),
    ],
)
def test_a_launcher_that_has_not_started_this_process(
    launcher: str, env: dict[str, str], said: str
) -> None:
    with pytest.raises(InlayError, match=said):
        adopt(launcher, None, dict(env))


def test_where_ranks_meet_is_as_in_the_original(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NNODES", "NODE_RANK", "ADDR", "PORT"):
        monkeypatch.delenv(name, raising=False)
    *_, address, port = place(os.environ)
    assert address == "--master-addr=127.0.0.1"
    assert 20000 <= int(port.removeprefix("--master-port=")) <= 29999
    monkeypatch.setenv("NNODES", "2")
    with pytest.raises(InlayError, match="NNODES=2 needs ADDR"):
        place(os.environ)
    for name, value in {"ADDR": "10.0.0.5", "NODE_RANK": "1", "PORT": "29600"}.items():
        monkeypatch.setenv(name, value)
    assert place(os.environ) == [
        "--nnodes=2", "--node-rank=1", "--master-addr=10.0.0.5", "--master-port=29600",
    ]  # fmt: skip
    monkeypatch.setenv("NNODES", "two")
    with pytest.raises(InlayError, match="NNODES=two: expected a number"):
        place(os.environ)


def test_options_have_the_originals_spellings() -> None:
    parser = argparse.ArgumentParser()
    add_launch_options(parser)
    for spelled in ("--local_rank", "--local-rank"):
        assert parser.parse_args([spelled, "3"]).local_rank == 3
    assert parser.parse_args([]).launcher == "none"
    with pytest.raises(SystemExit):
        parser.parse_args(["--launcher", "k8s"])


@pytest.mark.long
@pytest.mark.parametrize(
    "before",
    [
        ["NPROC_PER_NODE=2", "inlay"],
        ["torchrun --nproc-per-node=2 --master-port=PORT -m inlay"],
        [
            "accelerate launch --multi_gpu --num_processes=2 --num_machines=1 --dynamo_backend=no "
            "--mixed_precision=no --main_process_port=PORT -m inlay"
        ],
    ],
    ids=["environment", "torchrun", "accelerate"],
)
def test_real_launchers(tmp_path: Path, tiny_model: Path, before: list[str]) -> None:
    """Their own programs; what they start trains as two ranks."""
    config = write_config(tmp_path, tiny_model, max_epochs=1)
    tools = Path(sys.executable).parent
    text = " ".join(before).replace("PORT", free_port())
    text = text.replace("NPROC_PER_NODE=2 inlay", f"{sys.executable} -m inlay")
    text = text.replace("torchrun", f"{tools}/torchrun").replace(
        "accelerate", f"{tools}/accelerate"
    )
    extra = {"NPROC_PER_NODE": "2"} if before[0].startswith("NPROC") else {}
    done = subprocess.run(
        [*text.split(), "train", str(config), "--work-dir", "w", *TWO],
        cwd=tmp_path, env={**os.environ, **extra}, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert trained(tmp_path / "w")[-1][-1] == 30, "samples of both ranks"
    state = next((tmp_path / "w").glob("iter_*/state.json")).read_text()
    assert '"world_size": 2' in state
