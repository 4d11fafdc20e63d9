"""What starting costs: `inlay --help`, and all that `inlay train` imports before it computes.

A real `inlay train` of the demo's model stops at its first forward pass and lists its modules; a
fresh interpreter then imports just these, with the garbage collector set as `inlay` sets it. All
figures are CPU seconds of whole fresh processes.

    python benchmarks/imports.py
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path

from _ratio import best_in_turns, child_cpu_seconds, header, row

CONFIG = """
from transformers import AutoModelForCausalLM, AutoTokenizer
from torch.optim import AdamW
{imports}
from inlay.data import ChatDataset
from inlay.engine import CosineAnnealingLR, OptimWrapper, TrainLoop
from inlay.engine.hooks import CheckpointHook, IterTimerHook, LoggerHook, ParamSchedulerHook
from inlay.models import SupervisedFinetune

path = {model!r}
template = dict(INSTRUCTION="User: {{input}}\\nBot:", SEP="\\n")
tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path=path)
model = dict(
    type=SupervisedFinetune,
    use_activation_checkpointing=False,
    llm=dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path=path),
    lora={lora},
)
train_dataset = dict(
    type=ChatDataset, sources=[dict(path={data!r})], tokenizer=tokenizer, template=template,
    max_length=512, pack_to_max_length=True,
)
train_dataloader = dict(batch_size=1, num_workers=0, dataset=train_dataset)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-3), dtype="float32")
param_scheduler = [dict(type=CosineAnnealingLR, eta_min=0.0, by_epoch=True, begin=0, end=1)]
train_cfg = dict(type=TrainLoop, max_epochs=1)
default_hooks = dict(
    timer=dict(type=IterTimerHook), logger=dict(type=LoggerHook, interval=10),
    param_scheduler=dict(type=ParamSchedulerHook), checkpoint=dict(type=CheckpointHook),
)
"""
LORA = 'dict(type=LoraConfig, r=8, target_modules="all-linear", task_type="CAUSAL_LM")'

RECORD = """
import json, os, sys
before = set(sys.modules)
from inlay.models.sft import SupervisedFinetune

def stop(self, *args, **kwargs):
    names = [n for n, m in sys.modules.items() if n not in before and getattr(m, "__spec__", None)]
    with open(sys.argv[1], "w") as file:
        json.dump(names, file)
    os._exit(0)

SupervisedFinetune.forward = stop
from inlay.cli import main
sys.exit(main(["train", sys.argv[2], "--work-dir", sys.argv[3]]) or "training never began")
"""

REPLAY = """
import gc, importlib, json, sys
from inlay.app.late_compile import compile_at_first_call
from inlay.cli import GC_THRESHOLD
gc.set_threshold(GC_THRESHOLD)
with compile_at_first_call():
    for name in json.load(open(sys.argv[1])):
        try:
            importlib.import_module(name)
        except ImportError:  # made at run time, not on disk
            pass
"""


def modules_of_training(folder: Path, lora: bool) -> Path:
    """Run `inlay train` up to its first forward pass; return a JSON list of what it imported."""
    data = resources.files("inlay.app") / "demo_data"
    name = "lora" if lora else "full"
    config, modules = folder / f"{name}.py", folder / f"{name}.json"
    config.write_text(
        CONFIG.format(
            imports="from peft import LoraConfig" if lora else "",
            lora=LORA if lora else None,
            model=str(data / "stories260k"),
            data=str(data / "conversations.json"),
        )
    )
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    words = [str(modules), str(config), str(folder / f"work_{name}")]
    subprocess.run([sys.executable, "-c", RECORD, *words], env=env, check=True)
    return modules


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        commands = [
            [sys.executable, "-c", "import torch"],
            [sys.executable, "-m", "inlay", "--help"],
        ]
        for lora in (False, True):
            modules = modules_of_training(Path(folder), lora)
            names = json.loads(modules.read_text())
            print(f"{modules.stem}: {len(names)} modules, peft {'peft' in names}", file=sys.stderr)
            commands.append([sys.executable, "-c", REPLAY, str(modules)])
        measures = [lambda command=command: child_cpu_seconds(command) for command in commands]
        torch, help_, full, lora_ = best_in_turns(measures, args.repeats)
    header()
    row("inlay --help, peer: the budget of 0.15 s", help_, 0.15, "<= 1")
    row("imports of full fine-tuning, peer: torch", full, torch, "<= 2.7")
    row("imports of LoRA, peer: import torch", lora_, torch, "<= 3.5")


if __name__ == "__main__":
    main()
