"""`inlay demo`: the main jobs on what ships with the package, no network."""

from __future__ import annotations

import json
import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.panel import Panel

from inlay.app.curve import draw
from inlay.app.demo.point import point
from inlay.app.demo.scenes import see
from inlay.app.respond import respond
from inlay.app.train import TrainOptions, train
from inlay.config.load import load_config
from inlay.core.errors import InlayError
from inlay.engine.checkpoint import newest_valid
from inlay.models.lm import load_causal_lm

RECIPE = "stories260k_full_demo_e4"
QUESTIONS = (
    "Who are you?",
    "Tell me a story about a dog.",
    "Hello!",
)
ANSWER_TOKENS = 80
EYES, HAND = "eyes", "hand"
"""Folders of the second and the third act."""


def demo(folder: Path, console: Console) -> int:
    """Fine-tune ``stories260k`` on the shipped conversations and show what changed; then teach a
    model that sees a new word, and to point.

    Args:
        folder: new; gets the models, the data, the configs and the runs.

    Returns:
        The exit code of the training.

    Raises:
        InlayError: ``folder`` exists.
    """
    import torch

    # The model is so small that a second thread costs more than it brings.
    torch.set_num_threads(1)
    config = unpack(folder)
    cfg = load_config(str(config))
    console.rule("[bold]Inlay demo")
    console.print(
        f"A language model of 260,032 weights that has only ever read stories learns to chat.\n"
        f"Everything is in [bold]{folder}[/]: model, conversations.json, demo.py.\n"
    )
    before = answers(str(folder / "model"), cfg, None)
    show(console, "before", before)
    code = train(str(config), TrainOptions(work_dir=str(folder / "run")))
    if code:
        return code
    newest, _ = newest_valid(folder / "run")
    show(console, "after", answers(str(folder / "model"), cfg, newest))
    console.print(summary(folder / "run"))
    console.print(next_steps(config, folder, newest) + "\n", soft_wrap=True)
    return see(folder / EYES, console) or point(folder / HAND, console)


def unpack(folder: Path) -> Path:
    """Copy model and data from the package, write the config. Returns the config's path."""
    if folder.exists():
        raise InlayError(f"{folder} exists. Choose another place with --dir, or remove it")
    with as_file(files("inlay.app") / "demo_data") as shipped:
        shutil.copytree(shipped / "stories260k", folder / "model")
        shutil.copy(shipped / "conversations.json", folder / "conversations.json")
    options = [
        f"pretrained_model_name_or_path={folder / 'model'}",
        f"data_path={folder / 'conversations.json'}",
    ]
    config = folder / "demo.py"
    config.write_text(load_config(RECIPE, options).source, encoding="utf-8")
    return config


def answers(model_path: str, cfg: Any, checkpoint: Path | None) -> list[str]:
    """Let the model answer ``QUESTIONS``, with the weights of ``checkpoint`` where one is given."""
    from transformers import AutoTokenizer

    from inlay.engine.checkpoint import load_weights
    from inlay.models import SupervisedFinetune

    model = SupervisedFinetune(load_causal_lm(model_path, device="cpu"))
    if checkpoint is not None:
        model.load_state_dict(load_weights(checkpoint), strict=False)
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    template = cfg["prompt_template"]
    texts = []
    for question in QUESTIONS:
        text = respond(model, tokenizer, template, "", question, ANSWER_TOKENS)
        answer = text.partition("Bot:")[2] or text
        texts.append(answer.replace(tokenizer.eos_token, "").strip())
    return texts


def show(console: Console, when: str, texts: list[str]) -> None:
    """Print questions and answers in a box."""
    lines = [f"[bold]{q}[/]\n  {a}" for q, a in zip(QUESTIONS, texts, strict=True)]
    console.print(Panel("\n".join(lines), title=f"answers {when} training", title_align="left"))


def summary(run: Path) -> str:
    """Loss curve and held-out loss of the run, from its records."""
    (record,) = run.glob("*/vis_data/scalars.json")
    rows = [json.loads(line) for line in record.read_text(encoding="utf-8").splitlines()]
    trained = [r for r in rows if "loss" in r]
    held_out = [r["val/loss"] for r in rows if "val/loss" in r]
    return (
        "training loss (nats per token)\n"
        + draw([r["loss"] for r in trained], f"{trained[-1]['iter']} iterations")
        + f"\n\nheld-out loss: {held_out[0]:.3f} before, {min(held_out):.3f} at best\n"
    )


def next_steps(config: Path, folder: Path, checkpoint: Path | None) -> str:
    """The commands to go on with."""
    return "\n".join(
        [
            "Go on:",
            f"  inlay log-dataset {config}                 # the data as the model reads it",
            f"  inlay plan {config}                        # the run in numbers",
            f"  inlay convert pth_to_hf {config} {checkpoint} {folder / 'hf'} --fp32",
            f"  inlay chat {folder / 'hf'}",
            f"  inlay train {config} --work-dir {folder / 'run'} --resume "
            "--cfg-options max_epochs=20   # train on",
            "  inlay list-cfg                             # recipes for real models",
        ]
    )
