"""The demo's second act: a model that sees learns a shape it has never seen, and its name."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from inlay.app.train import TrainOptions, train
from inlay.config.load import load_config
from inlay.data.scenes.build import example, write
from inlay.data.scenes.draw import NEW_SHAPE, SHAPES, draw
from inlay.engine.checkpoint import newest_valid
from inlay.evaluation.ask import Answer, ask
from inlay.evaluation.metrics import mean_by
from inlay.evaluation.scenes import SceneTask

RECIPE = "tiny_vlm_full_demo_e1"
MODEL = "tiny_vlm"
ROWS, REMINDERS = 2000, 800
"""Rows with the new shape, and rows without, so that nothing is forgotten."""
HELD_OUT, PICTURE = 2, 156
"""Seed of the scenes that are held out, and the number of the one that the questions show."""
QUESTIONS = (
    "describe the picture.",
    "what shape is the yellow object?",
    "what is above the yellow heart?",
    "how many hearts are there?",
)
SCENES = 16
"""Held-out scenes that are counted over, besides."""


def see(folder: Path, console: Console) -> int:
    """Train the shipped VLM on scenes with hearts, and show what changed on a new one.

    Args:
        folder: new; gets the model, pictures and rows, the config, the run and ``heart.png``.

    Returns:
        The exit code of the training.
    """
    config = unpack(folder)
    picture = folder / "heart.png"
    console.rule("[bold]Second act: a model that sees")
    console.print(
        f"A vision-language model of 770,000 weights knows {len(SHAPES)} shapes, and no heart.\n"
        "It learns hearts and their name; then it is asked about a scene that it never saw.\n"
        f"The picture is [bold]{picture}[/]:  {open_with(picture)}\n"
    )
    before, right_before = replies(folder, None)
    code = train(str(config), TrainOptions(work_dir=str(folder / "run")))
    if code:
        return code
    newest, _ = newest_valid(folder / "run")
    after, right_after = replies(folder, newest)
    console.print(table(before, after))
    console.print(f"exact answers about {SCENES} scenes that it never saw:")
    for what, share in right_before.items():
        console.print(f"  {what:<16} {share:4.0%} before, {right_after[what]:4.0%} after")
    console.print()
    console.print(next_steps(config, folder, newest), soft_wrap=True)
    return 0


def unpack(folder: Path) -> Path:
    """Copy the model, draw pictures and rows, write the config. Returns the config's path."""
    with as_file(files("inlay.app") / "demo_data" / MODEL) as shipped:
        shutil.copytree(shipped, folder / "model")
    rows = [write(folder, "twist", ROWS, 0), write(folder, "train", REMINDERS, 1)]
    lines = "".join(path.read_text(encoding="utf-8") for path in rows)
    rows[1].write_text(lines, encoding="utf-8")
    rows[0].unlink()
    draw(example("twist", HELD_OUT, PICTURE).scene).save(folder / "heart.png")
    config = folder / "see.py"
    source = load_config(RECIPE, [f"data_root={folder}"]).source
    config.write_text(source, encoding="utf-8")
    return config


def replies(folder: Path, checkpoint: Path | None) -> tuple[list[str], dict[str, float]]:
    """Answers to ``QUESTIONS``, and the shares of right ones over ``SCENES`` where a heart must be
    named and elsewhere, with the weights of ``checkpoint`` where one is given."""
    answer = answerer(folder / "model", checkpoint)
    picture = draw(example("twist", HELD_OUT, PICTURE).scene)
    task = SceneTask("twist", SCENES, HELD_OUT)
    rows = task.score(ask(task.questions, answer, task.max_new_tokens)).rows
    right = mean_by((_topic(row), row["score"]) for row in rows)
    return [answer([picture], question, task.max_new_tokens) for question in QUESTIONS], right


def _topic(row: dict[str, Any]) -> str:
    return f"that name a {NEW_SHAPE}" if NEW_SHAPE in row["answer"] else "all others"


def answerer(model_path: Path, checkpoint: Path | None = None) -> Answer:
    """Load a tiny VLM on the CPU; return a function from pictures and text to its answer."""
    from transformers import AutoTokenizer

    from inlay.chat.session import ChatSession
    from inlay.data.vision.load import load_image_processor
    from inlay.engine.checkpoint import load_weights
    from inlay.models.load_vlm import load_vlm

    model: Any = load_vlm(str(model_path), dtype="float32", device="cpu")
    if checkpoint is not None:
        model.load_state_dict(load_weights(checkpoint), strict=False)
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    processor = load_image_processor(model_path, tokenizer)

    def answer(pictures: Sequence[Any], text: str, max_new_tokens: int) -> str:
        session = ChatSession(
            model,
            tokenizer,
            temperature=0,
            max_new_tokens=max_new_tokens,
            image_processor=processor,
        )
        return session.reply(text, images=pictures)

    return answer


def table(before: list[str], after: list[str]) -> Table:
    """Questions and answers side by side."""
    found = Table("question", "before", "after")
    for row in zip(QUESTIONS, before, after, strict=True):
        found.add_row(*row)
    return found


def open_with(picture: Path) -> str:
    """The command that shows a picture on this system."""
    import sys

    command = {"darwin": "open", "win32": "start"}.get(sys.platform, "xdg-open")
    return f"{command} {picture}"


def next_steps(config: Path, folder: Path, checkpoint: Path | None) -> str:
    """The commands to go on with."""
    return "\n".join(
        [
            "Go on:",
            f"  inlay chat {folder / 'model'} --image {folder / 'heart.png'}   # before",
            f"  inlay convert pth_to_hf {config} {checkpoint} {folder / 'parts'}",
            f"  inlay chat {folder / 'parts'} --image {folder / 'heart.png'}   # after",
            "  inlay scenes scenes                        # 48,000 pictures with text and masks",
            "  inlay train tiny_vlm_full_scenes_e10        # from nothing, in a good hour",
        ]
    )
