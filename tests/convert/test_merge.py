"""Merging adapters and splitting shards keep the logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from inlay.cli import main
from inlay.convert.merge import merge
from inlay.convert.probe import probe_ids, probe_logits
from inlay.convert.split import split
from inlay.convert.verify import verify
from inlay.core.errors import CheckpointError, ModelError


def adapter_for(base: Path, out: Path, **lora: Any) -> Path:
    """A random adapter for the model at ``base``."""
    model = AutoModelForCausalLM.from_pretrained(base)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, **lora)
    tuned = get_peft_model(model, config)
    torch.manual_seed(2)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    tuned.save_pretrained(out)
    return out


def logits(path: Path, adapter: Path | None = None) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(path)
    ids = probe_ids(model.config.vocab_size)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    return probe_logits(model, ids)


@pytest.fixture(scope="module")
def tied_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import AutoTokenizer

    config = LlamaConfig.from_pretrained(tiny_model, tie_word_embeddings=True)
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("tied")
    LlamaForCausalLM(config).save_pretrained(path)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(path)
    return path


@pytest.mark.parametrize(
    ("lora", "still_tied"),
    [
        ({"target_modules": "all-linear"}, True),
        ({"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]}, False),
        ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, False),
        ({"target_modules": ["q_proj", "embed_tokens"]}, False),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_merged_equals_adapter(
    tied_model: Path, tmp_path: Path, lora: dict[str, Any], still_tied: bool
) -> None:
    adapter = adapter_for(tied_model, tmp_path / "adapter", **lora)
    out = merge(str(tied_model), str(adapter), tmp_path / "out")
    expected = logits(tied_model, adapter)
    assert torch.allclose(logits(out), expected, atol=1e-4)
    assert not torch.allclose(logits(tied_model), expected, atol=1e-2)
    config = json.loads((out / "config.json").read_text())
    assert config["tie_word_embeddings"] is still_tied


def test_the_command_merges_and_verifies(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = adapter_for(tiny_model, tmp_path / "adapter", target_modules="all-linear")
    out = tmp_path / "out"
    words = ["convert", "merge", str(tiny_model), str(adapter), str(out), "--device", "cpu"]
    assert main(words) == 0
    assert "FAIL" not in capsys.readouterr().out
    assert main(["convert", "split", str(out), str(tmp_path / "split")]) == 0
    assert main(["convert", "verify", str(tmp_path / "split")]) == 0
    (tmp_path / "split" / "model-00001-of-00021.safetensors").unlink()
    assert main(["convert", "verify", str(tmp_path / "split")]) == 1


@pytest.mark.parametrize(
    ("change", "renames"),
    [
        ({"hidden_size": 48}, None),
        ({"num_hidden_layers": 3}, None),
        ({"num_hidden_layers": 1}, None),
        ({}, ("self_attn", "attention")),
    ],
)
@pytest.mark.parametrize("command", ["chat", "merge"])
def test_an_adapter_for_another_model_is_refused(
    tiny_model: Path,
    tmp_path: Path,
    change: dict[str, int],
    renames: tuple[str, str] | None,
    command: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from safetensors.torch import load_file, save_file

    config = LlamaConfig.from_pretrained(tiny_model, **change)
    LlamaForCausalLM(config).save_pretrained(tmp_path / "other")
    lora = {"target_modules": ["q_proj", "v_proj"]}
    adapter = adapter_for(tmp_path / "other", tmp_path / "adapter", **lora)
    if renames:
        file = adapter / "adapter_model.safetensors"
        save_file({k.replace(*renames): v for k, v in load_file(file).items()}, file)
    words = {
        "chat": ["chat", str(tiny_model), "--adapter", str(adapter)],
        "merge": ["convert", "merge", str(tiny_model), str(adapter), str(tmp_path / "out")],
    }
    assert main(words[command]) == 1
    error = capsys.readouterr().err
    assert "adapter" in error and "Traceback" not in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("shard_size", ["20KB", "1GB"])
def test_split(tiny_model: Path, tmp_path: Path, shard_size: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.save_pretrained(tmp_path / "src", max_shard_size=shard_size)
    (tmp_path / "src" / "notes.txt").write_text("kept")
    out = split(tmp_path / "src", tmp_path / "out")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    names = dict(model.named_parameters())
    assert index["weight_map"].keys() == names.keys()
    assert len(list(out.glob("*.safetensors"))) == len(names)
    assert (out / "notes.txt").read_text() == "kept"
    assert torch.equal(logits(out), logits(tmp_path / "src"))


@pytest.mark.parametrize("sharded", [False, True])
def test_split_of_torch_files(tiny_model: Path, tmp_path: Path, sharded: bool) -> None:
    src = tmp_path / "src"
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.config.save_pretrained(src)
    state = model.state_dict()
    if sharded:
        parts = {"a.bin": dict(list(state.items())[:5]), "b.bin": dict(list(state.items())[5:])}
        weight_map = {name: file for file, part in parts.items() for name in part}
        index = {"metadata": {}, "weight_map": weight_map}
        (src / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    else:
        parts = {"pytorch_model.bin": state}
    for file, part in parts.items():
        torch.save(part, src / file)
    out = split(src, tmp_path / "out")
    assert len(list(out.glob("*.safetensors"))) == len(state) and not list(out.glob("*.bin*"))
    assert torch.equal(logits(out), logits(tiny_model))


def test_split_refuses_what_holds_no_weights(tmp_path: Path) -> None:
    src = tmp_path / "src"
    src.mkdir()
    with pytest.raises(ModelError, match=r"expected weights.*pytorch_model\.bin.*found none"):
        split(src, tmp_path / "out")
    canary = tmp_path / "canary"

    class Evil:
        def __reduce__(self) -> Any:
            return (Path.touch, (canary,))

    torch.save({"x": Evil()}, src / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="is refused"):
        split(src, tmp_path / "out")
    assert not canary.exists() and not (tmp_path / "out").exists()
    index = {"weight_map": {"x": "gone.bin"}}
    (src / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"missing: .*gone\.bin"):
        split(src, tmp_path / "out")


def test_verify_needs_an_export(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match=r"inlay_export\.json"):
        verify(tiny_model)
