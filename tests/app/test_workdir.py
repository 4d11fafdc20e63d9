"""The work dir: its layout, who may write in it, where a run starts from, what may change."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from runs import inlay, row, scalars, start, stop_at, train, trained, write_config, write_rows

from inlay.config.dump import to_plain
from inlay.config.load import load_config
from inlay.engine import checkpoint as ckpt


def no_model() -> None:
    """For ``before``: say so when the run gets as far as loading weights."""
    from inlay.app.assemble import Parts

    def model(self: Any) -> Any:
        raise AssertionError("the weights are being loaded")

    Parts.model = model  # type: ignore[method-assign]


def refused(config: Path, work_dir: Path, *words: str | Path, before: Any = no_model) -> str:
    """Run ``inlay train``, which must end with one error message; return it."""
    code, text = inlay(["train", config, "--work-dir", work_dir, *words], config.parent, before)
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert code == 1 and len(errors) == 1 and "Traceback" not in text, text
    return text[text.index("error: ") :]


# -- layout --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Path, Path]:
    """Config and work dir of a finished run of 18 iterations, saved every 6."""
    folder = tmp_path_factory.mktemp("finished")
    config = write_config(
        folder, tiny_model, save_steps=6, keep=2, evaluation_inputs=["row 1?"], dropout=0.0
    )
    train(config, folder / "w", "--cfg-options", "lr=5e-3", "max_epochs=2")
    return config, folder / "w"


def test_the_layout_is_the_one_that_users_know(finished: tuple[Path, Path]) -> None:
    _, work = finished
    (log_dir,) = (p for p in work.iterdir() if re.fullmatch(r"\d{8}_\d{6}", p.name))
    assert {p.name for p in work.iterdir() if p.name[0] != "."} == {
        "tiny.py", "iter_12", "iter_18", "last_checkpoint", log_dir.name,
    }  # fmt: skip
    assert {p.name for p in log_dir.iterdir()} == {f"{log_dir.name}.log", "vis_data"}
    assert {p.name for p in (log_dir / "vis_data").iterdir()} == {
        "scalars.json", "tables.json", "run.json", "config.py",
        *(f"eval_outputs_iter_{n}.txt" for n in (5, 11, 17)),
    }  # fmt: skip
    assert (work / "last_checkpoint").read_text() == "iter_18"
    log = (log_dir / f"{log_dir.name}.log").read_text()
    assert "Iter(train) [18/18]" in log and "Saving checkpoint at 18 iterations" in log
    wanted = set(
        [
            "iter",
            "update",
            "epoch",
            "loss",
            "lr",
            "grad_norm",
            "tokens",
            "samples",
            "time",
            "data_time",
        ]
    )
    assert all(wanted <= set(record) for record in scalars(work))


def test_both_written_configs_and_the_checkpoints_reload_to_the_same_run(
    finished: tuple[Path, Path],
) -> None:
    config, work = finished
    wanted = to_plain(load_config(config, ["lr=5e-3", "max_epochs=2"]))
    (resolved,) = work.glob("*/vis_data/config.py")
    for written in (work / "tiny.py", resolved, work / "iter_18" / "config.py"):
        assert to_plain(load_config(written)) == wanted, written


def test_epoch_checkpoints_and_names_of_the_originals(tmp_path: Path, tiny_model: Path) -> None:
    config = write_config(tmp_path, tiny_model)
    hook = "default_hooks.checkpoint"
    options = ["--cfg-options", f"{hook}.by_epoch=True", f"{hook}.interval=1"]
    train(config, tmp_path / "w", *options)
    assert [p.name for p in ckpt.list_checkpoints(tmp_path / "w")] == ["epoch_1", "epoch_2"]
    text = train(config, tmp_path / "x", "--resume", tmp_path / "w" / "epoch_1.pth", *options)
    assert f"Resumed from checkpoint {tmp_path / 'w' / 'epoch_1'}" in text
    assert trained(tmp_path / "x") == trained(tmp_path / "w")[9:]


# -- where a run starts --------------------------------------------------------------------------


def test_a_used_folder_is_refused_without_resume_and_an_empty_one_starts(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    config, work = finished
    text = refused(config, work)
    assert "already holds 2 checkpoint(s), newest iter_18" in text and "--resume" in text
    train(config, tmp_path / "empty", "--resume")
    assert [r[0] for r in trained(tmp_path / "empty")] == list(range(1, 19))
    text = train(config, tmp_path / "empty", "--resume", "--cfg-options", "lr=1e-3")
    assert "nothing left to do: all 18 iterations are done" in text


def test_resume_takes_a_path_or_comes_from_the_config(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    config, work = finished
    lr = ["--cfg-options", "lr=5e-3"]
    whole = trained(work)
    for spelled in ("iter_12", "iter_12.pth"):
        text = train(config, tmp_path / spelled, "--resume", work / spelled, *lr)
        assert f"Resumed from checkpoint {work / 'iter_12'}. Continues at update 6" in text
        assert trained(tmp_path / spelled) == whole[11:], "the open window is replayed"
    shutil.copytree(work / "iter_12", tmp_path / "moved" / "iter_12")
    text = train(config, tmp_path / "moved", *lr, "resume=True")
    assert f"Auto resumed from the latest checkpoint {tmp_path / 'moved' / 'iter_12'}" in text
    assert trained(tmp_path / "moved") == whole[11:]
    text = refused(config, tmp_path / "none", "--resume", work / "iter_13")
    assert "no checkpoint at" in text and "iter_12, iter_18" in text


def test_load_from_takes_the_weights_alone(finished: tuple[Path, Path], tmp_path: Path) -> None:
    config, work = finished
    options = ["--cfg-options", f"load_from={work / 'iter_18.pth'}", "resume=False", "lr=5e-3"]
    text = train(config, tmp_path / "w", *options)
    assert f"Loaded weights from {work / 'iter_18'}" in text
    records = trained(tmp_path / "w")
    assert [r[0] for r in records] == list(range(1, 19))
    first, last = trained(work)[0], trained(work)[-1]
    loss = 3
    assert records[0][loss] < (first[loss] + last[loss]) / 2
    assert records[0][-2:] == first[-2:], "samples and tokens are counted anew"


def test_a_first_start_with_resume_takes_load_from_too(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    config, work = finished
    load_from = ["--cfg-options", f"load_from={work / 'iter_18'}"]
    text = train(config, tmp_path / "w", "--resume", *load_from)
    assert "Loaded weights from" in text
    again = train(config, tmp_path / "w", "--resume", *load_from)
    assert "Loaded weights from" not in again and "nothing left to do" in again


# -- who may write -------------------------------------------------------------------------------


def races(folder: Path, model: Path, count: int) -> None:
    config = write_config(folder, model, batch_size=8, max_epochs=20)
    for trial in range(count):
        words = ["train", config, "--work-dir", folder / f"w{trial}"]
        children = [start(words, folder) for _ in range(2)]
        codes = sorted(child.wait() for child in children)
        texts = [child.text for child in children]
        assert codes == [0, 1], "\n".join(texts)
        # The loser meets the other in progress, or, on a slow machine, already finished.
        late = ("belongs to a run in progress", "already holds")
        assert sum(any(word in t for word in late) for t in texts) == 1, "\n".join(texts)
        assert ckpt.newest_valid(folder / f"w{trial}")[1] == []
        assert len(trained(folder / f"w{trial}")) == 60


def test_of_two_runs_in_one_work_dir_one_proceeds(tmp_path: Path, tiny_model: Path) -> None:
    races(tmp_path, tiny_model, 4)


@pytest.mark.long
def test_of_two_runs_in_one_work_dir_one_proceeds_in_20_races(
    tmp_path: Path, tiny_model: Path
) -> None:
    races(tmp_path, tiny_model, 20)


def test_a_folder_that_cannot_be_written_is_refused_before_the_model_loads(
    tmp_path: Path, tiny_model: Path
) -> None:
    config = write_config(tmp_path, tiny_model)
    (tmp_path / "file").write_text("")
    (tmp_path / "odd" / ".lock").mkdir(parents=True)
    for work in (tmp_path / "file", tmp_path / "file" / "w", tmp_path / "odd"):
        assert "cannot be written" in refused(config, work)


def test_paths_in_any_script(tmp_path: Path, tiny_model: Path) -> None:
    folder = tmp_path / "данные 数据 é"
    data = write_rows(folder / "行 1.json")
    model = folder / "модель"
    shutil.copytree(tiny_model, model)
    config = write_config(folder, model, data, name="настройки", max_epochs=1)
    work = folder / "работа ✓"
    code, text = inlay(["train", config, "--work-dir", work], tmp_path, stop_at(4))
    assert code == 143, text
    text = train(config, work, "--resume")
    assert f"Auto resumed from the latest checkpoint {work / 'iter_4'}" in text
    assert to_plain(load_config(work / "настройки.py")) == to_plain(load_config(config))


# -- what may change -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> tuple[Path, Path]:
    """Config and work dir of a LoRA run that was stopped after 6 of 18 iterations."""
    folder = tmp_path_factory.mktemp("base")
    config = write_config(folder, tiny_model, dropout=0.0)
    words = ["train", config, "--work-dir", folder / "w"]
    assert inlay(words, folder, stop_at(6))[0] == 143
    return config, folder / "w"


def other_rows(folder: Path, model: Path) -> list[str]:
    path = write_rows(folder / "others.json", [row(i) for i in range(100, 130)])
    return [f"data_path={path}"]


def other_tokenizer(folder: Path, model: Path) -> list[str]:
    """The same model beside a tokenizer with one more special token."""
    from transformers import AutoTokenizer

    shutil.copytree(model, folder / "model")
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.add_tokens(["<|red|>"], special_tokens=True)
    tokenizer.save_pretrained(folder / "model")
    return [f"model_path={folder / 'model'}"]


def other_weights(folder: Path, model: Path) -> list[str]:
    import torch
    from transformers import AutoModelForCausalLM

    shutil.copytree(model, folder / "model")
    llm = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        llm.model.layers[1].mlp.up_proj.weight.mul_(1.01)
    llm.save_pretrained(folder / "model")
    return [f"model_path={folder / 'model'}"]


def say(*options: str) -> Callable[[Path, Path], list[str]]:
    return lambda folder, model: list(options)


REFUSED: dict[str, tuple[str, Callable[[Path, Path], list[str]]]] = {
    "data": ("data", other_rows),
    "val_fraction": ("data", say("val_fraction=0.2")),
    "template": ("template", say("prompt_template=qwen_chat")),
    "tokenizer": ("tokenizer", other_tokenizer),
    "max_length": ("packing", say("max_length=80")),
    "packing": ("packing", say("pack_to_max_length=False")),
    "optimizer": ("optimizer", say("optimizer.type=torch.optim.Adam")),
    "lora_r": ("architecture", say("lora.r=8")),
    "base_weights": ("base_weights", other_weights),
    "batch_size": ("effective_batch", say("batch_size=4")),
    "accumulation": ("effective_batch", say("accumulative_counts=1")),
    "seed": ("seed", say("base_seed=1")),
}


@pytest.mark.parametrize("change", REFUSED)
def test_another_run_is_refused_and_the_key_named(
    base: tuple[Path, Path], tiny_model: Path, tmp_path: Path, change: str
) -> None:
    config, work = base
    key, make = REFUSED[change]
    options = make(tmp_path, tiny_model)
    text = refused(config, work, "--resume", "--cfg-options", *options, before=None)
    flags = re.search(r"--allow-change ([\w ]+)$", text.strip())
    assert flags is not None, text
    assert flags[1].split() == [key]
    assert f"{key} (" in text


FREE = {
    "lr": ["lr=1e-3"],
    "max_epochs": ["max_epochs=3"],
    "save interval": ["save_steps=5", "keep=1"],
    "workers": ["dataloader_num_workers=1"],
    "evaluation": ["evaluation_inputs=[row 1?]"],
    "logging": ["interval=5"],
}


@pytest.mark.parametrize("change", FREE)
def test_what_is_free_goes_on(base: tuple[Path, Path], tmp_path: Path, change: str) -> None:
    config, work = base
    shutil.copytree(work, tmp_path / "w")
    train(config, tmp_path / "w", "--resume", "--cfg-options", *FREE[change])
    last = trained(tmp_path / "w")[-1]
    assert last[:2] == ((27, 15) if change == "max_epochs" else (18, 10))


@pytest.mark.parametrize("batch,accumulate", [(4, 1), (1, 4)])
def test_an_equal_product_goes_on_at_the_right_item_with_the_table_shown(
    base: tuple[Path, Path], tmp_path: Path, batch: int, accumulate: int
) -> None:
    config, work = base
    shutil.copytree(work, tmp_path / "w")
    sizes = [f"batch_size={batch}", f"accumulative_counts={accumulate}"]
    text = train(config, tmp_path / "w", "--resume", "--cfg-options", *sizes)
    assert re.search(rf"batch_size +2 +{batch} +continues", text)
    assert re.search(rf"accumulative_counts +2 +{accumulate} +continues", text)
    assert re.search(r"continues at update 3, epoch 1, item 12 of 1[78]", text)
    records = trained(tmp_path / "w")
    assert records[-1][1] == 10 and records[-1][-1] == 60, "updates and samples of the whole run"


def test_a_change_that_is_allowed_by_name_goes_on(base: tuple[Path, Path], tmp_path: Path) -> None:
    config, work = base
    shutil.copytree(work, tmp_path / "w")
    words = ["--cfg-options", "batch_size=4", "base_seed=1"]
    text = refused(config, work, "--resume", "--allow-change", "seed", *words, before=None)
    assert text.strip().endswith("--allow-change effective_batch")
    keys = ["seed", "effective_batch"]
    text = train(config, tmp_path / "w", "--resume", "--allow-change", *keys, *words)
    assert re.search(r"seed +0 +1 +continues", text)
    assert trained(tmp_path / "w")[-1][0] == 10, "two epochs of five iterations"
    text = refused(config, work, "--resume", "--allow-change", "effective_bach", before=None)
    assert "Did you mean 'effective_batch'?" in text


def test_a_work_dir_may_be_moved(base: tuple[Path, Path], tmp_path: Path) -> None:
    config, work = base
    shutil.copytree(work, tmp_path / "elsewhere")
    assert "Auto resumed" in train(config, tmp_path / "elsewhere", "--resume")
