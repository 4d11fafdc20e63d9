"""`inlay doctor`: the machine, the folders that a run writes to, the environment's variables."""

from __future__ import annotations

import math
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from inlay import __version__
from inlay.app.doctor.finding import FAIL, GB, OK, WARN, Finding, gigabytes, graded

CGROUP = Path("/sys/fs/cgroup")
SHARED_MEMORY = Path("/dev/shm")
LOCK_AGE = 600.0
"""Seconds after which nobody is taken to compile an extension any more."""
RANK_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SHOWN = (
    "CUDA_VISIBLE_DEVICES",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_ALLOC_CONF",
    "OMP_NUM_THREADS",
    "NPROC_PER_NODE",
    "NNODES",
    "NODE_RANK",
    "ADDR",
    "PORT",
    "SLURM_JOB_ID",
    "INLAY_CACHE",
    "INLAY_DEBUG",
)
"""Variables that change a run; none of them is a secret."""
SLOW = {
    "CUDA_LAUNCH_BLOCKING": "every kernel is waited for",
    "TORCH_DISTRIBUTED_DEBUG": "collectives are checked and logged",
    "NCCL_DEBUG": "NCCL logs what it does",
    "INLAY_TRUST_REMOTE_CODE": "code of model folders may be run",
}
"""Variables that are worth a warning when they are set, and why."""
OFF = ("", "0", "OFF", "WARN", "false")


def examine_machine() -> Iterator[Finding]:
    """Yield findings on Python, cores and memory, at no cost."""
    where = Path(__file__).parents[2]
    yield Finding("machine", "Inlay", OK, f"{__version__} in {where}")
    yield Finding("machine", "python", OK, f"{platform.python_version()}, {sys.executable}")
    yield Finding("machine", "system", OK, platform.platform())
    yield _cores()
    yield _memory()
    if SHARED_MEMORY.is_dir():
        free = shutil.disk_usage(SHARED_MEMORY).free
        yield Finding(
            "machine",
            "shared memory",
            graded(free, 1 * GB, 0),
            f"{gigabytes(free)} free in {SHARED_MEMORY}",
            "loader workers pass batches through it: docker --shm-size=8g, or "
            "train_dataloader.num_workers=0"
            if free < GB
            else "",
        )
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    few = files != resource.RLIM_INFINITY and files < 1024
    advice = "ulimit -n 4096: workers and pictures hold files open" if few else ""
    yield Finding("machine", "open files", WARN if few else OK, f"{files} at most", advice)


def _cores() -> Finding:
    usable = float(len(os.sched_getaffinity(0)))
    text = f"{usable:.0f} of {os.cpu_count()} usable"
    quota = cgroup_value("cpu.max")
    if quota and quota[0] != "max":
        usable = min(usable, int(quota[0]) / int(quota[1]))
        text += f", {usable:.1f} by the container's quota"
    status = WARN if usable < 2 else OK
    advice = "train_dataloader.num_workers=0: there is no core for workers" if usable < 2 else ""
    return Finding("machine", "cores", status, text, advice)


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    free, text = float(memory.available), f"{gigabytes(memory.total)}, "
    limit, used = cgroup_value("memory.max"), cgroup_value("memory.current")
    if limit and limit[0] != "max":
        free = min(free, int(limit[0]) - int(used[0] if used else 0))
        text += f"{gigabytes(int(limit[0]))} for this container, "
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most != resource.RLIM_INFINITY:
        free = min(free, most)
        text += f"{gigabytes(most)} of addresses a process (ulimit -v), "
    advice = "close other programs, or raise the limit" if free < 4 * GB else ""
    status = graded(free, 4 * GB, 1 * GB)
    return Finding("machine", "memory", status, f"{text}{gigabytes(free)} available", advice)


def cgroup_value(
    name: str, root: Path = CGROUP, own: Path = Path("/proc/self/cgroup")
) -> list[str]:
    """Return the words of a limit of this process's control group (version 2), the tightest one.

    Empty where there is none.
    """
    try:
        path = own.read_text(encoding="utf-8").strip().rpartition("::")[2].strip("/")
    except OSError:
        return []
    group = root / path
    found = []
    for folder in (group, *group.parents):
        if folder.is_relative_to(root) and (folder / name).is_file():
            words = (folder / name).read_text(encoding="utf-8").split()
            if words and words[0] != "max":
                found.append(words)
            if name.endswith(".current"):  # what this very group uses, not the tightest of all
                break
    return min(found, key=_amount, default=[])


