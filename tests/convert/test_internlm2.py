"""InternLM2 goes out in its own layout, with its published files, or as a Llama."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny_internlm2 import reference_logits, write_internlm2
from transformers import AutoTokenizer

from inlay.cli import main
from inlay.convert.internlm2 import in_layout
from inlay.convert.merge import merge
from inlay.convert.to_hf import export
from inlay.convert.verify import verify
from inlay.core.errors import ModelError
from inlay.models.lm import load_adapter, load_causal_lm
from inlay.models.sft import SupervisedFinetune

IDS = [(7 * i * i + 3) % 500 for i in range(24)]
PLAIN = """
import sys, torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
assert type(model).__name__ == "LlamaForCausalLM"
ids = AutoTokenizer.from_pretrained(sys.argv[1])("<|im_start|>user\\n你好 🙂<|im_end|>").input_ids
with torch.no_grad():
    logits = model(torch.tensor([[int(i) for i in sys.argv[2].split()]])).logits[0]
save_file({"logits": logits.contiguous(), "ids": torch.tensor(ids)}, sys.argv[3])
assert "inlay" not in sys.modules
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "internlm2"
    write_internlm2(folder, folder.parent / "canary")
    return folder


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """A random adapter on the fused modules."""
    lora = LoraConfig(target_modules=["wqkv", "wo", "w1", "w2", "w3"], task_type="CAUSAL_LM", r=4)
    torch.manual_seed(2)
    tuned = get_peft_model(load_causal_lm(str(base)), lora)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    tuned.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([IDS])).logits[0]


def in_plain_transformers(folder: Path, scratch: Path) -> dict[str, torch.Tensor]:
    """Logits, and ids of a text, in a process without Inlay."""
    arguments = [str(folder), " ".join(map(str, IDS)), str(scratch / "found")]
    words = [sys.executable, "-I", "-c", PLAIN, *arguments]
    subprocess.run(words, check=True, capture_output=True, text=True)
    return load_file(scratch / "found")


def test_merging_keeps_its_own_layout(base: Path, adapter: Path, tmp_path: Path) -> None:
    expected = logits(load_adapter(load_causal_lm(str(base)), str(adapter)).eval())
    out = merge(str(base), str(adapter), tmp_path / "out")
    merged = load_file(out / "model.safetensors")
    published = json.loads((base / "model.safetensors.index.json").read_text())["weight_map"]
    assert merged.keys() == published.keys()
    assert (reference_logits(merged, IDS) - expected).abs().max() < 1e-4
    assert (logits(load_causal_lm(str(out))) - expected).abs().max() < 1e-4
    code = sorted(file.name for file in base.glob("*.py"))
    assert len(code) == 4
    for name in (*code, "tokenizer.model"):
        assert (out / name).read_bytes() == (base / name).read_bytes()
    before, after = (json.loads((f / "config.json").read_text()) for f in (base, out))
    for field in ("auto_map", "architectures", "model_type", "rope_scaling", "rope_theta", "bias"):
        assert after[field] == before[field]
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (base, out)]
    assert tokenizers[0].get_vocab() == tokenizers[1].get_vocab()
    assert verify(out)["checks"]["process"]["detail"] == "inlay imported"
    assert not (base.parent / "canary").exists()


def test_merging_into_llamas_layout(
    base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = logits(load_adapter(load_causal_lm(str(base)), str(adapter)).eval())
    out = tmp_path / "out"
    words = ["convert", "merge", str(base), str(adapter), str(out), "--layout", "llama"]
    assert main([*words, "--device", "cpu"]) == 0
    assert "without inlay" in capsys.readouterr().out
    assert not list(out.glob("*.py"))
    plain = in_plain_transformers(out, tmp_path)
    assert (plain["logits"] - expected).abs().max() < 1e-4
    text = "<|im_start|>user\n你好 🙂<|im_end|>"
    assert plain["ids"].tolist() == AutoTokenizer.from_pretrained(base)(text).input_ids
    assert (logits(load_causal_lm(str(out))) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("layout", ["own", "llama"])
def test_a_fully_trained_model(base: Path, tmp_path: Path, layout: str) -> None:
    model = SupervisedFinetune(load_causal_lm(str(base)))
    model.llm.model.layers[1].attention.wqkv.weight.data.mul_(1.3)
    model.llm.set_attn_implementation("sdpa")
    expected = logits(model.llm)
    model.llm = in_layout(model.llm, layout)
    assert (logits(model.llm) - expected).abs().max() < 1e-5
    tokenizer = AutoTokenizer.from_pretrained(base)
    out = export(model, tokenizer, tmp_path / "out", dtype="float32", template="internlm2_chat")
    report = verify(out)
    assert report["difference"] == 0.0
    assert report["checks"]["stop token"]["ok"]
    detail = {"own": "inlay imported", "llama": "without inlay"}
    assert report["checks"]["process"]["detail"] == detail[layout]
    assert (out / "modeling_internlm2.py").exists() == (layout == "own")
    assert not (base.parent / "canary").exists()


def test_an_adapter_names_its_base(base: Path, tmp_path: Path) -> None:
    lora = LoraConfig(target_modules=["wqkv"], task_type="CAUSAL_LM", r=4)
    model = SupervisedFinetune(load_causal_lm(str(base)), lora)
    with pytest.raises(ModelError, match="convert merge"):
        in_layout(model.llm, "llama")
    for parameter in model.parameters():
        parameter.data += 0.1 * parameter.requires_grad
    out = export(model, AutoTokenizer.from_pretrained(base), tmp_path / "out", dtype=None)
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["target_modules"]) == (str(base), ["wqkv"])
    assert verify(out)["difference"] == 0.0


def test_another_model_has_no_such_layout(tiny_model: Path) -> None:
    with pytest.raises(ModelError, match="InternLM2"):
        in_layout(load_causal_lm(str(tiny_model)), "llama")
