"""Out of memory: one message, and the command in it goes on with the same run."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hungry import CUDA, limit_memory
from runs import ROWS, inlay, recorded, scalars, start_ranks, train, write_config

from inlay.app.memory import less as less_memory
from inlay.app.memory.shortage import find_shortage, in_short, what_was_asked
from inlay.app.train import TrainOptions, checked_config
from inlay.engine import checkpoint as ckpt

HERE = str(Path(__file__).parent)
EACH = 700 * 2**20
ROOM = 1100 * 2**20
"""Bytes of addresses that a run may add: one item of ``EACH`` fits, two do not."""


def hungry(folder: Path, model: Path, arguments: str, **settings: Any) -> Path:
    """A config of a tiny run with a hungry hook."""
    config = write_config(folder, model, **settings)
    hook = f"from hungry import Hungry\ncustom_hooks.append(dict(type=Hungry, {arguments}))\n"
    config.write_text(config.read_text() + hook)
    return config


def runs_out(words: list[Any], folder: Path, before: Callable[[], None] | None = None) -> str:
    """Run a command that must end for lack of memory; return its message."""
    code, text = inlay(words, folder, before)
    assert code == 1 and "Traceback" not in text and text.count("error: ") == 1, text
    return text[text.index("error: ") :]


def commands(text: str) -> list[list[str]]:
    """The words of the commands that a message prints, without ``inlay``."""
    found = [shlex.split(line) for line in text.splitlines() if line.startswith("  inlay ")]
    return [words[1:] for words in found]


# -- what is said --------------------------------------------------------------------------------

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 400000000000 bytes. Error code 12 (Cannot allocate memory)"
)
SAID = [
    (
        torch.OutOfMemoryError(CUDA),
        "out of memory on GPU 0: 2 GiB more were asked for, 1.02 GiB of 79.11 GiB were free. "
        "Process 4711 holds 30.50 GiB of it",
    ),
    (RuntimeError(CPU), "out of memory on the CPU: 372.5 GiB more were asked for"),
    (RuntimeError("CUDA error: out of memory"), "out of memory on the GPU"),
    (
        MemoryError("Unable to allocate 7.28 TiB for an array with shape (1000000, 1000000)"),
        "out of memory on the CPU: 7.28 TiB more were asked for",
    ),
    (OSError(12, "Cannot allocate memory"), "out of memory on the CPU"),
    (
        RuntimeError(
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
            "dataloader's workers are out of shared memory."
        ),
        "out of shared memory: the batches of the loader's workers do not fit into /dev/shm. Make "
        "it larger (docker: --shm-size=8g), or set train_dataloader.num_workers=0",
    ),
]


@pytest.mark.parametrize("error, said", SAID, ids=[s[:30] for _, s in SAID])
def test_what_was_asked_for_and_what_was_there(error: Exception, said: str) -> None:
    wrapped = ValueError("as a library says it")
    wrapped.__cause__ = error
    assert find_shortage(error) is find_shortage(wrapped) is error
    assert what_was_asked(error) == said


def test_torchs_own_message_of_today_is_understood() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert what_was_asked(caught.value) == (
        "out of memory on the CPU: 33,554,432.0 GiB more were asked for"
    )


def test_other_errors_are_none_of_ours() -> None:
    for error in (RuntimeError("shapes do not fit"), OSError(28, "No space left"), ValueError("x")):
        assert find_shortage(error) is None and in_short("chat", error) is None


def test_smaller_batches_of_an_equal_product() -> None:
    products = {
        (8, 1): [(4, 2), (1, 8)], (3, 1): [(1, 3)], (2, 2): [(1, 4)], (1, 16): [],
        (5, 2): [(2, 5), (1, 10)], (128, 1): [(64, 2), (1, 128)], (7, 3): [(3, 7), (1, 21)],
    }  # fmt: skip
    assert {given: less_memory.equal_products(*given) for given in products} == products


# -- the command goes on with the run ------------------------------------------------------------


def test_a_real_shortage_and_the_printed_command(tmp_path: Path, tiny_model: Path) -> None:
    """Memory is really refused from the seventh iteration on; half the batch fits."""
    docs = tmp_path / "docs"
    settings = {"batch_size": 2, "save_steps": 4, "val_fraction": 0.0, "record": str(docs)}
    whole = hungry(tmp_path / "whole", tiny_model, "each=0", **settings | {"record": f"{docs}_w"})
    train(whole, tmp_path / "whole" / "w")
    folder = tmp_path / "größer 大"
    config = hungry(folder, tiny_model, f"each={EACH}, since=6", **settings)
    limit = partial(limit_memory, ROOM)
    words = ["train", config, "--work-dir", folder / "w", "--cfg-options", "lr=5e-3", "lr=1e-2"]
    text = runs_out(words, tmp_path, limit)
    assert text.startswith("error: out of memory on the CPU: 1.4 GiB more were asked for.\n")
    assert re.search(
        r"^It was in training: iteration 7 of 18, update 4, \d+ samples of \d+ tokens\.$",
        text,
        re.M,
    )
    assert "1 x 4 in place of 2 x 2 (batch_size x accumulative_counts, an equal product):" in text
    assert "It goes on from iter_4." in text
    (command,) = commands(text)
    assert command[command.index("--cfg-options") + 1 :] == [
        "lr=5e-3", "lr=1e-2", "batch_size=1", "accumulative_counts=4",
    ]  # fmt: skip
    assert ckpt.newest_valid(folder / "w")[1] == []
    before = by_update(docs)
    Path(f"{docs}.0").unlink()
    code, text = inlay(command, tmp_path, limit)
    assert code == 0, text
    assert f"Auto resumed from the latest checkpoint {folder / 'w' / 'iter_4'}" in text
    last = [r for r in scalars(folder / "w") if "loss" in r][-1]
    assert (last["update"], last["samples"]) == (10, 2 * ROWS)
    assert before | by_update(docs) == by_update(Path(f"{docs}_w")), "the same samples an update"


def by_update(path: Path) -> dict[int, list[int]]:
    """Documents of every update, in any order."""
    found: dict[int, list[int]] = {}
    for line in recorded(path):
        found.setdefault(line["update"], []).extend(line["documents"])
    return {update: sorted(documents) for update, documents in found.items()}


def test_a_batch_of_one_recomputes_activations(tmp_path: Path, tiny_model: Path) -> None:
    config = hungry(tmp_path, tiny_model, "fails=1, since=4", batch_size=1, save_steps=2)
    work = tmp_path / "w"
    text = runs_out(["train", config, "--work-dir", work, "--seed", "3"], tmp_path)
    (command,) = commands(text)
    wanted = ["--resume", "--seed", "3", "--cfg-options", "model.use_activation_checkpointing=True"]
    assert command == ["train", str(config), "--work-dir", str(work), *wanted]
    assert "expandable_segments:True in front: torch held 5.25 GiB in pieces" in text
    assert 'optim_wrapper.dtype="bfloat16"' in text and "max_length=48 (96 now;" in text
    assert "LoRA or QLoRA (`inlay list-cfg -p lora`): a new run" in text
    config.write_text(config.read_text().replace("fails=1", "fails=2"))
    code, text = inlay(command, tmp_path)
    assert code == 0 and "Auto resumed" in text, text


def test_before_the_first_checkpoint_the_command_starts_anew(
    tmp_path: Path, tiny_model: Path
) -> None:
    config = hungry(tmp_path, tiny_model, "fails=2", max_epochs=1)
    text = runs_out(["train", config, "--work-dir", tmp_path / "w"], tmp_path)
    assert "iteration 1 of 9, update 1" in text and "It starts anew" in text
    code, text = inlay(commands(text)[0], tmp_path)
    assert code == 0 and "Iter(train) [18/18]" in text, text


def test_in_validation_the_message_says_so(tmp_path: Path, tiny_model: Path) -> None:
    config = hungry(tmp_path, tiny_model, "fails=2, in_val=True", val_fraction=0.2)
    options = ["--cfg-options", "val_dataloader.batch_size=4"]
    text = runs_out(["train", config, "--work-dir", tmp_path / "w", *options], tmp_path)
    assert "It was in validation: iteration" in text
    assert "val_dataloader.batch_size=1: it was the validation that found no room" in text


def no_room_for_weights() -> None:
    """For ``before``: the model does not fit."""
    from inlay.models import sft

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError(CUDA)

    sft.apply_lora = full  # type: ignore[assignment]


def test_at_start_up_no_batch_is_to_blame(tmp_path: Path, tiny_model: Path) -> None:
    config = write_config(tmp_path, tiny_model, dropout=0.0)
    words = ["train", config, "--work-dir", tmp_path / "w"]
    text = runs_out(words, tmp_path, no_room_for_weights)
    assert "It was at start-up: no iteration had begun.\n\nWhat needs less:\n" in text
    assert "  - QLoRA (`inlay list-cfg -p lora`): a new run" in text and not commands(text)


def test_of_two_ranks_one_runs_out_and_both_end(tmp_path: Path, tiny_model: Path) -> None:
    config = hungry(tmp_path, tiny_model, "fails=2, since=3, rank=1", save_steps=2)
    children = start_ranks(["train", config, "--work-dir", tmp_path / "w"], tmp_path, 2)
    assert [child.wait() for child in children] == [1, 1]
    said = children[1].text
    assert "error: out of memory on GPU 0" in said and "It goes on from iter_2." in said
    assert "1 x 4 in place of 2 x 2" in said and "--gpus 2 --strategy fsdp" in said
    assert "rank 1 (process" in children[0].text and "--resume" in children[0].text


# -- how settings are spelt ----------------------------------------------------------------------


def test_settings_of_part_1_are_used_where_they_reach(tmp_path: Path, tiny_model: Path) -> None:
    path = write_config(tmp_path, tiny_model)
    spell = partial(less_memory.spell, str(path))
    assert spell([], checked_config(str(path), []), 1, 4) == [
        "batch_size=1", "accumulative_counts=4",
    ]  # fmt: skip
    given = ["train_dataloader.batch_size=6"]
    assert spell(given, checked_config(str(path), given), 3, 4) == [
        "train_dataloader.batch_size=3", "optim_wrapper.accumulative_counts=4",
    ]  # fmt: skip
    assert less_memory.merge([*given, "lr=1"], ["train_dataloader.batch_size=3"]) == [
        "lr=1", "train_dataloader.batch_size=3",
    ]  # fmt: skip


def test_a_length_in_iterations_grows_with_their_number(tmp_path: Path, tiny_model: Path) -> None:
    text = write_config(tmp_path, tiny_model, name="a").read_text()
    by_name = tmp_path / "steps.py"
    text = text.replace("max_epochs=max_epochs,", "max_iters=6 * gradient_accumulation_steps,")
    text = text.replace("accumulative_counts", "gradient_accumulation_steps", 1)
    text = text.replace("=accumulative_counts", "=gradient_accumulation_steps")
    by_name.write_text(text)
    cfg = checked_config(str(by_name), [])
    assert less_memory.spell(str(by_name), [], cfg, 1, 4) == [
        "batch_size=1", "gradient_accumulation_steps=4",
    ]  # fmt: skip
    fixed = tmp_path / "fixed.py"
    fixed.write_text(text.replace("6 * gradient_accumulation_steps", "13"))
    cfg = checked_config(str(fixed), [])
    assert less_memory.spell(str(fixed), [], cfg, 1, 4) == [
        "batch_size=1", "gradient_accumulation_steps=4", "train_cfg.max_iters=26",
    ]  # fmt: skip


def test_the_command_says_all_that_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    options = TrainOptions(
        resume="old/iter_7", allow_change=["seed"], cfg_options=["run_name=a b", "lr=1"],
        track=["wandb", "trackio"],
        strategy={"type": "inlay.engine.DeepSpeed", "config": "deepspeed_zero2"},
    )  # fmt: skip
    command = less_memory.resume_command("c.py", options, Path("w x"), ["lr=2"], [])
    assert command == (
        "inlay train c.py --work-dir 'w x' --resume old/iter_7 --gpus 4 "
        "--deepspeed deepspeed_zero2 --track wandb,trackio --allow-change seed "
        "--cfg-options 'run_name=a b' lr=2"
    )


# -- streams, and other commands -----------------------------------------------------------------


def stream(folder: Path, model: Path, hook: str = "") -> Path:
    """A config of 6 updates of 4 samples from a stream, with a rate that falls all the way."""
    from test_train_stream import write

    folder.mkdir()
    config = Path(write(folder, model, "max_iters=12"))
    text = config.read_text().replace("batch_size=1", "batch_size=2")
    text = text.replace("import ConstantLR", "import WarmupCosineLR")
    text = text.replace(
        "type=ConstantLR, factor=1.0, by_epoch=False", "type=WarmupCosineLR, warmup_ratio=0.0"
    )
    config.write_text(f"{text}import sys\nsys.path.insert(0, {HERE!r})\n{hook}")
    return config


def test_a_stream_goes_on_at_its_sample_and_rate(tmp_path: Path, tiny_model: Path) -> None:
    train(stream(tmp_path / "whole", tiny_model), tmp_path / "w1")
    hook = "from hungry import Hungry\ncustom_hooks = [dict(type=Hungry, fails=2, since=6)]\n"
    config = stream(tmp_path / "hungry", tiny_model, hook)
    text = runs_out(["train", config, "--work-dir", tmp_path / "w2"], tmp_path)
    assert "It goes on from iter_5." in text
    (command,) = commands(text)
    assert "train_cfg.max_iters=24" in command
    code, text = inlay(command, tmp_path)
    assert code == 0, text
    whole, parts = ([r for r in scalars(tmp_path / w) if "loss" in r] for w in ("w1", "w2"))
    assert {r["update"]: r["lr"] for r in parts} == {r["update"]: r["lr"] for r in whole}
    assert (parts[-1]["iter"], parts[-1]["samples"]) == (24, whole[-1]["samples"])


def full_gpu() -> None:
    """For ``before``: what opens a model finds a full GPU."""
    import inlay.chat.open

    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError(CUDA)

    inlay.chat.open.open_model = full  # type: ignore[assignment]


def test_chat_says_it_in_a_line(tmp_path: Path, tiny_model: Path) -> None:
    text = runs_out(["chat", tiny_model], tmp_path, full_gpu)
    assert text.splitlines() == [
        "error: out of memory on GPU 0: 2 GiB more were asked for, 1.02 GiB of 79.11 GiB were "
        "free. Process 4711 holds 30.50 GiB of it. --bits 4, --torch-dtype bf16, --offload-folder "
        "DIR or a smaller picture need less"
    ]
