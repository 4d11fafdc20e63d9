"""When memory runs out: what was asked for, where the run was, and how it goes on with less."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from inlay.core.errors import InlayError
from inlay.core.secrets import redact

if TYPE_CHECKING:
    from inlay.app.train import TrainOptions

PATTERN = re.compile(
    r"out of memory|OutOfMemoryError|can't allocate memory|MemoryError|Cannot allocate memory"
    r"|CUBLAS_STATUS_ALLOC_FAILED",
    re.I,
)
"""What errors for lack of memory say, of torch, CUDA, Python and the system."""
SHARED = "shared memory"
"""What torch says when workers find no room for their batches in /dev/shm."""
ASKED = re.compile(r"(?:tried to allocate|unable to allocate) ([\d.]+) (\w+)", re.I)
ON_GPU = re.compile(r"(GPU \d+) has a total capacity of ([\d.]+ \w+) of which ([\d.]+ \w+) is free")
OTHERS = re.compile(r"Process (\d+) has ([\d.]+ \w+) memory in use")
UNUSED = re.compile(r"([\d.]+) GiB is reserved by PyTorch but unallocated")
MUCH_UNUSED = 1.0
"""GiB that torch holds and does not use: from here on it is worth a word."""
STEPS = {"forward": "forward", "backward": "backward", "step": "optimizer step"}
"""What a strategy does in an iteration, by the name of its method."""
OTHER_COMMANDS = {
    "chat": "--bits 4, --torch-dtype bf16, --offload-folder DIR or a smaller picture need less",
    "eval": "--bits 4, --torch-dtype bf16 or --offload-folder DIR need less",
    "mmbench": "--bits 4, --torch-dtype bf16 or --offload-folder DIR need less",
    "serve": "--bits 4, --torch-dtype bf16 or --offload-folder DIR need less",
    "train": "`inlay memory CONFIG` measures which batch sizes fit",
}
"""What to try, by command."""


class OutOfMemory(InlayError):
    """A run needs more memory than there is. The message says how to go on with less."""


@dataclass
class Moment:
    """Where a run was.

    Attributes:
        phase: ``"training"``, ``"validation"``, ``"start-up"``, ``"saving a checkpoint"``.
        step: within an iteration, or None.
        runner: None at start-up.
        batch: the micro-batch that was trained, or None.
    """

    phase: str = "start-up"
    step: str | None = None
    runner: Any = None
    batch: Any = None


def find_shortage(error: BaseException | None) -> BaseException | None:
    """Return the error for lack of memory that ``error`` is or comes of; None where it is none."""
    while error is not None:
        lacking = isinstance(error, OSError) and error.errno == errno.ENOMEM
        text = f"{type(error).__name__}: {error}"
        if lacking or (isinstance(error, RuntimeError | MemoryError) and PATTERN.search(text)):
            return error
        if isinstance(error, RuntimeError) and SHARED in text:
            return error
        error = error.__cause__
    return None


def what_was_asked(error: BaseException) -> str:
    """Return one sentence: which memory, how much was asked for, how much was there."""
    text = str(error)
    if SHARED in text and "CUDA" not in text:
        return (
            "out of shared memory: the batches of the loader's workers do not fit into /dev/shm. "
            "Make it larger (docker: --shm-size=8g), or set train_dataloader.num_workers=0"
        )
    place = ON_GPU.search(text)
    on_gpu = place is not None or "CUDA" in text or "CUBLAS" in text
    asked = ASKED.search(text)
    said = f"out of memory on {place[1] if place else 'the GPU' if on_gpu else 'the CPU'}"
    if asked:
        said += f": {_size(float(asked[1]), asked[2])} more were asked for"
    if place:
        said += f", {place[3]} of {place[2]} were free"
    for process, size in OTHERS.findall(text):
        said += f". Process {process} holds {size} of it"
    return said


def _size(value: float, unit: str) -> str:
    if unit != "bytes":
        return f"{value:g} {unit}"
    for name in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024 or name == "GiB":
            break
    return f"{value:,.1f} {name}"


def unused_memory(error: BaseException) -> float:
    """GiB that torch held on the GPU without using them, as its message says; 0 if little."""
    found = UNUSED.search(str(error))
    unused = float(found[1]) if found else 0.0
    return unused if unused >= MUCH_UNUSED else 0.0


def in_short(command: str, error: BaseException) -> str | None:
    """Return one line for a command that ran out of memory; None for any other error."""
    shortage = find_shortage(error)
    if shortage is None:
        return None
    advice = OTHER_COMMANDS.get(command)
    return what_was_asked(shortage) + (f". {advice[0].upper()}{advice[1:]}" if advice else "")


@contextmanager
def explained(config: str, options: TrainOptions, cfg: Any, work_dir: Path) -> Iterator[None]:
    """Turn a shortage of memory inside into a message that says how the run goes on.

    Args:
        config: as the user named it. cfg: what it holds.

    Raises:
        OutOfMemory: memory ran out.
    """
    try:
        yield
    except Exception as error:
        shortage = find_shortage(error)
        if shortage is None:
            raise
        from inlay.app.memory.less import advise

        moment = find_moment(shortage.__traceback__, error.__traceback__)
        text = f"{what_was_asked(shortage)}.\n{describe(moment)}"
        more = advise(config, options, cfg, work_dir, moment, shortage)
        raise OutOfMemory(redact(f"{text}\n\n{more}")) from error


def find_moment(*traces: TracebackType | None) -> Moment:
    """Read off tracebacks what the run was doing, and with which batch."""
    from inlay.engine.parallel.watch import PACKAGE, PHASES

    moment = Moment()
    for trace in traces:
        while trace is not None:
            code, values = trace.tb_frame.f_code, trace.tb_frame.f_locals
            if code.co_filename.startswith(PACKAGE):
                moment.phase = PHASES.get(code.co_name, moment.phase)
                moment.runner = values.get("runner", moment.runner)
                if code.co_name == "train_window":
                    moment.batch = values.get("batch")
                if "/engine/parallel/" in code.co_filename:
                    moment.step = STEPS.get(code.co_name, moment.step)
            trace = trace.tb_next
    return moment


def describe(moment: Moment) -> str:
    """Return a sentence on where the run was."""
    runner = moment.runner
    if runner is None:
        return "It was at start-up: no iteration had begun."
    step = f", {moment.step}" if moment.step else ""
    said = (
        f"It was in {moment.phase}{step}: iteration {runner.state.iter + 1} of {runner.max_iters}, "
        f"update {runner.state.update + 1}"
    )
    batch = moment.batch
    if batch is None or moment.phase != "training":
        return said + "."
    pictures = f", {batch.num_images} pictures" if batch.num_images else ""
    return f"{said}, {batch.num_samples} samples of {batch.num_tokens:,} tokens{pictures}."
