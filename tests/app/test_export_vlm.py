"""From a tiny run on pictures to every format, through the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import runs
import tiny_vlms
import torch
from PIL import Image

CONFIG = """
from peft import LoraConfig
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer
from inlay.data import ChatDataset, HFImageProcessor, SquareImageProcessor, TiledImageProcessor
from inlay.engine import LocalVisBackend, OptimWrapper, TrainLoop, Visualizer
from inlay.engine.hooks import CheckpointHook, EvaluateChatHook, LoggerHook
from inlay.models import LLaVAModel, VisionFinetune, load_visual_encoder

tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path={llm!r})
image_processor = dict({processor})
model = dict({model})
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    dataset=dict(
        type=ChatDataset,
        sources=[dict(path={rows!r}, image_folder={folder!r})],
        tokenizer=tokenizer,
        image_processor=image_processor,
        template=None,
        max_length=256,
    ),
)
optim_wrapper = dict(type=OptimWrapper, optimizer=dict(type=AdamW, lr=1e-2), dtype="float32")
train_cfg = dict(type=TrainLoop, max_epochs=1)
default_hooks = dict(
    logger=dict(type=LoggerHook, interval=1),
    checkpoint=dict(type=CheckpointHook, by_epoch=False, interval=1),
)
custom_hooks = [
    dict(
        type=EvaluateChatHook, tokenizer=tokenizer, image_processor=image_processor,
        evaluation_inputs=["What?"], evaluation_images="nowhere.png", max_new_tokens=3,
    )
]
visualizer = dict(type=Visualizer, vis_backends=[dict(type=LocalVisBackend)])
randomness = dict(seed=0)
"""
SQUARE = "type=SquareImageProcessor, tokenizer=tokenizer, visual_encoder={encoder!r}"
TILED = (
    "type=TiledImageProcessor, tokenizer=tokenizer, visual_encoder={encoder!r}, "
    "pixel_shuffle_factor=2, max_image_size=128"
)
LLAVA = (
    "type=LLaVAModel, tokenizer=tokenizer, "
    "llm=dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path={llm!r}), "
    "visual_encoder=dict(type=load_visual_encoder, pretrained_model_name_or_path={encoder!r}), "
)
LORA = 'dict(type=LoraConfig, r=4, target_modules="all-linear", task_type="CAUSAL_LM")'
SETTINGS = {
    "lora": f"freeze_llm=True, freeze_visual_encoder=True, llm_lora={LORA}",
    "backbones": 'projector="pixel_shuffle", pixel_shuffle_factor=2, visual_select_layer=None',
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, Path]]:
    """Train a kind of model for an epoch; return its config and its checkpoint."""
    folder = tmp_path_factory.mktemp("vlm")
    llm, clip = tiny_vlms.llama(folder / "llm"), tiny_vlms.clip(folder / "clip")
    siglip, qwen = tiny_vlms.siglip(folder / "siglip"), tiny_vlms.qwen_vl(folder / "qwen")
    for name in ("red", "blue"):
        Image.new("RGB", (80, 60), name).save(folder / f"{name}.png")
    rows = [
        {
            "messages": [
                {"role": "user", "content": "<image>\nWhat?"},
                {"role": "assistant", "content": name},
            ],
            "images": [f"{name}.png"],
        }
        for name in ("red", "blue")
    ]
    runs.write_rows(folder / "rows.json", rows * 2)
    made: dict[str, tuple[Path, Path]] = {}

    def train(kind: str) -> tuple[Path, Path]:
        if kind in made:
            return made[kind]
        encoder = str(siglip if kind == "backbones" else clip)
        names = {"llm": str(llm), "encoder": encoder}
        processor = (TILED if kind == "backbones" else SQUARE).format(**names)
        model = LLAVA.format(**names) + SETTINGS.get(kind, "")
        if kind == "hf":
            names["llm"] = str(qwen)
            processor = (
                f"type=HFImageProcessor, path_or_processor={str(qwen)!r}, tokenizer=tokenizer"
            )
            vlm = "dict(type=AutoModelForImageTextToText.from_pretrained, "
            vlm += f"pretrained_model_name_or_path={str(qwen)!r})"
            model = f"type=VisionFinetune, vlm={vlm}, lora={LORA}"
        config = folder / f"{kind}.py"
        values = {"rows": str(folder / "rows.json"), "folder": str(folder)}
        config.write_text(CONFIG.format(**names, **values, processor=processor, model=model))
        text = runs.train(config, folder / f"run_{kind}")
        assert text.count("without its picture") == 1
        made[kind] = config, max((folder / f"run_{kind}").glob("iter_*"))
        return made[kind]

    return train


@pytest.mark.parametrize(
    ("kind", "save_format", "files"),
    [
        ("lora", "xtuner", {"llm_adapter", "projector", "image_processor.json"}),
        ("lora", "whole", {"config.json", "visual_encoder", "projector"}),
        ("lora", "huggingface", {"config.json", "preprocessor_config.json"}),
        ("backbones", "nanovlm", {"config.json", "model.safetensors"}),
        ("hf", "xtuner", {"adapter_config.json", "image_processor.json"}),
    ],
)
def test_pth_to_hf(
    trained: Callable[[str], tuple[Path, Path]],
    tmp_path: Path,
    kind: str,
    save_format: str,
    files: set[str],
) -> None:
    config, checkpoint = trained(kind)
    out = tmp_path / "out"
    words = ["convert", "pth_to_hf", config, checkpoint, out, "--save-format", save_format]
    code, text = runs.inlay([*words, "--fp32"], tmp_path, before=_look_here)
    assert code == 0, text
    assert "FAIL" not in text and "ok    logits" in text
    assert files <= {f.name for f in out.iterdir()}
    picture = config.parent / "red.png"
    talk: list[Any] = ["generate", out, "--image", picture, "--greedy", "--generations", "1"]
    if kind == "hf":
        talk = ["chat", config.parent / "qwen", "--adapter", out, "--image", picture]
    code, text = runs.inlay(
        [*talk, "--max-new-tokens", "4"], tmp_path, before=lambda: _stdin("What?\n")
    )
    assert code == 0, text


def test_the_layout_of_llavas_authors(
    trained: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    """The weights are those of the whole parts, by the names of haotian-liu/LLaVA."""
    from safetensors.torch import load_file

    config, checkpoint = trained("lora")
    for name in ("whole", "official"):
        words = ["convert", "pth_to_hf", config, checkpoint, tmp_path / name]
        code, text = runs.inlay([*words, "--save-format", name], tmp_path, before=_look_here)
        assert code == 0 and "ok    logits" in text, text
    parts = load_file(tmp_path / "whole" / "model.safetensors")
    projector = load_file(tmp_path / "whole" / "projector" / "model.safetensors")
    expected = {k: v for k, v in parts.items() if k.startswith(("model.", "lm_head."))}
    names = {k: k.replace("model.", "model.mm_projector.", 1) for k in projector}
    expected |= {names[k]: v.half() for k, v in projector.items()}
    found = load_file(tmp_path / "official" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[k], expected[k]) for k in found)
    fields = json.loads((tmp_path / "official" / "config.json").read_text())
    encoder = str(config.parent / "clip")
    assert (fields["architectures"], fields["model_type"], fields["mm_vision_tower"]) == (
        ["LlavaLlamaForCausalLM"],
        "llava_llama",
        encoder,
    )
    assert (fields["mm_projector_type"], fields["mm_vision_select_layer"]) == ("mlp2x_gelu", -2)
    assert (fields["rope_theta"], fields["torch_dtype"]) == (10000.0, "float16")
    assert not fields["unfreeze_mm_vision_tower"] and "rope_parameters" not in fields
    words = ["convert", "pth_to_hf", *trained("backbones"), tmp_path / "no"]
    code, text = runs.inlay([*words, "--save-format", "official"], tmp_path)
    assert code == 1 and "layout of LLaVA needs a CLIP vision encoder" in text


def _look_here() -> None:
    """Let the probe look from this process: its own costs seconds of imports."""
    import subprocess

    from inlay.convert import probe

    def run(words: list[str], input: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
        answer = {**probe.look(json.loads(input)), "foreign": True}
        return subprocess.CompletedProcess(words, 0, json.dumps(answer), "")

    subprocess.run = run


def _stdin(text: str) -> None:
    import io
    import sys

    sys.stdin = io.StringIO(text)


def test_a_format_for_another_kind_is_refused(
    trained: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    config, checkpoint = trained("hf")
    words = ["convert", "pth_to_hf", config, checkpoint, tmp_path / "out"]
    code, text = runs.inlay([*words, "--save-format", "nanovlm"], tmp_path)
    assert code == 1 and "is for a LLaVAModel" in text


def test_the_exported_weights_are_the_checkpoints(
    trained: Callable[[str], tuple[Path, Path]], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    config, checkpoint = trained("lora")
    runs.inlay(["convert", "pth_to_hf", config, checkpoint, tmp_path / "out"], tmp_path)
    saved = load_file(checkpoint / "model.safetensors")
    written = load_file(tmp_path / "out" / "projector" / "model.safetensors")
    assert written and all(torch.equal(saved[f"projector.{n}"], t) for n, t in written.items())
    record = json.loads((tmp_path / "out" / "inlay_export.json").read_text())
    assert record["bases"]["llm"] == str(config.parent / "llm")
