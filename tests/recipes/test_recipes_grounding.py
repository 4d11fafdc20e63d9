"""Recipes of grounding: F-LMM's numbers, and real updates on tiny models of the real classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import published_deepseek
import pytest
import tiny_vlms
import torch
from grounding_runs import write_coco
from PIL import Image
from tiny_sam import SIDE, tiny_sam

from inlay.app.assemble import Parts
from inlay.app.dry_run import dry_run
from inlay.config.load import load_config
from inlay.config.source import recipes
from inlay.data import PaddedImageProcessor, SequenceBuilder

NAMES = [name for name, path in recipes().items() if path.parent.name == "grounding"]
DEEPSEEK = "frozen_deepseek_vl_1_3b_chat_unet_sam_l_refcoco_png"
DEEPSEEK_7B = "frozen_deepseek_vl_7b_chat_unet_sam_l_refcoco_png"
LLAVA = "frozen_llava_1_5_vicuna_7b_unet_sam_l_refcoco_png"
QWEN = "frozen_qwen2_5_vl_3b_instruct_unet_sam_l_refcoco_png"
ASKED = "Please give me a description of the image."


@pytest.mark.parametrize("name", NAMES)
def test_the_numbers_are_those_of_the_published_configs(name: str) -> None:
    cfg = load_config(name)
    optim = cfg.optim_wrapper
    adamw = {k: v for k, v in optim["optimizer"].items() if k != "type"}
    assert adamw == dict(lr=1e-4, betas=(0.9, 0.999), weight_decay=0.01)
    assert (optim["clip_grad"]["max_norm"], optim["dtype"]) == (1, "bfloat16")
    assert (cfg.max_epochs, cfg.batch_size, cfg.accumulative_counts) == (8, 1, 1)
    warmup, decay = cfg.param_scheduler
    assert (warmup["start_factor"], warmup["end"], decay["end"]) == (1e-5, 0.03 * 8, 8)
    assert decay["eta_min"] == 0.0
    head, sam = cfg.model["mask_head"], cfg.model["refiner"]
    assert (head["upsample_input"], head["base_channels"], head["num_stages"]) == (64, 64, 4)
    assert (sam["use_text"], sam["use_mask"], sam["multimask_output"]) == (True, True, False)
    assert cfg.sam_checkpoint.endswith("sam_vit_l_0b3195.pth") and cfg.picture_size == 1024
    assert cfg.model["lmm"]["dtype"] == torch.bfloat16 and cfg.prompt.endswith(ASKED)
    assert [source["type"].__name__ for source in cfg.datasets_list] == ["PNG", *["RefCOCO"] * 3]
    assert [Path(source["refs"]).name for source in cfg.datasets_list[1:]] == [
        "refs(unc).p",
        "refs(unc).p",
        "refs(umd).p",
    ]


TEXTS = {
    DEEPSEEK: ("<image_placeholder>", f"User: {{}}{ASKED}\n\nAssistant:", (384, 24)),
    DEEPSEEK_7B: ("<image_placeholder>", f"User: {{}}{ASKED}\n\nAssistant:", (384, 24)),
    LLAVA: ("<image>", f"USER: {{}}\n{ASKED} ASSISTANT:", (336, 24)),
}


@pytest.mark.parametrize("name", TEXTS)
def test_prompt_and_pictures_are_those_of_f_lmm(name: str) -> None:
    token, text, (side, grid) = TEXTS[name]
    cfg = load_config(name)
    tokenizer = tiny_vlms.byte_tokenizer(tokens=(token,))
    settings = {k: v for k, v in cfg.image_processor.items() if k not in ("type", "tokenizer")}
    processor = PaddedImageProcessor(tokenizer, **settings)
    builder = SequenceBuilder(tokenizer, processor, template=cfg.prompt_template, prompt=cfg.prompt)
    expected = tokenizer.encode(text.format(token * grid * grid), add_special_tokens=True)
    assert builder.prompt_ids((640, 427)).tolist() == expected
    pixels = processor.pixels(Image.new("RGB", (640, 427)))
    assert pixels["pixel_values"].shape == (1, 3, side, side)
    high = pixels.get("high_res_pixel_values")
    assert (high is not None) == (name == DEEPSEEK_7B)
    if high is not None:
        assert high.shape == (1, 3, 1024, 1024) and processor.background == [122, 116, 104]
    (view,) = processor.views(640, 427)
    assert (view.height, view.width) == (grid, grid)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models, and COCO's folders with three pictures in them."""
    folder = tmp_path_factory.mktemp("grounding")
    published_deepseek.publish(folder / "small", hybrid=False)
    published_deepseek.publish(folder / "hybrid", hybrid=True)
    tiny_vlms.qwen_vl(folder / "qwen")
    tiny_sam().save_pretrained(folder / "sam")
    write_coco(folder / "coco")
    return folder


def options(folder: Path, model: str) -> list[str]:
    return [
        f"pretrained_model_name_or_path={folder / model}",
        f"data_root={folder / 'coco'}/",
        f"sam_checkpoint={folder / 'sam'}",
        f"picture_size={SIDE}",
        "batch_size=3",
        "dataloader_num_workers=0",
        "model.mask_head.base_channels=8",
    ]


SMALLER = ["image_size=32", "patch_size=8"]
CASES: dict[str, Any] = {
    "1.3b": (DEEPSEEK, "small", SMALLER),
    "7b": (DEEPSEEK_7B, "hybrid", [*SMALLER, "high_resolution=64"]),
    "any model": (QWEN, "qwen", ["max_pixels=None"]),
    "without sam": (QWEN, "qwen", ["max_pixels=None", "sam_checkpoint=None"]),
}


@pytest.mark.parametrize("name,model,more", CASES.values(), ids=CASES)
def test_a_recipe_makes_updates(
    name: str,
    model: str,
    more: list[str],
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = dry_run(name, [*options(folder, model), *more], updates=2)
    assert result["items"] == 4 * 3, "a narrative and three sets of references for each picture"
    heads = 1 if "sam_checkpoint=None" in more else 2
    assert 0.5 * heads < result["loss"] < 3 * heads, "Dice and cross entropy of each head"
    assert 0 < result["grad_norm"] < 1e4
    assert not list(tmp_path.iterdir()), "a dry run writes nothing"


def test_only_the_heads_learn(folder: Path) -> None:
    cfg = load_config(DEEPSEEK, [*options(folder, "small"), *SMALLER])
    model = Parts(cfg, seed=0).model()
    learns = {n.partition(".")[0] for n, p in model.named_parameters() if p.requires_grad}
    assert learns == {"mask_head", "refiner", "text_proj", "text_layer_weights"}
    encoder = [n for n, p in model.named_parameters() if ".vision_encoder." in n]
    assert encoder and not any(model.get_parameter(n).requires_grad for n in encoder)
