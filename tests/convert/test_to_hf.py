"""Exports: whole models and adapters load back without Inlay and give the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from inlay.convert.folder import RECORD, staged
from inlay.convert.probe import probe_logits
from inlay.convert.to_hf import export, portable_name
from inlay.convert.verify import verify
from inlay.core.errors import ModelError
from inlay.data.templates import PROMPT_TEMPLATE
from inlay.models.sft import SupervisedFinetune


def trained(path: Path, lora: dict[str, Any] | None = None, **kwargs: Any) -> SupervisedFinetune:
    """A model whose trainable weights have moved away from those at ``path``."""
    llm = AutoModelForCausalLM.from_pretrained(path, **kwargs)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, **lora) if lora is not None else None
    model = SupervisedFinetune(llm, config)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture
def tokenizer(tiny_tokenizer: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_tokenizer)


def test_a_whole_model(
    tiny_model: Path, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = trained(tiny_model)
    # as published models have it: transformers refuses to save this
    model.llm.generation_config = GenerationConfig(temperature=0.6, do_sample=False)
    out = tmp_path / "out"
    facts = {"Iterations": 12}
    export(model, tokenizer, out, max_shard_size="20KB", card=facts)
    files = {file.name for file in out.iterdir()}
    assert files >= {
        "config.json",
        "generation_config.json",
        "model.safetensors.index.json",
        "tokenizer.json",
        "chat_template.jinja",
        "README.md",
        RECORD,
    }
    config = json.loads((out / "config.json").read_text())
    assert config["use_cache"] is True and config["dtype"] == "float16"
    assert "inlay" not in json.dumps(config)
    assert GenerationConfig.from_pretrained(out).eos_token_id == tokenizer.eos_token_id
    assert "| Iterations | 12 |" in (out / "README.md").read_text()
    ids = json.loads((out / RECORD).read_text())["probe_ids"]
    report = verify(out, reference_logits=probe_logits(model.llm, ids))
    assert report["difference"] == 0.0
    assert all(check["ok"] for check in report["checks"].values())
    assert report["checks"]["process"]["detail"] == "without inlay"
    assert report["checks"]["chat template"]["detail"].endswith("10 conversations, token for token")
    assert "FAIL" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "lora",
    [
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    ],
)
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_an_adapter(
    tiny_model: Path,
    tokenizer: Any,
    tmp_path: Path,
    here: None,
    lora: dict[str, Any],
    stored: torch.dtype,
) -> None:
    model = trained(tiny_model, lora, dtype=stored)
    out = tmp_path / "out"
    export(model, tokenizer, out)
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_model)
    weights = load_file(out / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
    assert not (out / "config.json").exists()
    assert verify(out)["difference"] == 0.0


def test_a_qlora_adapter_is_a_plain_adapter(
    tiny_model: Path, tokenizer: Any, tmp_path: Path
) -> None:
    from inlay.models.lm import quantization

    # bitsandbytes on a CPU wants rows of whole blocks of 64, and a multiple of 32 rows
    wide = LlamaConfig.from_pretrained(tiny_model, hidden_size=64, head_dim=16)
    LlamaForCausalLM(wide).save_pretrained(tmp_path / "base")
    lora = {"target_modules": "all-linear"}
    four_bits = quantization(4, torch.bfloat16)
    model = trained(tmp_path / "base", lora, quantization_config=four_bits, dtype=torch.bfloat16)
    out = tmp_path / "out"
    export(model, tokenizer, out, base_name="owner/name")
    config = (out / "adapter_config.json").read_text()
    assert json.loads(config)["base_model_name_or_path"] == "owner/name"
    assert "4bit" not in config
    assert 'base_model: "owner/name"' in (out / "README.md").read_text()
    assert verify(out, base=str(tmp_path / "base"))["difference"] == 0.0


def test_the_named_template_travels(tiny_model: Path, tokenizer: Any, tmp_path: Path) -> None:
    template = PROMPT_TEMPLATE.llama3_chat | {"SUFFIX": "<|endoftext|>"}
    template["STOP_WORDS"] = ["<|endoftext|>"]
    before = tokenizer.chat_template
    export(trained(tiny_model), tokenizer, tmp_path / "out", template=template)
    assert tokenizer.chat_template == before
    text = AutoTokenizer.from_pretrained(tmp_path / "out").apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert text == template["INSTRUCTION"].replace("{input}", "hi")
    eos = GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id
    stop = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert stop in ([eos] if isinstance(eos, int) else eos)


def corrupt_zero(out: Path) -> None:
    file = out / "model.safetensors"
    tensors = load_file(file)
    tensors["model.layers.0.mlp.up_proj.weight"].zero_()
    save_file(tensors, file, {"format": "pt"})


def corrupt_nan(out: Path) -> None:
    file = out / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, file, {"format": "pt"})


def corrupt_missing(out: Path) -> None:
    file = out / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    save_file(tensors, file, {"format": "pt"})


def corrupt_file(out: Path) -> None:
    data = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(data[:-100])


def corrupt_template(out: Path) -> None:
    (out / "chat_template.jinja").unlink()


def corrupt_stop(out: Path) -> None:
    config = json.loads((out / "generation_config.json").read_text())
    (out / "generation_config.json").write_text(json.dumps({**config, "eos_token_id": 3}))


@pytest.mark.parametrize(
    ("corrupt", "named"),
    [
        (corrupt_zero, "logits: largest difference"),
        (corrupt_nan, "model.norm.weight has NaN"),
        (corrupt_missing, "missing_keys: model.norm.weight"),
        (corrupt_file, "does not load"),
        (corrupt_template, "chat template: none"),
        (corrupt_stop, "stop token"),
    ],
)
def test_verify_sees_damage(
    tiny_model: Path, tokenizer: Any, tmp_path: Path, here: None, corrupt: Any, named: str
) -> None:
    out = export(trained(tiny_model), tokenizer, tmp_path / "out", dtype=None)
    corrupt(out)
    with pytest.raises(ModelError, match=named):
        verify(out)


def test_weights_that_overflow_are_refused(
    tiny_model: Path, tokenizer: Any, tmp_path: Path
) -> None:
    model = trained(tiny_model)
    model.llm.lm_head.weight.data[0, 0] = 1e6  # infinite in float16
    with pytest.raises(ModelError, match=r"lm_head.*--fp32"):
        export(model, tokenizer, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_folders_are_replaced_only_when_ours(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    for text in ("one", "two"):
        with staged(mine) as folder:
            (folder / RECORD).write_text(text)
    assert (mine / RECORD).read_text() == "two"
    with pytest.raises(KeyError), staged(mine) as folder:
        (folder / RECORD).write_text("three")
        raise KeyError
    assert (mine / RECORD).read_text() == "two"
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.tex").touch()
    with pytest.raises(ModelError, match="not empty"), staged(tmp_path / "theirs"):
        pass
    assert {p.name for p in tmp_path.iterdir()} == {"mine", "theirs"}


def test_portable_names(tmp_path: Path) -> None:
    cached = "/home/x/.cache/huggingface/hub/models--Qwen--Qwen3-0.6B/snapshots/c1899de"
    assert portable_name(cached) == "Qwen/Qwen3-0.6B"
    assert portable_name("Qwen/Qwen3-0.6B") == "Qwen/Qwen3-0.6B"
    assert portable_name(str(tmp_path)) == str(tmp_path)


def test_a_tokenizer_without_a_template(tiny_model: Path, tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.chat_template = None
    out = export(trained(tiny_model), tokenizer, tmp_path / "out")
    assert not (out / "chat_template.jinja").exists()
    assert GenerationConfig.from_pretrained(out).eos_token_id == tokenizer.eos_token_id
