"""Small real runs of the command line, in forked children that share what is already imported."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

ROWS = 30
EXACT = ("iter", "update", "epoch", "loss", "lr", "grad_norm", "tokens", "samples")
"""What a line of ``scalars.json`` says about the training, and not about the clock."""

SETTINGS: dict[str, Any] = {
    "prompt_template": None,
    "max_length": 96,
    "pack_to_max_length": True,
    "val_fraction": 0.0,
    "batch_size": 2,
    "accumulative_counts": 2,
    "dataloader_num_workers": 0,
    "max_epochs": 2,
    "lr": 1e-2,
    "interval": 1,
    "save_steps": -1,
    "keep": -1,
    "val_interval": 1,
    "base_seed": 0,
    "evaluation_inputs": [],
    "record": None,
}

BODY = """
tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path=model_path)
model = dict(
    type=SupervisedFinetune,
    use_activation_checkpointing=False,
    llm=dict(
        type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path=model_path
    ),
    lora=lora,
)
train_dataset = dict(
    type=ChatDataset, sources=[dict(path=data_path)], tokenizer=tokenizer,
    template=prompt_template, max_length=max_length, pack_to_max_length=pack_to_max_length,
    val_fraction=val_fraction, part="train",
)
train_dataloader = dict(
    batch_size=batch_size, num_workers=dataloader_num_workers, dataset=train_dataset
)
val_dataloader = None
if val_fraction:
    val_dataloader = dict(batch_size=1, dataset=dict(train_dataset, part="val"))
optim_wrapper = dict(
    type=OptimWrapper, optimizer=optimizer, clip_grad=dict(max_norm=1.0),
    accumulative_counts=accumulative_counts,
)
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-5, begin=0, end=0.3, convert_to_iter_based=True),
    dict(type=CosineAnnealingLR, begin=0.3, end=max_epochs, convert_to_iter_based=True),
]
train_cfg = dict(type=TrainLoop, max_epochs=max_epochs, val_interval=val_interval)
custom_hooks = [dict(type=DatasetInfoHook, tokenizer=tokenizer)]
if evaluation_inputs:
    custom_hooks.append(
        dict(
            type=EvaluateChatHook, tokenizer=tokenizer, every_n_iters=1000, max_new_tokens=4,
            evaluation_inputs=evaluation_inputs,
        )
    )
if record:
    custom_hooks.append(dict(type=Recorder, into=record))
default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=interval),
    checkpoint=dict(
        type=CheckpointHook, by_epoch=False, interval=save_steps, max_keep_ckpts=keep
    ),
)
visualizer = dict(type=Visualizer, vis_backends=[dict(type=LocalVisBackend)])
randomness = dict(seed=base_seed)
"""

IMPORTS = """
import sys
sys.path.insert(0, {here!r})
from peft import LoraConfig
from torch.optim import SGD, AdamW
from transformers import AutoModelForCausalLM, AutoTokenizer
from inlay.data import ChatDataset
from inlay.engine import (
    CosineAnnealingLR, LinearLR, LocalVisBackend, OptimWrapper, TrainLoop, Visualizer,
)
from inlay.engine.hooks import (
    CheckpointHook, DatasetInfoHook, EvaluateChatHook, IterTimerHook, LoggerHook,
)
from inlay.models import SupervisedFinetune
from runs import Recorder
"""

LORA = 'dict(type=LoraConfig, r=4, lora_alpha=8, lora_dropout={dropout}, task_type="CAUSAL_LM")'


def row(number: int) -> dict[str, Any]:
    """A question and an answer of a length that depends on ``number``."""
    draw = random.Random(number)
    answer = " ".join(draw.choice(["red", "green", "blue"]) for _ in range(draw.randint(1, 9)))
    turns = [("user", f"row {number}?"), ("assistant", answer)]
    return {"messages": [{"role": r, "content": c} for r, c in turns]}


def write_rows(path: Path, rows: Sequence[dict[str, Any]] | None = None) -> Path:
    """Write rows (``ROWS`` of :func:`row` by default) as one JSON array."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [row(i) for i in range(ROWS)] if rows is None else rows
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def write_config(
    folder: Path,
    model: Path,
    data: Path | None = None,
    name: str = "tiny",
    dropout: float | None = None,
    optimizer: str = "dict(type=AdamW, lr=lr)",
    **settings: Any,
) -> Path:
    """Write a config of a tiny run: full, or LoRA with the given dropout."""
    folder.mkdir(parents=True, exist_ok=True)
    data = data or write_rows(folder / "rows.json")
    values = {"model_path": str(model), "data_path": str(data), **SETTINGS, **settings}
    lines = [f"{key} = {value!r}" for key, value in values.items()]
    lora = "None" if dropout is None else LORA.format(dropout=dropout)
    here = str(Path(__file__).parent)
    text = [IMPORTS.format(here=here), *lines, f"lora = {lora}", f"optimizer = {optimizer}", BODY]
    config = folder / f"{name}.py"
    config.write_text("\n".join(text), encoding="utf-8")
    return config


