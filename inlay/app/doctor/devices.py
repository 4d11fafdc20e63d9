"""`inlay doctor`: torch, and whether its devices compute."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from inlay.app.doctor.finding import FAIL, OK, WARN, Finding, gigabytes

DRIVER = Path("/proc/driver/nvidia/version")
DEVICE = Path("/dev/nvidia0")
OTHERS_SHARE = 0.1
"""Share of a GPU's memory that others may hold without a word."""


def examine_devices() -> Iterator[Finding]:
    """Yield findings on torch's build and every GPU."""
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
    if torch.version.hip:
        build = f"ROCm {torch.version.hip}"
    threads = f"{torch.get_num_threads()} CPU threads"
    yield Finding("devices", "torch", OK, f"{torch.__version__}, {build}, {threads}")
    if not torch.cuda.is_available():
        yield _no_gpu(torch.version.cuda or torch.version.hip)
        return
    count = torch.cuda.device_count()
    yield Finding("devices", "driver", OK, f"{_driver()}, {count} GPU(s)")
    asked = int(os.environ.get("NPROC_PER_NODE") or 1)
    if asked > count:
        text = f"NPROC_PER_NODE={asked}, but there are {count} GPU(s)"
        yield Finding("devices", "processes", FAIL, text, f"NPROC_PER_NODE={count}")
    for number in range(count):
        yield _gpu(number)


def _no_gpu(build: str | None) -> Finding:
    """Why torch finds no GPU."""
    import torch

    if not DEVICE.exists():
        return Finding("devices", "GPU", OK, "none: runs are on the CPU, in float32 or bfloat16")
    if build is None:
        text = f"there is one (driver {_driver()}), but this torch is a build without CUDA"
        return Finding("devices", "GPU", WARN, text, "install the CUDA build of torch")
    try:
        torch.cuda.init()
        reason = "torch finds none"
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
    text = f"there is one (driver {_driver()}), but {reason}"
    advice = f"update the driver for CUDA {build}, or install a torch for an older CUDA"
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        advice = "CUDA_VISIBLE_DEVICES hides it: unset it"
    return Finding("devices", "GPU", FAIL, text, advice)


def _driver() -> str:
    """Version of NVIDIA's driver."""
    try:
        found = re.search(r"(\d+\.\d+[.\d]*)", DRIVER.read_text(encoding="utf-8"))
    except OSError:
        found = None
    return found[1] if found else "unknown"


def _gpu(number: int) -> Finding:
    """What a GPU is, whether it computes, and how much of it is free."""
    import torch

    name = f"GPU {number}"
    try:
        facts = torch.cuda.get_device_properties(number)
        free, total = torch.cuda.mem_get_info(number)
        ones = torch.ones(64, 64, device=f"cuda:{number}")
        right = float((ones @ ones).sum()) == 64.0**3
        with torch.cuda.device(number):
            half = torch.cuda.is_bf16_supported(including_emulation=False)
    except RuntimeError as error:
        text = f"does not compute: {str(error).splitlines()[0]}"
        arch = f"this torch is built for {', '.join(torch.cuda.get_arch_list())}"
        return Finding("devices", name, FAIL, text, f"look at nvidia-smi; {arch}")
    text = (
        f"{facts.name}, {gigabytes(free)} of {gigabytes(total)} free, compute capability "
        f"{facts.major}.{facts.minor}, {'bfloat16' if half else 'no bfloat16'}"
    )
    if not right:
        return Finding("devices", name, FAIL, f"{text}, but 64 x 64 ones give a wrong product")
    if free < (1 - OTHERS_SHARE) * total:
        return Finding("devices", name, WARN, text, "others use it: nvidia-smi shows who")
    if not half:
        return Finding("devices", name, WARN, text, 'optim_wrapper.dtype="float16" or "float32"')
    return Finding("devices", name, OK, text)
