"""The demo's third act: the model that sees learns to point, and is not changed by it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from inlay.app.demo.scenes import MODEL, open_with
from inlay.app.grounder import REFINER, SHIPPED_GROUNDER, open_grounder
from inlay.app.train import TrainOptions, train
from inlay.chat.grounder import Grounder
from inlay.chat.overlay import colour_words, draw, enlarged, palette
from inlay.config.load import load_config
from inlay.data.grounding.phrases import cut_caption
from inlay.data.scenes.build import Example, example, write
from inlay.data.scenes.draw import SIZE, mask
from inlay.data.scenes.draw import draw as draw_scene
from inlay.data.scenes.language import caption, distinct, name
from inlay.engine.checkpoint import newest_valid
from inlay.evaluation.mask_metrics import ious, overlap

RECIPE = "tiny_vlm_grounding_demo_e1"
ROWS, TRAIN = 5200, "seen"
"""Rows to draw, and their split; those of crowded scenes have no caption."""
SPLIT, SEED, SCENES, PICTURE = "pairs", 4, 24, 1
"""Held-out scenes that are counted over, and the number of the one that is drawn."""


def point(folder: Path, console: Console) -> int:
    """Train a mask head for the shipped VLM on drawn scenes, and show masks on a new one.

    Args:
        folder: new; gets model, SAM, pictures and rows, the config, the run and ``masks.png``.

    Returns:
        The exit code of the training.
    """
    config = unpack(folder)
    scenes = [example(SPLIT, SEED, number) for number in range(SCENES)]
    console.rule("[bold]Third act: the model that sees learns to point")
    console.print(
        "Its weights stay as they are. What its words look at becomes the input of a small mask\n"
        "head, and a tiny SAM, trained on other scenes, draws the edges.\n"
    )
    model = str(folder / "model")
    before = mean_iou(open_grounder(model), scenes)
    code = train(str(config), TrainOptions(work_dir=str(folder / "run")))
    if code:
        return code
    newest, _ = newest_valid(folder / "run")
    grounder = open_grounder(model, str(newest))
    show(grounder, scenes[PICTURE], folder / "masks.png", console)
    console.print(
        f"mean IoU over {SCENES} scenes with pairs of colour and shape that it never saw: "
        f"{before:.2f} without training, {mean_iou(grounder, scenes):.2f} after\n"
    )
    console.print(next_steps(config, folder, newest), soft_wrap=True)
    return 0


def unpack(folder: Path) -> Path:
    """Copy model and SAM, draw pictures and rows, write the config. Returns the config's path."""
    with as_file(files("inlay.app") / "demo_data") as shipped:
        shutil.copytree(shipped / MODEL, folder / "model")
        shutil.copytree(shipped / SHIPPED_GROUNDER / REFINER, folder / "sam")
    write(folder, TRAIN, ROWS, 3)
    config = folder / "point.py"
    options = [f"data_root={folder}"]
    config.write_text(load_config(RECIPE, options).source, encoding="utf-8")
    return config


def ground(grounder: Grounder, scene: Example) -> tuple[np.ndarray, np.ndarray]:
    """Return the masks of a scene's phrases and the true ones, bool ``[M, H, W]`` both."""
    text, phrases = caption(scene.scene)
    pieces = cut_caption(text, [((p.start, p.end), n) for n, p in enumerate(phrases)])
    words = [(words, number >= 0) for words, number in pieces]
    found, _ = grounder.segment(draw_scene(scene.scene), words, is_text=True)
    return found, np.stack([mask(scene.scene.things[p.thing]) for p in phrases])


def ground_alone(grounder: Grounder, scene: Example) -> tuple[np.ndarray, np.ndarray]:
    """As ``ground``, but each phrase on its own, as ``inlay ground`` has it, and only for things
    that their name tells apart (``M`` may be 0)."""
    things = distinct(scene.scene)
    if not things:
        return (np.zeros((0, SIZE, SIZE), bool),) * 2
    found, _ = grounder.phrases(draw_scene(scene.scene), [name(t.pair, "a") for t in things])
    return found, np.stack([mask(thing) for thing in things])


def mean_iou(
    grounder: Grounder, scenes: Sequence[Example], way: Callable[..., Any] = ground
) -> float:
    """Return the mean over all phrases of the scenes, in [0, 1].

    Args:
        way: ``ground`` or ``ground_alone``.
    """
    return float(np.mean(np.concatenate([ious(*overlap(*way(grounder, s))) for s in scenes])))


def show(grounder: Grounder, scene: Example, path: Path, console: Console) -> None:
    """Write a scene with its masks to ``path``, and print its caption in their colours."""
    text, phrases = caption(scene.scene)
    masks, _ = ground(grounder, scene)
    colours = palette(len(phrases))
    labels = [text[p.start : p.end] for p in phrases]
    draw(*enlarged(draw_scene(scene.scene), masks), colours, labels).save(path)
    console.print(colour_words(text, [(p.start, p.end) for p in phrases], colours))
    console.print(f"its masks are in [bold]{path}[/]:  {open_with(path)}\n")


def next_steps(config: Path, folder: Path, checkpoint: Path | None) -> str:
    """The commands to go on with."""
    model, picture = folder / "model", folder / "images" / f"{TRAIN}_000000.png"
    return "\n".join(
        [
            "Go on:",
            f"  inlay chat {model} --ground {checkpoint} --image {picture}",
            f'  inlay ground {picture} "a red circle"   # trained for longer: phrases on their own',
            f"  inlay eval phrases {folder / f'{TRAIN}.jsonl'} --image-folder {folder / 'images'} "
            f"--limit 50 --model {model} --ground {checkpoint} --page page.html",
            "  inlay list-cfg -p frozen                   # recipes for real models",
        ]
    )
