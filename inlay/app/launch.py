"""Start one process per GPU with torchrun, and pass on signals and the exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def wanted_processes(gpus: int | None) -> int:
    """Processes to start here: ``--gpus`` or ``NPROC_PER_NODE``; 1 inside a torchrun process."""
    if "LOCAL_RANK" in os.environ:
        return 1
    return gpus if gpus is not None else int(os.environ.get("NPROC_PER_NODE", "1"))


def launch(processes: int) -> int:
    """Run this very command under torchrun. Returns its exit code, 128 + N after signal N.

    Several machines: ``NNODES``, ``NODE_RANK``, ``ADDR``, ``PORT`` as in the originals.
    """
    nodes = os.environ.get("NNODES", "1")
    place = ["--standalone"]
    if nodes != "1":
        place = [
            f"--nnodes={nodes}",
            f"--node-rank={os.environ.get('NODE_RANK', '0')}",
            f"--master-addr={os.environ.get('ADDR', '127.0.0.1')}",
            f"--master-port={os.environ.get('PORT', '29500')}",
        ]
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        *place,
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
