"""The command that serves an exported folder with vLLM, under OpenAI's addresses."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

from inlay.core.errors import ConfigError, ModelError

RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values of vLLM's ``--max-lora-rank``."""


def vllm_command(model: str, adapter: str | None = None, port: int | None = None) -> str:
    """Return ``vllm serve FOLDER ...``; nothing is started.

    Args:
        model: folder that transformers opens, weights and chat template in it.
        adapter: is refused, with the command that serves it.
        port: None leaves vLLM's own.

    Raises:
        ConfigError: an adapter, a checkpoint of a run, or no folder.
        ModelError: a folder that vLLM would not serve as a chat.
    """
    folder = Path(model).expanduser()
    _check_folder(folder, model)
    _check_layout(folder)
    if adapter is not None:
        raise ConfigError(_with_adapter(str(folder), Path(adapter).expanduser()))
    problems = _problems(folder)
    if problems:
        raise ModelError(f"vLLM would not serve {folder} as a chat: " + "; ".join(problems))
    return _command(folder, ["--port", str(port)] if port is not None else [])


def _command(folder: Path | str, options: list[str]) -> str:
    name = Path(folder).resolve().name
    words = ["vllm", "serve", str(folder), "--served-model-name", name, "--host", "127.0.0.1"]
    return shlex.join([*words, *options])


def _check_folder(folder: Path, model: str) -> None:
    from inlay.app.checkpoint_config import training_checkpoint

    if not folder.is_dir():
        raise ConfigError(f"--print-vllm takes an exported folder, and '{model}' is none")
    if training_checkpoint(folder) is not None:
        raise ConfigError(
            f"{folder} is a checkpoint of a run: export it first "
            "(inlay convert pth_to_hf CONFIG CHECKPOINT FOLDER)"
        )
    if (folder / "adapter_config.json").is_file():
        base = _json(folder / "adapter_config.json").get("base_model_name_or_path") or "BASE"
        raise ConfigError(_with_adapter(str(base), folder))


def _check_layout(folder: Path) -> None:
    from inlay.models.load_vlm import kind_of

    export = "inlay convert pth_to_hf ... --save-format"
    match kind_of(folder):
        case "parts":
            raise ModelError(
                f"{folder} holds LLaVA parts, which vLLM does not know: write one model with "
                f"{export} huggingface"
            )
        case "nanovlm":
            raise ModelError(f"{folder} is a nanoVLM, which vLLM does not know: use inlay serve")


def _problems(folder: Path) -> list[str]:
    """What keeps vLLM from serving a folder, all of it."""
    from transformers import CONFIG_MAPPING

    found = []
    kind = _json(folder / "config.json").get("model_type")
    if kind == "internlm2":
        found.append("InternLM2 under its own names: convert it with --layout llama")
    elif kind not in CONFIG_MAPPING:
        found.append(f"its config.json names the model type {kind!r}, unknown to transformers")
    if not any(folder.glob("*.safetensors")):
        found.append("it holds no weights (*.safetensors)")
    if not _has_template(folder):
        found.append(
            "its tokenizer has no chat template: inlay convert writes one for a model that was "
            "trained with one, and vLLM takes a file with --chat-template"
        )
    return found


def _has_template(folder: Path) -> bool:
    files = (folder / "chat_template.jinja", folder / "chat_template.json")
    settings = _json(folder / "tokenizer_config.json")
    return bool(settings.get("chat_template")) or any(file.is_file() for file in files)


def _with_adapter(base: str, adapter: Path) -> str:
    """Why an adapter is not served as it is, and how it would be."""
    settings = _json(adapter / "adapter_config.json")
    rank = int(settings.get("r") or RANKS[0])
    merge = f"inlay convert merge {shlex.quote(base)} {shlex.quote(str(adapter))} FOLDER"
    fitting = [known for known in RANKS if known >= rank]
    if settings.get("modules_to_save") or not fitting:
        return f"{adapter} is an adapter that vLLM cannot put on a model: merge it ({merge})"
    lora = ["--enable-lora", "--max-lora-rank", str(fitting[0])]
    lora += ["--lora-modules", f"{adapter.resolve().name}={adapter}"]
    return (
        f"{adapter} is an adapter: merge it first ({merge}), or let vLLM put it on its base: "
        f"{_command(base, lora)}"
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
