"""Tokens per second, MFU and peak memory of fine-tuning on one GPU, beside TRL's SFTTrainer.

Random Qwen3 shapes in bfloat16 on packed random documents, activation checkpointing on, every run
in a fresh process. ``--tiny`` shrinks the shape so that the script runs end to end on a CPU.

    python benchmarks/train_gpu.py [--tiny] [--peer-attention flash_attention_2]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

SHAPES = {
    "tiny": {"hidden_size": 64, "intermediate_size": 99, "num_hidden_layers": 2, "vocab_size": 512},
    "0.6B": {"hidden_size": 1024, "intermediate_size": 3072},
    "1.7B": {"hidden_size": 2048, "intermediate_size": 6144},
}
QWEN3 = {
    "vocab_size": 151_936,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "tie_word_embeddings": True,
    "use_cache": False,
}
LORA = {"r": 64, "lora_alpha": 16, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
LEARNING_RATE = 1e-5


def random_model(shape: str, device: torch.device) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    with device:
        return Qwen3ForCausalLM(Qwen3Config(**QWEN3 | SHAPES[shape])).to(torch.bfloat16)


def random_documents(max_length: int, vocabulary: int, num_tokens: int) -> list[np.ndarray]:
    """Return documents of lognormal lengths (median a tenth of a pack) of random tokens."""
    draw = np.random.default_rng(0)
    lengths = draw.lognormal(np.log(max_length / 10), 0.8, num_tokens * 10 // max_length)
    lengths = np.clip(lengths, 8, max_length).astype(int)
    return [draw.integers(2, vocabulary, n) for n in lengths]


class Clock:
    """Notes the time and the tokens seen at the end of every step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.times: list[float] = []
        self.tokens: list[int] = []

    def tick(self, tokens_seen: int) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.times.append(time.perf_counter())
        self.tokens.append(tokens_seen)

    def rate(self, warmup: int) -> float:
        """Tokens per second after the first ``warmup`` steps."""
        first = warmup - 1
        seconds = self.times[-1] - self.times[first]
        return (self.tokens[-1] - self.tokens[first]) / seconds


def train_ours(model: Any, documents: list[Any], args: Any, lora: bool, clock: Clock) -> None:
    from peft import LoraConfig

    from inlay.core.types import Sample
    from inlay.data.collate import collate
    from inlay.data.loader import WindowLoader
    from inlay.data.pack import best_fit
    from inlay.engine.optim import build_optimizer
    from inlay.engine.parallel.single import SingleDevice
    from inlay.engine.runner import Runner
    from inlay.engine.settings import OptimWrapper, TrainLoop
    from inlay.models import SupervisedFinetune

    lengths = np.array([len(d) for d in documents])
    packs = best_fit(lengths, args.max_length)

    class Packed:
        loss_units = packs.sums(lengths - 1)  # the first token of a document has no context

        def __len__(self) -> int:
            return len(packs)

        def item(self, index: int, seed: int, epoch: int = 0) -> list[Sample]:
            return [Sample(documents[i], np.arange(lengths[i]) > 0) for i in packs[index]]

        def collate(self, items: list[list[Sample]]) -> Any:
            return collate(items[0])

    class Ticks:
        def after_train_iter(self, runner: Any, **kwargs: Any) -> None:
            clock.tick(runner.pending[1])

    wrapped = SupervisedFinetune(model, LoraConfig(**LORA) if lora else None)
    settings = {"lr": LEARNING_RATE}
    Runner(
        model=wrapped,
        strategy=SingleDevice(clock.device, "bfloat16"),
        optimizer=build_optimizer(wrapped, torch.optim.AdamW, settings),
        train_loader=WindowLoader(Packed(), batch_size=1),
        loop=TrainLoop(max_iters=args.steps + args.warmup),
        optim=OptimWrapper(optimizer=settings, clip_grad={"max_norm": 1.0}, dtype="bfloat16"),
        hooks=[Ticks()],
        work_dir=Path(args.folder),
    ).train()


def train_trl(model: Any, documents: list[Any], args: Any, lora: bool, clock: Clock) -> None:
    from datasets import Dataset
    from peft import LoraConfig
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    class Ticks(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            clock.tick(state.num_input_tokens_seen)

    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    model.set_attn_implementation(args.peer_attention)
    SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=args.folder,
            packing=True,
            max_length=args.max_length,
            per_device_train_batch_size=1,
            max_steps=args.steps + args.warmup,
            learning_rate=LEARNING_RATE,
            optim="adamw_torch_fused",
            gradient_checkpointing=True,
            bf16=True,
            use_cpu=clock.device.type == "cpu",
            report_to="none",
            save_strategy="no",
            disable_tqdm=True,
            include_num_input_tokens_seen=True,
        ),
        train_dataset=Dataset.from_dict({"input_ids": [d.tolist() for d in documents]}),
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=words, eos_token="<eos>", pad_token="<pad>"
        ),
        peft_config=LoraConfig(**LORA) if lora else None,
        callbacks=[Ticks()],
    ).train()


def flops_per_token(model: Any, documents: list[np.ndarray], lora: bool) -> float:
    """FLOP a token: 6 a weight, 4 where weights are frozen (arXiv 2001.08361), and causal attention
    inside documents: 12 a layer, a value of a head and a position seen."""
    config = model.config
    lengths = np.array([len(d) for d in documents], float)
    seen = (lengths**2).sum() / 2 / lengths.sum()
    attention = 12 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * seen
    return (4 if lora else 6) * sum(p.numel() for p in model.parameters()) + attention


def one(trainer: str, shape: str, lora: bool, args: Any) -> dict[str, float]:
    """Train in this process; return tokens/s, TFLOP/s and peak memory in GiB."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = random_model(shape, device)
    tokens = args.max_length * (args.steps + args.warmup + 2)
    documents = random_documents(args.max_length, model.config.vocab_size, 2 * tokens)
    flops, clock = flops_per_token(model, documents, lora), Clock(device)
    (train_ours if trainer == "inlay" else train_trl)(model, documents, args, lora, clock)
    rate = clock.rate(args.warmup)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else float("nan")
    return {"tokens/s": rate, "tflops": rate * flops / 1e12, "peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a tiny shape, for a CPU")
    parser.add_argument("--max-length", type=int, help="tokens of a pack; 4096, tiny: 256")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--warmup", type=int, default=5)
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="bf16 dense; H100: 989")
    parser.add_argument("--peer-attention", default="sdpa")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.max_length = args.max_length or (256 if args.tiny else 4096)
    if args.one:
        trainer, shape, method = args.one
        with tempfile.TemporaryDirectory() as args.folder:
            print(json.dumps(one(trainer, shape, method == "LoRA", args)))
        return
    if not args.tiny and not torch.cuda.is_available():
        parser.error("no GPU here; --tiny runs on a CPU")
    trainers = ["inlay", "trl"] if importlib.util.find_spec("trl") else ["inlay"]
    print(f"{'shape':<6} {'method':<6} {'trainer':<8} {'tokens/s':>10} {'MFU':>7} {'peak GiB':>9}")
    for shape in ["tiny"] if args.tiny else ["0.6B", "1.7B"]:
        for method in ("full", "LoRA"):
            for trainer in trainers:
                command = [sys.executable, *sys.argv, "--one", trainer, shape, method]
                result = json.loads(subprocess.check_output(command).splitlines()[-1])
                mfu = result["tflops"] / args.peak_tflops
                print(
                    f"{shape:<6} {method:<6} {trainer:<8} {result['tokens/s']:>10.0f} "
                    f"{mfu:>7.2%} {result['peak']:>9.2f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
