"""Every recipe for text makes a real update on a shrunk random model of its own class."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tiny_internlm2 import write_internlm2

from inlay.app.dry_run import dry_run
from inlay.config.load import load_config
from inlay.config.source import recipes

EYES = ("grounding", "llava", "nanovlm", "qwen_vl", "smolvlm")
NAMES = [n for n, path in recipes().items() if path.parent.name not in EYES and "vlm" not in n]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
}
CLASSES = {
    "Qwen/Qwen2.5": "Qwen2Config",
    "Qwen/Qwen3": "Qwen3Config",
    "meta-llama/": "LlamaConfig",
    "mistralai/": "MistralConfig",
    "google/gemma-3": "Gemma3TextConfig",
    "HuggingFaceTB/SmolLM2": "LlamaConfig",
    "HuggingFaceTB/SmolLM3": "SmolLM3Config",
    "internlm/internlm2": "InternLM2Config",  # ours
    "model": "LlamaConfig",  # the demo's, which ships with the package
}
"""Configuration class of each family, by the start of its name on the hub."""


def kind(name: str) -> tuple[str, str, str]:
    """Family, method and data of a recipe: (``Qwen3Config``, ``qlora``, ``alpaca_e3``)."""
    model = load_config(name)["pretrained_model_name_or_path"]
    (family,) = (c for start, c in CLASSES.items() if model.startswith(start))
    parts = re.fullmatch(r".+?_(full|lora|qlora)_(\w+?)(?:_e\d)?", name)
    assert parts is not None, f"{name}: what does this recipe do?"
    return family, parts[1], parts[2]


KINDS = {name: kind(name) for name in NAMES}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Path) -> dict[str, Path]:
    """A saved tiny random model of every class, beside the tiny tokenizer."""
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_tokenizer)
    tokens = {"bos_token_id": None, "eos_token_id": 256, "pad_token_id": 257}
    found = {}
    for name in sorted(set(CLASSES.values()) - {"InternLM2Config"}):
        torch.manual_seed(0)
        config = getattr(transformers, name)(vocab_size=len(tokenizer), **SIZES, **tokens)
        model: Any = transformers.AutoModelForCausalLM.from_config(config)
        found[name] = tmp_path_factory.mktemp(name)
        model.to(torch.bfloat16).save_pretrained(found[name])
        tokenizer.save_pretrained(found[name])
    found["InternLM2Config"] = folder = tmp_path_factory.mktemp("internlm2") / "model"
    write_internlm2(folder, folder.parent / "canary")
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rows in the format that each kind of recipe expects."""
    alpaca = [{"instruction": "add", "input": f"{i}+1", "output": f"{i + 1}"} for i in range(150)]
    texts = [{"text": f"{i} and one are {i + 1}."} for i in range(150)]
    folder = tmp_path_factory.mktemp("data")
    rows = {"alpaca": alpaca, "custom_dataset": alpaca, "demo": alpaca, "pretrain_custom": texts}
    for name, content in rows.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return {name: folder / f"{name}.json" for name in rows}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_makes_one_update(
    name: str, models: dict[str, Path], data: dict[str, Path], monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("INLAY_CACHE", str(models["LlamaConfig"].parent / "cache"))
    monkeypatch.chdir(tmp_path)
    family, _, content = KINDS[name]
    options = [
        f"pretrained_model_name_or_path={models[family]}",
        f"data_path={data[content]}",
        "max_length=128",
        "accumulative_counts=2",
    ]
    result = dry_run(name, options)
    assert 4 < result["loss"] < 8, "near the log of the vocabulary: 5.6"
    assert 0 < result["grad_norm"] < 1e4
    assert result["tokens"] > result["trained_tokens"] - 2 > 0
    assert not list(tmp_path.iterdir()), "a dry run writes nothing"


def test_qlora_really_quantises(models: dict[str, Path], data: dict[str, Path]) -> None:
    """nf4 with double quantisation through bitsandbytes; only the adapters are trained."""
    import bitsandbytes as bnb

    from inlay.app.assemble import Parts
    from inlay.app.train import checked_config

    options = [f"pretrained_model_name_or_path={models['Qwen3Config']}"]
    options += [f"data_path={data['alpaca']}"]
    model = Parts(checked_config("qwen3_0_6b_qlora_custom_dataset_e1", options), seed=0).model()
    weights = [m.weight for m in model.modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert len(weights) == 2 * 7, "all linear layers but the head"
    assert all(w.quant_state.quant_type == "nf4" and w.quant_state.nested for w in weights)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in n for n in trained)
