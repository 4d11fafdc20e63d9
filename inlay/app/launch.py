"""Be one process of a run, or start one per GPU with torchrun and pass on signals and exit code."""

from __future__ import annotations

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from inlay.core import dist
from inlay.core.errors import InlayError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
LAUNCHERS = ("none", "pytorch", "slurm", "mpi")
PORTS = (20000, 29999)
"""Where a port is drawn when ``PORT`` is not set, as in the originals."""


def add_launch_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`start` reads."""
    add = parser.add_argument
    add("--gpus", type=int, default=None, metavar="N", help="processes to start on this machine")
    add(
        "--launcher",
        choices=LAUNCHERS,
        default="none",
        help="what has started this process as one of several: torchrun or accelerate (pytorch), "
        "srun (slurm), mpirun (mpi); none finds torchrun's by itself",
    )
    add("--local_rank", "--local-rank", type=int, default=None, help=argparse.SUPPRESS)


def start(args: argparse.Namespace) -> int | None:
    """Start the processes that the options and ``NPROC_PER_NODE``, ``NNODES`` ask for.

    Returns:
        Their exit code; None where this process is itself one of the run's, and goes on.

    Raises:
        InlayError: the environment is not that of ``--launcher``, or several machines lack a word.
    """
    # Of a rank that has gone, ours is the message; torch's are pages of addresses.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    processes = args.gpus if args.gpus is not None else _number("NPROC_PER_NODE")
    alone = processes == 1 and _number("NNODES") == 1
    launched = "LOCAL_RANK" in os.environ or args.local_rank is not None
    if args.launcher in ("none", "pytorch") and not launched and not alone:
        return launch(processes)
    if args.launcher != "none" or args.local_rank is not None:
        launcher = "pytorch" if args.launcher == "none" else args.launcher
        dist.adopt(launcher, args.local_rank, os.environ)
    return None


def _number(name: str) -> int:
    """A number of 1 or more in the environment; 1 where it is not set."""
    text = os.environ.get(name) or "1"
    if not text.isdecimal() or int(text) < 1:
        raise InlayError(f"{name}={text}: expected a number of 1 or more")
    return int(text)


def launch(processes: int) -> int:
    """Run this very command under torchrun. Returns its exit code, 128 + N after signal N.

    Several machines: ``NNODES``, ``NODE_RANK``, ``ADDR``, ``PORT`` as in the originals.
    """
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *place(os.environ),
        f"--nproc-per-node={processes}",
        "-m",
        "inlay",
        *sys.argv[1:],
    ]
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    child = subprocess.Popen(command, env=environment)
    caught: list[int] = []

    def forward(number: int, _frame: Any) -> None:
        caught.append(number)
        child.send_signal(signal.SIGTERM)

    previous = {n: signal.signal(n, forward) for n in SIGNALS}
    try:
        code = child.wait()
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return 128 + caught[0] if caught else code


def place(env: Mapping[str, str]) -> list[str]:
    """Return torchrun's options that say where the ranks meet.

    Raises:
        InlayError: there are several machines, and ``ADDR`` is not set.
    """
    nodes = _number("NNODES")
    if nodes > 1 and not env.get("ADDR"):
        raise InlayError(
            f"NNODES={nodes} needs ADDR: the address of the machine with NODE_RANK=0, the same on "
            "all of them"
        )
    # Machines cannot agree on a port that each of them draws.
    port = env.get("PORT") or (dist.DEFAULT_PORT if nodes > 1 else str(_free_port()))
    return [
        f"--nnodes={nodes}",
        f"--node-rank={env.get('NODE_RANK', '0')}",
        f"--master-addr={env.get('ADDR') or '127.0.0.1'}",
        f"--master-port={port}",
    ]


def _free_port() -> int:
    """Draw a port that nobody listens on."""
    while True:
        port = random.SystemRandom().randint(*PORTS)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
