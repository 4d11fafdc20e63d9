"""Mistakes in the input: one clear message, no traceback, an exit code that is not zero."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import inlay, row, scalars, train, write_config, write_rows

from inlay.engine import checkpoint as ckpt


def error(words: list[str | Path], folder: Path) -> str:
    """Run a command that must fail with one message; return the message."""
    code, text = inlay(words, folder)
    assert code == 1 and "Traceback" not in text, text
    assert text.count("error: ") == 1, text
    return text[text.index("error: ") :].strip()


def train_error(config: Path, *words: str | Path) -> str:
    work = config.parent / "w"
    return error(["train", config, "--work-dir", work, *words], config.parent)


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path) -> Path:
    return write_config(tmp_path, tiny_model)


# -- config --------------------------------------------------------------------------------------


def test_the_command_line_itself_says_it_in_one_line(config: Path, tmp_path: Path) -> None:
    """Once as a user starts it; the other tests fork."""
    words = ["train", str(config), "--work-dir", str(tmp_path / "w"), "--cfg-options", "lrr=1"]
    done = subprocess.run(
        [sys.executable, "-m", "inlay", *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("error: ") and "Did you mean 'lr'?" in done.stderr
    assert not (tmp_path / "w").exists()


def test_an_unknown_key(config: Path) -> None:
    assert "Did you mean 'lr'?" in train_error(config, "--cfg-options", "lrr=1")
    text = train_error(config, "--cfg-options", "train_dataset.max_lenght=5")
    assert "max_lenght" in text and "Did you mean 'max_length'?" in text


def test_misspelt_arguments_in_the_file_are_all_named_at_once(config: Path) -> None:
    source = config.read_text().replace("max_length=max_length", "max_lenght=max_length")
    config.write_text(source.replace("clip_grad=", "clip_gard="))
    text = train_error(config)
    assert "Did you mean 'max_length'?" in text and "Did you mean 'clip_grad'?" in text


def test_a_missing_file(config: Path, tmp_path: Path) -> None:
    text = train_error(tmp_path / "tinny.py")
    assert "tinny" in text and "tiny" in text
    text = train_error(config, "--cfg-options", f"data_path={tmp_path / 'row.json'}")
    assert "data_path (line" in text and "row.json" in text
    assert "no_model" in train_error(config, "--cfg-options", f"model_path={tmp_path}/no_model")
    text = train_error(config, "--cfg-options", f"load_from={tmp_path / 'w' / 'iter_3'}")
    assert "load_from" in text and "iter_3" in text


def test_a_model_folder_without_a_model(config: Path, tmp_path: Path) -> None:
    (tmp_path / "hollow").mkdir()
    text = train_error(config, "--cfg-options", f"model_path={tmp_path / 'hollow'}")
    assert text.startswith("error: tokenizer: ")


# -- data ----------------------------------------------------------------------------------------


def data_error(config: Path, name: str, text: str, *options: str) -> str:
    path = config.parent / name
    path.write_text(text, encoding="utf-8")
    return train_error(config, "--cfg-options", f"data_path={path}", *options)


def test_malformed_json(config: Path) -> None:
    rows = json.dumps([row(i) for i in range(5)], indent=4)
    text = data_error(config, "pretty.jsonl", rows)
    assert "pretty.jsonl" in text and "line" in text and ".json" in text
    text = data_error(config, "cut.json", rows[:-40])
    assert "cut.json" in text and "line" in text
    lines = [json.dumps(row(0)), '{"messages": [', json.dumps(row(1))]
    assert "lines.jsonl, line 2" in data_error(config, "lines.jsonl", "\n".join(lines))


@pytest.mark.shared
def test_malformed_json_as_users_have_it(config: Path, shared_data: Path) -> None:
    path = shared_data / "text" / "malformed_pretty_printed.jsonl"
    text = train_error(config, "--cfg-options", f"data_path={path}")
    assert path.name in text and "line" in text


def test_rows_without_an_assistant_turn(config: Path) -> None:
    rows = [row(0), {"messages": [{"role": "user", "content": "hello?"}]}, row(1)]
    text = data_error(config, "rows2.jsonl", "\n".join(map(json.dumps, rows)))
    assert "rows2.jsonl, line 2" in text and "no assistant turn" in text and "max_bad_rows" in text


def test_an_empty_data_set(config: Path) -> None:
    assert "empty" in data_error(config, "none.json", "[]")
    assert "empty" in data_error(config, "none.jsonl", "")


def test_an_empty_side_of_a_split(config: Path) -> None:
    rows = json.dumps([row(0)])
    for fraction in (0.001, 0.999):
        text = data_error(config, "one.json", rows, f"val_fraction={fraction}")
        assert "side of the split is empty" in text and "val_fraction" in text


def test_a_template_without_a_stop_token(config: Path, tmp_path: Path, tiny_model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    text = train_error(config, "--cfg-options", f"model_path={tmp_path / 'model'}")
    assert "no stop token" in text and "prompt_template" in text


# -- checkpoints and adapters --------------------------------------------------------------------


def damage(folder: Path) -> None:
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"\x55")


def test_a_corrupted_checkpoint_falls_back_and_the_last_one_is_an_error(
    config: Path, tmp_path: Path
) -> None:
    work = tmp_path / "w"
    options = ["--cfg-options", "save_steps=6"]
    train(config, work, *options)
    assert [p.name for p in ckpt.list_checkpoints(work)] == ["iter_6", "iter_12", "iter_18"]
    damage(work / "iter_18")
    text = train(config, work, "--resume", *options)
    assert "WARNING - iter_18 is damaged and was passed over: model.safetensors" in text
    assert f"Auto resumed from the latest checkpoint {work / 'iter_12'}" in text
    assert ckpt.damage(work / "iter_18") is None, "written anew"
    assert scalars(work)[-1]["iter"] == 18
    for path in ckpt.list_checkpoints(work):
        damage(path)
    text = train_error(config, "--resume")
    assert "no usable checkpoint" in text and "iter_18 is damaged" in text
    assert "is damaged" in train_error(config, "--resume", work / "iter_6")


def test_weights_of_another_architecture(config: Path, tmp_path: Path, tiny_model: Path) -> None:
    work = tmp_path / "first"
    train(config, work, "--cfg-options", "max_epochs=1")
    lora = write_config(tmp_path, tiny_model, name="lora", dropout=0.0)
    text = train_error(lora, "--cfg-options", f"load_from={work / 'iter_9'}")
    assert "does not fit this model" in text


def test_an_adapter_for_another_model(tmp_path: Path, tiny_model: Path, monkeypatch: Any) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    other = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=300, hidden_size=48, intermediate_size=64, num_hidden_layers=3,
            num_attention_heads=4,
        )
    )  # fmt: skip
    adapter = tmp_path / "adapter"
    get_peft_model(other, LoraConfig(r=2, target_modules="all-linear")).save_pretrained(adapter)
    text = error(["chat", tiny_model, "--adapter", adapter], tmp_path)
    assert str(adapter) in text and "does not fit LlamaForCausalLM" in text


def test_data_paths_are_checked_before_the_work_dir_is_made(config: Path, tmp_path: Path) -> None:
    write_rows(tmp_path / "more.json")
    train_error(config, "--cfg-options", "data_path=./nothing.json")
    assert not (tmp_path / "w").exists()