def _amount(words: list[str]) -> float:
    """A limit as a number: bytes, or cores (quota and period)."""
    return int(words[0]) / (int(words[1]) if len(words) > 1 else 1)


# -- folders -------------------------------------------------------------------------------------


def examine_folders(work_dir: Path) -> Iterator[Finding]:
    """Yield findings on the folders that a run writes to: can they be written, is there room."""
    from huggingface_hub import constants

    from inlay.data.cache import default_cache_dir

    yield folder("work dir", work_dir, FAIL, 20, "choose another one with --work-dir")
    hub = Path(constants.HF_HUB_CACHE)
    yield folder("hub cache", hub, WARN, 20, "set HF_HOME to a folder of yours")
    cache = default_cache_dir().parent
    yield folder("Inlay's cache", cache, WARN, 5, "set INLAY_CACHE to a folder of yours")
    temporary = Path(tempfile.gettempdir())
    yield folder("temporary", temporary, FAIL, 1, "set TMPDIR to a folder of yours")


def folder(name: str, path: Path, status: str, wanted: float, advice: str) -> Finding:
    """Try a folder, or where it would be made: write a file, look at the room.

    Args:
        status: of a folder that cannot be written.
        wanted: GB below which there is a warning.
    """
    path = path.expanduser().absolute()
    there = next(p for p in (path, *path.parents) if os.path.lexists(p))
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".inlay-doctor-") as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        reason = f"{path} cannot be written ({error.strerror})"
        return Finding("folders", name, status, reason, advice)
    free = shutil.disk_usage(there).free
    room = graded(free, wanted * GB, 0.1 * GB)
    text = f"{path}, {gigabytes(free)} free"
    if os.statvfs(there).f_files and not os.statvfs(there).f_favail:
        return Finding("folders", name, FAIL, f"{text}, but no inode", "delete some files")
    more = f"make room, or {advice}" if room != OK else ""
    return Finding("folders", name, room, text, more)


# -- environment ---------------------------------------------------------------------------------


def examine_environment(env: Mapping[str, str]) -> Iterator[Finding]:
    """Yield findings on variables: the hub, several devices, what slows down, a lock left over."""
    yield _hub(env)
    yield _ranks(env)
    shown = [f"{name}={env[name]}" for name in SHOWN if name in env]
    if shown:
        yield Finding("environment", "settings", OK, ", ".join(shown))
    for name, why in SLOW.items():
        if env.get(name, "") not in OFF:
            yield Finding("environment", name, WARN, f"{name} is set: {why}", f"unset {name}")
    yield from _locks(env)


def _hub(env: Mapping[str, str]) -> Finding:
    from huggingface_hub import get_token

    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
    offline = [name for name in names if env.get(name, "").upper() in ("1", "ON", "YES", "TRUE")]
    text = f"offline ({', '.join(offline)})" if offline else "online"
    text += ", a token is there" if get_token() else ", no token (public models only)"
    if endpoint := env.get("HF_ENDPOINT"):
        text += f", at {urlsplit(endpoint).hostname}"  # the address may hold a password
    return Finding("environment", "hub", OK, text)


def _ranks(env: Mapping[str, str]) -> Finding:
    """Variables of a launcher in a shell make `inlay train` wait for ranks that never come."""
    there = [name for name in RANK_NAMES if name in env]
    size = env.get("WORLD_SIZE", "1")
    if not there:
        return Finding("environment", "ranks", OK, "one process: no launcher's variables are set")
    text = "set: " + ", ".join(f"{name}={env[name]}" for name in there)
    if size == "1" or "TORCHELASTIC_RUN_ID" in env:
        return Finding("environment", "ranks", OK, text)
    advice = f"outside of a launcher unset {' '.join(there)}: a run waits for other processes"
    return Finding("environment", "ranks", WARN, text, advice)


def _locks(env: Mapping[str, str]) -> Iterator[Finding]:
    """Locks of extensions whose compilation was killed: the next one waits for ever."""
    default = Path.home() / ".cache" / "torch_extensions"
    root = Path(env.get("TORCH_EXTENSIONS_DIR") or default).expanduser()
    for lock in sorted(root.glob("**/lock")):
        age = max(time.time() - lock.stat().st_mtime, 0.0)
        text = f"{lock}, {math.floor(age / 60)} minutes old"
        advice = f"if nothing is being compiled: rm '{lock}'; the next start waits for it for ever"
        status = WARN if age > LOCK_AGE else OK
        yield Finding(
            "environment", "extension lock", status, text, advice if status == WARN else ""
        )
