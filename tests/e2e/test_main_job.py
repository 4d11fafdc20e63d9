"""The main job on real input: train, SIGKILL, resume, convert, merge, chat, as a user would."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import check_equal_after_resume, inlay, records, train_killed_and_resumed

CONFIG = """
from peft import LoraConfig
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, AutoTokenizer

from inlay.data import ChatDataset
from inlay.engine import CosineAnnealingLR, LinearLR, OptimWrapper, TrainLoop
from inlay.engine.hooks import CheckpointHook, IterTimerHook, LoggerHook
from inlay.models import SupervisedFinetune

# PART 1  Settings
pretrained_model_name_or_path = {model!r}
data_path = {data!r}
prompt_template = dict(SYSTEM="{{system}}\\n", INSTRUCTION="User: {{input}}\\nBot:", SEP="\\n")
max_length = 512
batch_size = 4
accumulative_counts = 2
max_iters = {max_iters}
lr = {lr}
save_steps = 7
lora = {lora}
# PART 2  Model & Tokenizer
tokenizer = dict(
    type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path=pretrained_model_name_or_path
)
model = dict(
    type=SupervisedFinetune,
    use_activation_checkpointing=False,
    llm=dict(
        type=AutoModelForCausalLM.from_pretrained,
        pretrained_model_name_or_path=pretrained_model_name_or_path,
    ),
    lora=lora,
)
# PART 3  Dataset & Dataloader
train_dataset = dict(
    type=ChatDataset, sources=[dict(path=data_path)], tokenizer=tokenizer,
    template=prompt_template, max_length=max_length, val_fraction=0.02, part="train",
)
train_dataloader = dict(batch_size=batch_size, num_workers=1, dataset=train_dataset)
val_dataloader = dict(batch_size=batch_size, dataset=dict(train_dataset, part="val"))
# PART 4  Scheduler & Optimizer
optim_wrapper = dict(
    type=OptimWrapper, optimizer=dict(type=AdamW, lr=lr), clip_grad=dict(max_norm=1),
    accumulative_counts=accumulative_counts,
)
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-5, by_epoch=False, end=0.03 * max_iters),
    dict(type=CosineAnnealingLR, by_epoch=False, begin=0.03 * max_iters, end=max_iters),
]
train_cfg = dict(type=TrainLoop, max_iters=max_iters, val_interval=max_iters, val_begin=0)
# PART 5  Runtime
default_hooks = dict(
    timer=dict(type=IterTimerHook),
    logger=dict(type=LoggerHook, interval=1),
    checkpoint=dict(
        type=CheckpointHook, by_epoch=False, interval=save_steps, max_keep_ckpts=2
    ),
)
randomness = dict(seed=0)
"""
LORA = 'dict(type=LoraConfig, r=8, lora_dropout=0.1, target_modules="all-linear")'


def journey(tmp_path: Path, model: Path, data: Path, lora: bool, drop: float, iters: int) -> None:
    settings = {"model": str(model), "data": str(data), "max_iters": iters}
    text = CONFIG.format(**settings, lora=LORA if lora else None, lr=1e-2 if lora else 4e-3)
    (tmp_path / "run.py").write_text(text, encoding="utf-8")
    whole = inlay("train", "run.py", "--work-dir", "whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    rows = records(tmp_path / "whole")
    held_out = [r["val/loss"] for r in rows if "val/loss" in r]
    print(f"held-out loss {held_out[0]:.3f} -> {held_out[-1]:.3f} nats")
    assert held_out[-1] < held_out[0] - drop
    train_killed_and_resumed(tmp_path, ["run.py"], "killed", 2, random.Random(0))
    check_equal_after_resume(rows, records(tmp_path / "killed"))
    weights = [tmp_path / w / f"iter_{iters}" / "model.safetensors" for w in ("whole", "killed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()

    last = f"killed/iter_{iters}.pth"
    made = inlay("convert", "pth_to_hf", "run.py", last, "hf", "--fp32", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    words = ["hf"]
    if lora:
        merged = inlay("convert", "merge", str(model), "hf", "merged", cwd=tmp_path)
        assert merged.returncode == 0, merged.stderr
        words = [str(model), "--adapter", "hf"]
        assert (tmp_path / "hf" / "adapter_config.json").is_file()
    talk = ["chat", *words, "--temperature", "0", "--max-new-tokens", "30"]
    answer = inlay(*talk, cwd=tmp_path, input="Hello!\n\nEXIT\n")
    assert answer.returncode == 0, answer.stderr
    if not lora:
        assert answer.stdout.strip() == plain_answer(tmp_path / "hf", "Hello!", 30)
    if lora:
        same = inlay("chat", "merged", *talk[4:], cwd=tmp_path, input="Hello!\n\nEXIT\n")
        assert same.stdout == answer.stdout
    check_export_is_what_was_trained(tmp_path, lora, model, weights[0])


def plain_answer(folder: Path, text: str, count: int) -> str:
    """The greedy answer of an exported folder in plain transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    turns = [{"role": "user", "content": text}]
    prompt = tokenizer.apply_chat_template(
        turns, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    model = AutoModelForCausalLM.from_pretrained(folder)
    out = model.generate(**prompt, max_new_tokens=count, do_sample=False)
    return tokenizer.decode(
        out[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True
    ).strip()


def check_export_is_what_was_trained(
    tmp_path: Path, lora: bool, model: Path, weights: Path
) -> None:
    """Logits of the exported folder equal those of the checkpoint's weights, by another road."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    ids = torch.arange(3, 60)[None]
    base = AutoModelForCausalLM.from_pretrained(model)
    if lora:
        reference: Any = get_peft_model(base, LoraConfig(r=8, target_modules="all-linear"))
        exported: Any = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(model), tmp_path / "hf"
        )
    else:
        reference, exported = base, AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    state = {k.removeprefix("llm."): v for k, v in load_file(weights).items()}
    reference.load_state_dict(state, strict=False)
    with torch.no_grad():
        wanted = reference.eval()(ids).logits
        assert torch.equal(exported.eval()(ids).logits, wanted)
    assert not torch.equal(wanted, AutoModelForCausalLM.from_pretrained(model)(ids).logits)


@pytest.fixture
def shipped(tmp_path: Path) -> tuple[Path, Path]:
    """The demo's model and conversations, as they ship with the package."""
    from importlib.resources import files

    folder = Path(str(files("inlay.app"))) / "demo_data"
    return Path(shutil.copytree(folder / "stories260k", tmp_path / "model")), (
        folder / "conversations.json"
    )


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_shipped_model_and_conversations(
    tmp_path: Path, shipped: tuple[Path, Path], lora: bool
) -> None:
    journey(tmp_path, *shipped, lora=lora, drop=0.8 if lora else 1.2, iters=40)


@pytest.mark.long
@pytest.mark.shared
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("data", "lora"),
    [("alpaca_en_demo.json", False), ("psychology_multi_turn_zh.json", True)],
    ids=["full", "lora"],
)
def test_real_conversations(tmp_path: Path, shared_data: Path, data: str, lora: bool) -> None:
    model = shared_data / "models" / "stories260k"
    drop = 0.4 if lora else 1.0
    journey(tmp_path, model, shared_data / "text" / data, lora=lora, drop=drop, iters=90)
