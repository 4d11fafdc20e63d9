"""`inlay serve --print-vllm`: the command for an exported folder, or why there is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from inlay.app import vllm
from inlay.app.vllm import vllm_command
from inlay.cli import main
from inlay.core.errors import ConfigError, InlayError, ModelError

DATA = Path(vllm.__file__).parent / "demo_data"


def adapter(folder: Path, **settings: object) -> str:
    folder.mkdir()
    known = {"base_model_name_or_path": "Qwen/Qwen2.5-0.5B", "r": 24, "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(known | settings))
    return str(folder)


def test_the_command_of_an_exported_folder(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "my model")
    assert main(["serve", str(folder), "--print-vllm", "--port", "8001"]) == 0
    assert capsys.readouterr().out == (
        f"vllm serve '{folder}' --served-model-name 'my model' --host 127.0.0.1 --port 8001\n"
    )
    assert "--port" not in vllm_command(str(folder))


def test_an_adapter_is_served_on_its_base_or_merged(tmp_path: Path) -> None:
    lora = adapter(tmp_path / "lora")
    with pytest.raises(ConfigError) as refused:
        vllm_command(lora)
    text = str(refused.value)
    assert f"inlay convert merge Qwen/Qwen2.5-0.5B {lora} FOLDER" in text
    assert f"--enable-lora --max-lora-rank 32 --lora-modules lora={lora}" in text


def test_an_adapter_on_a_folder_is_refused_too(tiny_model: Path, tmp_path: Path) -> None:
    lora = adapter(tmp_path / "lora")
    with pytest.raises(ConfigError, match=f"vllm serve {tiny_model} .*--enable-lora"):
        vllm_command(str(tiny_model), lora)


def test_an_adapter_with_whole_modules_can_only_be_merged(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="merge it") as refused:
        vllm_command(adapter(tmp_path / "lora", modules_to_save=["lm_head"]))
    assert "--enable-lora" not in str(refused.value)


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        (DATA / "tiny_vlm", "LLaVA parts.*--save-format huggingface"),
        (DATA / "stories260k", "no chat template"),
        (DATA / "nowhere", "is none"),
        (DATA / "tiny_grounder", "checkpoint of a run"),
    ],
)
def test_what_vllm_would_not_serve(folder: Path, message: str) -> None:
    with pytest.raises(InlayError, match=message):
        vllm_command(str(folder))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "internlm2"}')
    with pytest.raises(ModelError) as refused:
        vllm_command(str(tmp_path))
    for words in ("--layout llama", "no weights", "no chat template"):
        assert words in str(refused.value)


def test_what_cannot_be_said_to_vllm(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--print-vllm", "--ground", "x", "--prompt-template", "qwen_chat"]
    assert main(["serve", "model", *words]) == 1
    assert "--ground, --prompt-template cannot be said to vLLM" in capsys.readouterr().err
