"""InternLM2 as the exercises use it: QLoRA on the fused modules, convert, merge, chat, with a
folder whose own code must never run although the config trusts it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

import pytest
import runs
import test_export_vlm as eyes
import tiny_vlms
from PIL import Image
from tiny_internlm2 import write_internlm2

CONFIG = """
import torch
from peft import LoraConfig
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from inlay.data import PROMPT_TEMPLATE, ChatDataset
from inlay.engine import OptimWrapper, TrainLoop
from inlay.engine.hooks import CheckpointHook, EvaluateChatHook, LoggerHook
from inlay.models import SupervisedFinetune

path = {model!r}
full = False
tokenizer = dict(
    type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path=path,
    trust_remote_code=True, padding_side="right",
)
llm = dict(
    type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path=path,
    trust_remote_code=True, dtype=torch.float32,
)
quantization = dict(
    type=BitsAndBytesConfig, load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32,
    bnb_4bit_use_double_quant=True, bnb_4bit_quant_type="nf4",
)
lora = dict(
    type=LoraConfig, r=8, lora_alpha=16, target_modules=["wqkv", "wo", "w1", "w2", "w3"],
    task_type="CAUSAL_LM",
)
model = dict(
    type=SupervisedFinetune,
    llm=llm if full else dict(llm, quantization_config=quantization),
    lora=None if full else lora,
)
train_dataloader = dict(
    batch_size=1, num_workers=0,
    dataset=dict(
        type=ChatDataset, sources=[dict(path={rows!r})], tokenizer=tokenizer,
        template="internlm2_chat", max_length=128, pack_to_max_length=True,
    ),
)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=2e-2), dtype="float32")
train_cfg = dict(type=TrainLoop, max_epochs=3)
default_hooks = dict(
    logger=dict(type=LoggerHook, interval=1),
    checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=1000),
)
custom_hooks = [
    dict(
        type=EvaluateChatHook, tokenizer=tokenizer, evaluation_inputs=["你是谁？"],
        max_new_tokens=4,
    )
]
randomness = dict(seed=0)
"""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("job")
    write_internlm2(folder / "internlm2", folder / "canary")
    runs.write_rows(folder / "rows.json")
    names = {"model": str(folder / "internlm2"), "rows": str(folder / "rows.json")}
    (folder / "config.py").write_text(CONFIG.format(**names), encoding="utf-8")
    return folder


def ask() -> None:
    """For ``before``: a user at the terminal."""
    runs.look_here()
    sys.stdin = io.StringIO("row 3?\n\nEXIT\n\n")


def run(job: Path, *words: str | Path) -> str:
    code, text = runs.inlay(words, job, before=ask)
    assert code == 0, text
    assert not (job / "canary").exists()
    return text


@pytest.mark.long
def test_qlora_convert_merge_chat(job: Path) -> None:
    run(job, "train", job / "config.py", "--work-dir", job / "qlora")
    losses = [line["loss"] for line in runs.scalars(job / "qlora") if "loss" in line]
    assert losses[-1] < losses[0] - 1
    iters = max(int(f.name[5:]) for f in (job / "qlora").glob("iter_*"))
    run(job, "convert", "pth_to_hf", job / "config.py", job / f"qlora/iter_{iters}", job / "hf")
    config = json.loads((job / "hf" / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == ["w1", "w2", "w3", "wo", "wqkv"]
    for layout in ("own", "llama"):
        words = ("convert", "merge", job / "internlm2", job / "hf", job / layout)
        run(job, *words, "--layout", layout, "--device", "cpu")
    greedy = ("--temperature", "0", "--max-new-tokens", "24", "--torch-dtype", "fp32")
    for words in ((job / "own",), (job / "internlm2", "--adapter", job / "hf")):
        answer = run(job, "chat", *words, *greedy).split(">>> ", 1)[1]
        assert "green" in answer or "blue" in answer or "red" in answer


@pytest.mark.long
@pytest.mark.parametrize("layout", ["own", "llama"])
def test_a_full_run_goes_out_in_either_layout(job: Path, layout: str) -> None:
    options = ("--cfg-options", "full=True")
    if not (job / "full").exists():
        words = (*options, "train_cfg.max_epochs=1")
        run(job, "train", job / "config.py", "--work-dir", job / "full", *words)
    checkpoint = next((job / "full").glob("iter_*"))
    out = job / f"full_{layout}"
    words = ("convert", "pth_to_hf", job / "config.py", checkpoint, out, "--layout", layout)
    run(job, *words, "--fp32", *options)
    found = json.loads((out / "config.json").read_text())["model_type"]
    assert found == {"own": "internlm2", "llama": "llama"}[layout]


def test_code_that_is_needed_is_refused_and_the_way_is_said(job: Path) -> None:
    """A model that only its own code can read: named, and not run."""
    other = job / "other"
    other.mkdir()
    fields = json.loads((job / "internlm2" / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**fields, "model_type": "internlm9"}))
    for file in (job / "internlm2").glob("*.py"):
        (other / file.name).write_bytes(file.read_bytes())
    words = ("train", job / "config.py", "--work-dir", job / "refused", "--cfg-options")
    code, text = runs.inlay((*words, f"model.llm.pretrained_model_name_or_path={other}"), job)
    assert code == 1
    assert "INLAY_TRUST_REMOTE_CODE=1" in text and "Traceback" not in text
    assert not (job / "canary").exists()


@pytest.mark.long
def test_eyes_on_an_internlm2_become_a_llava_of_transformers(job: Path) -> None:
    names = {"llm": str(job / "internlm2"), "encoder": str(tiny_vlms.clip(job / "clip"))}
    Image.new("RGB", (80, 60), "red").save(job / "red.png")
    turns = [("user", "<image>\nWhat?"), ("assistant", "red")]
    messages = [{"role": role, "content": content} for role, content in turns]
    runs.write_rows(job / "eyes.json", [{"messages": messages, "images": ["red.png"]}] * 2)
    text = eyes.CONFIG.format(
        **names,
        rows=str(job / "eyes.json"),
        folder=str(job),
        processor=eyes.SQUARE.format(**names),
        model=eyes.LLAVA.format(**names) + eyes.SETTINGS["lora"],
    )
    (job / "eyes.py").write_text(text)
    run(job, "train", job / "eyes.py", "--work-dir", job / "eyes")
    checkpoint = max((job / "eyes").glob("iter_*"))
    words = ("convert", "pth_to_hf", job / "eyes.py", checkpoint, job / "llava")
    run(job, *words, "--fp32", "--save-format", "huggingface")
    config = json.loads((job / "llava" / "config.json").read_text())
    assert (config["model_type"], config["text_config"]["model_type"]) == ("llava", "llama")