class Recorder:
    """Writes a line for every micro-batch: which documents this rank trained on.

    Args:
        into: one file a rank is written, ``<into>.<rank>``.
    """

    def __init__(self, into: str) -> None:
        self.into = into

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        ids = data_batch.inputs["input_ids"][0].numpy()
        starts = data_batch.inputs["doc_starts"].tolist()
        documents = [zlib.crc32(ids[a:b].tobytes()) for a, b in pairwise(starts)]
        line = {
            "iter": runner.iter,
            "update": runner.state.update - (runner.window_start is None),
            "epoch": runner.epoch,
            "documents": documents if outputs.loss_units else [],
        }
        with Path(f"{self.into}.{runner.rank}").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@dataclass
class Child:
    """A process that runs a command, with its output in a file."""

    pid: int
    log: Path

    def wait(self, seconds: float = 90) -> int:
        """Return the exit code, ``-N`` after signal N; a child that hangs is killed."""
        end = time.monotonic() + seconds
        while True:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > end:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.002)

    @property
    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def wait_for(self, text: str, seconds: float = 120) -> None:
        """Wait until the output holds ``text``."""
        end = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < end, f"never said {text!r}:\n{self.text}"
            time.sleep(0.01)


_logs = 0


def start(
    words: Sequence[str | Path],
    folder: Path,
    environment: dict[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> Child:
    """Fork a child that runs ``inlay WORDS``.

    Args:
        folder: where its output file goes.
        before: called in the child, before the command.
    """
    global _logs
    _logs += 1
    log = folder / f"output_{_logs}.txt"
    log.touch()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid, log)
    try:
        _run(list(map(str, words)), log, environment or {}, before)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(99)


def _run(words: list[str], log: Path, environment: dict[str, str], before: Any) -> None:
    handle = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    os.environ.update(environment)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    from inlay.cli import main

    if before is not None:
        before()
    try:
        code = main(words)
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else 1
    sys.stdout.flush()
    os._exit(code)


def inlay(
    words: Sequence[str | Path], folder: Path, before: Callable[[], None] | None = None
) -> tuple[int, str]:
    """Run ``inlay WORDS`` to its end; return exit code and output."""
    child = start(words, folder, before=before)
    return child.wait(), child.text


def train(
    config: Path, work_dir: Path, *words: str | Path, before: Callable[[], None] | None = None
) -> str:
    """Run ``inlay train`` to its end, which must be a good one; return its output."""
    code, text = inlay(["train", config, "--work-dir", work_dir, *words], config.parent, before)
    assert code == 0, text
    return text


def start_ranks(
    words: Sequence[str | Path],
    folder: Path,
    ranks: int,
    before: Sequence[Callable[[], None] | None] = (None, None),
) -> list[Child]:
    """Start ``inlay WORDS`` as ``ranks`` processes of one gloo group; ``before`` is by rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(ranks)}
    return [
        start(words, folder, {**place, "RANK": str(r), "LOCAL_RANK": str(r)}, before[r])
        for r in range(ranks)
    ]


def train_ranks(config: Path, work_dir: Path, *words: str | Path, ranks: int = 2) -> str:
    """Run ``inlay train`` on several ranks to a good end; return rank 0's output."""
    words = ("train", config, "--work-dir", work_dir, *words)
    children = start_ranks(words, config.parent, ranks)
    codes = [child.wait() for child in children]
    assert codes == [0] * ranks, "\n".join(child.text for child in children)
    return children[0].text


def stop_at(batch: int, number: int = signal.SIGTERM) -> Callable[[], None]:
    """For ``before``: this process sends itself a signal in the middle of micro-batch ``batch``."""

    def patch() -> None:
        from inlay.engine.parallel.single import SingleDevice

        forward, seen = SingleDevice.forward, [0]

        def counted(self: Any, model: Any, batch_: Any) -> Any:
            seen[0] += 1
            if seen[0] == batch:
                os.kill(os.getpid(), number)
            return forward(self, model, batch_)

        SingleDevice.forward = counted  # type: ignore[method-assign]

    return patch


def look_here() -> None:
    """For ``before``: exports are looked at in this process, without new imports of seconds."""
    import subprocess

    from inlay.convert import probe

    def run(words: list[str], input: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        answer = {**probe.look(json.loads(input)), "foreign": True}
        return subprocess.CompletedProcess(words, 0, json.dumps(answer), "")

    subprocess.run = run  # type: ignore[assignment]


def stop_in_validation() -> None:
    """For ``before``: SIGTERM comes at the second batch of the first validation."""
    from inlay.engine.parallel.single import SingleDevice

    forward, seen = SingleDevice.forward, [0]

    def counted(self: Any, model: Any, batch: Any) -> Any:
        seen[0] += not model.training
        if seen[0] == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, model, batch)

    SingleDevice.forward = counted  # type: ignore[method-assign]


def scalars(work_dir: Path) -> list[dict[str, Any]]:
    """All records of all starts in ``work_dir``, in the order in which they were written."""
    lines = []
    for path in sorted(work_dir.glob("*/vis_data/scalars.json")):
        lines += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return lines


def trained(work_dir: Path) -> list[tuple[Any, ...]]:
    """The training records of :func:`scalars`, without what depends on the clock."""
    return [tuple(r[k] for k in EXACT) for r in scalars(work_dir) if "loss" in r]


def recorded(path: Path, rank: int = 0) -> list[dict[str, Any]]:
    """What :class:`Recorder` wrote for one rank."""
    text = Path(f"{path}.{rank}").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
