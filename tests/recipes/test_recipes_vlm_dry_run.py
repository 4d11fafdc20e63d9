"""One recipe of each way to a VLM makes a real update, on tiny models of the real classes."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_vlms
import torch

from inlay.app.assemble import Parts
from inlay.app.dry_run import dry_run
from inlay.app.train import checked_config
from inlay.config.load import load_config

PRETRAIN, FULL, LORA = (
    "llava_v15_7b_pretrain",
    "llava_v15_7b_finetune",
    "llava_v15_7b_finetune_lora",
)
QLORA = "llava_vicuna_7b_v15_qlora_clip_vit_large_p14_336_lora_e1_gpu8_finetune"
QWEN_QLORA = "qwen2_5_vl_3b_instruct_qlora_custom_dataset_e1"


def png(color: tuple[int, int, int], size: tuple[int, int]) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "png")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models and two sets of pictures: LLaVA's json with files, FineVision's parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("vlm")
    for make in (tiny_vlms.llama, tiny_vlms.clip, tiny_vlms.siglip, tiny_vlms.qwen_vl):
        make(folder / make.__name__)
    (folder / "images").mkdir()
    llava, fine = [], []
    for i in range(48):
        picture = png((5 * i, 200 - 3 * i, 40), (60 + i, 90))
        (folder / "images" / f"{i}.png").write_bytes(picture)
        talk = [
            {"from": "human", "value": f"<image>\nnumber {i}?"},
            {"from": "gpt", "value": f"this is {i}"},
        ]
        llava.append({"id": str(i), "image": f"{i}.png", "conversations": talk})
        ratings = {
            f"{name}_ratings": [1 + i % 5]
            for name in ("relevance", "image_correspondence", "visual_dependency", "formatting")
        }
        turn = {"user": f"number {i}?", "assistant": f"this is {i}"}
        images = [{"bytes": picture, "path": None}]
        fine.append({"images": images, "texts": [turn], "source": "tiny", **ratings})
    (folder / "llava.json").write_text(json.dumps(llava), encoding="utf-8")
    (folder / "fine").mkdir()
    pq.write_table(pa.Table.from_pylist(fine), folder / "fine" / "rows.parquet")
    return folder


@pytest.fixture(autouse=True)
def elsewhere(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INLAY_CACHE", str(folder / "cache"))
    monkeypatch.chdir(tmp_path)


def llava(folder: Path) -> list[str]:
    return [
        f"llm_name_or_path={folder / 'llama'}",
        f"visual_encoder_name_or_path={folder / 'clip'}",
        "pretrained_pth=None",
        f"data_path={folder / 'llava.json'}",
        f"image_folder={folder / 'images'}",
        "batch_size=4",
        "dataloader_num_workers=0",
    ]


def nanovlm(folder: Path) -> list[str]:
    return [
        f"lm_model_type={folder / 'llama'}",
        f"vit_model_type={folder / 'siglip'}",
        "mp_pixel_shuffle_factor=2",
        "max_img_size=128",
        f"train_dataset_path={folder / 'fine' / 'rows.parquet'}",
        "lm_max_length=512",
        "max_sample_length=256",
        "val_size=8",
        "gradient_accumulation_steps=2",
        "dataloader_num_workers=0",
        "max_training_steps=8",
        "eval_interval=4",
        "stats_log_interval=4",
    ]


def any_vlm(folder: Path) -> list[str]:
    return [
        f"pretrained_model_name_or_path={folder / 'qwen_vl'}",
        f"data_path={folder / 'llava.json'}",
        f"image_folder={folder / 'images'}",
        "max_pixels=12544",
        "max_length=512",
        "accumulative_counts=2",
        "dataloader_num_workers=0",
    ]


CASES = {
    "pretrain": (PRETRAIN, llava, []),
    "full": (FULL, llava, []),
    "lora": (LORA, llava, []),
    "qlora": (QLORA, llava, []),
    "streamed": ("nanovlm_450m", nanovlm, []),
    "indexed": ("nanovlm_450m", nanovlm, ["stream_dataset=False"]),
    "one view": ("nanovlm_222m", nanovlm, ["max_img_size=64", "stream_dataset=True"]),
    "qwen": (QWEN_QLORA, any_vlm, []),
}


@pytest.mark.parametrize("name,options,more", CASES.values(), ids=CASES)
def test_a_recipe_makes_an_update(
    name: str, options: Any, more: list[str], folder: Path, tmp_path: Path
) -> None:
    result = dry_run(name, [*options(folder), *more], updates=2)
    assert 4 < result["loss"] < 8, "near the log of the vocabulary: 5.6"
    assert 0 < result["grad_norm"] < 1e4
    assert result["tokens"] > result["trained_tokens"] > 0
    assert (result["items"] is None) == (options is nanovlm and more != CASES["indexed"][2])
    assert not list(tmp_path.iterdir()), "a dry run writes nothing"


def build(name: str, options: list[str]) -> Any:
    return Parts(checked_config(name, options), seed=0).model()


def trained_parts(model: Any) -> dict[str, set[str]]:
    """Parts with trained weights, and whether these are adapters or weights of the model."""
    found: dict[str, set[str]] = {}
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            kind = "lora" if ".lora_" in name else "all"
            found.setdefault(name.partition(".")[0], set()).add(kind)
    return found


WHAT = {
    PRETRAIN: {"projector": {"all"}},
    FULL: {"projector": {"all"}, "llm": {"all"}},
    LORA: {"projector": {"all"}, "llm": {"lora"}},
    QLORA: {"projector": {"all"}, "llm": {"lora"}, "visual_encoder": {"lora"}},
}


@pytest.mark.parametrize("name", WHAT)
def test_what_a_llava_recipe_trains(name: str, folder: Path) -> None:
    import bitsandbytes as bnb

    model = build(name, llava(folder))
    assert trained_parts(model) == WHAT[name]
    small = [n for n, m in model.named_modules() if isinstance(m, bnb.nn.Linear4bit)]
    assert len(small) == (2 * 7 if name == QLORA else 0), "all linear layers but the head"
    assert all(n.startswith("llm.") for n in small)
    is_float = {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    assert is_float, "what is trained is trained in float32"


def test_a_qlora_of_a_whole_model_leaves_the_eyes_alone(folder: Path) -> None:
    options = any_vlm(folder)
    model = build(QWEN_QLORA, options)
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained and all(".language_model." in n and ".lora_" in n for n in trained)
    model = build(QWEN_QLORA, [*options, "freeze=()"])
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert any(".visual.blocks." in n for n in trained) and any(".merger." in n for n in trained)


def test_nanovlm_groups_have_their_rates_and_a_rate_of_0_freezes(folder: Path) -> None:
    from inlay.engine.optim import build_optimizer

    parts = Parts(checked_config("nanovlm_450m", nanovlm(folder)), seed=0)
    optim, make, settings = parts.optim()
    groups = build_optimizer(parts.model(), make, settings, optim.rates).param_groups
    rates = {group["name"]: group["lr"] for group in groups}
    assert rates == {"projector": 5.12e-3, "visual_encoder": 5e-5, "llm": 5e-5}
    frozen = build("nanovlm_450m", [*nanovlm(folder), "lr_language_backbone=0"])
    assert set(trained_parts(frozen)) == {"projector", "visual_encoder"}


def test_nanovlm_starts_from_a_whole_model_in_its_layout(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from inlay.models.nanovlm import to_nanovlm

    options = nanovlm(folder)
    torch.manual_seed(5)
    before = build("nanovlm_450m", options)
    with torch.no_grad():
        for weight in before.parameters():
            weight.normal_(std=0.02)
    config, tensors = to_nanovlm(before)
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "config.json").write_text(json.dumps(config))
    save_file(tensors, tmp_path / "published" / "model.safetensors")
    start = f"resume_from_vlm_checkpoint={tmp_path / 'published'}"
    after = build("nanovlm_450m", [*options, start]).state_dict()
    for name, weight in before.state_dict().items():
        if ".head." not in name:  # SigLIP's pooling, which nanoVLM does not have
            assert torch.equal(after[name], weight), name


def test_the_published_shape_has_64_tokens_a_tile(folder: Path, tmp_path: Path) -> None:
    """The numbers of SigLIP2-B/16 at 512 px, without its weights."""
    from transformers import SiglipImageProcessorPil, SiglipVisionConfig

    eyes = tmp_path / "siglip2"
    SiglipVisionConfig(
        hidden_size=768,
        intermediate_size=3072,
        num_hidden_layers=12,
        num_attention_heads=12,
        image_size=512,
        patch_size=16,
    ).save_pretrained(eyes)
    half = [0.5, 0.5, 0.5]
    SiglipImageProcessorPil(
        size={"height": 512, "width": 512}, image_mean=half, image_std=half
    ).save_pretrained(eyes)
    options = [f"vit_model_type={eyes}", f"lm_model_type={folder / 'llama'}"]
    cfg = load_config("nanovlm_450m", options)
    processor = Parts(cfg, seed=0).image_processor()
    assert (processor.tile_size, processor.patch_size, processor.tokens_per_tile) == (512, 16, 64)
    assert processor.image_mean == processor.image_std == half
    assert len(processor.plan(100, 100).ids) == 1 + 64
    largest = processor.plan(2048, 2048)
    assert (largest.tiles, len(largest.ids)) == (17, 17 * 65)
    assert processor.plan(4000, 1000).tiles == 1 + 4
    assert cfg.max_images_per_knapsack == cfg.lm_max_length // 65, "a pack full of tiles"
    raw = Parts(load_config("nanovlm_450m", [*options, "normalise_pixels=False"]), seed=0)
    assert raw.image_processor().image_mean is None
