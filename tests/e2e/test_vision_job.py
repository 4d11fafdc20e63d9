"""Vision-language training on real photos, three ways: train, SIGKILL, resume, convert, chat.

The models are tiny and random, built on the spot from the real configuration classes.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import tiny_vlms
from processes import check_equal_after_resume, inlay, records, train_killed_and_resumed

QUIET = ["evaluation_inputs=[]", "save_total_limit=2", "default_hooks.logger.interval=1"]


def photos(images: Path, folder: Path) -> str:
    """The three real sets side by side: a list of sources with their image folders."""
    oph = shutil.copytree(images / "oph", folder / "oph")
    sources = [
        {"path": str(images / "llava_photos.json"), "image_folder": str(images / "llava_photos")},
        {"path": str(images / "mllm_demo.json"), "image_folder": str(images)},
        {"path": str(oph / "unique_data.json"), "image_folder": str(oph)},
    ]
    return repr(sources)


def llava(folder: Path, images: Path) -> list[str]:
    """LLaVA's first stage: only the projector learns."""
    return [
        "llava_v15_7b_pretrain",
        f"llm_name_or_path={tiny_vlms.llama(folder / 'llm')}",
        f"visual_encoder_name_or_path={tiny_vlms.clip(folder / 'clip')}",
        f"data_path={images / 'llava_photos.json'}",
        f"image_folder={images / 'llava_photos'}",
        "prompt_template=None",
        "evaluation_images=None",
        "batch_size=8",
        "dataloader_num_workers=2",
        "save_steps=9",
        "max_epochs=1",
    ]


def from_backbones(folder: Path, images: Path) -> list[str]:
    """nanoVLM: all three parts learn, at rates of their own, on packs of tiles."""
    return [
        "nanovlm_450m",
        f"lm_model_type={tiny_vlms.llama(folder / 'llm')}",
        f"vit_model_type={tiny_vlms.siglip(folder / 'siglip')}",
        "mp_pixel_shuffle_factor=2",
        "max_img_size=256",
        "stream_dataset=False",
        f"train_dataset_path={images / 'llava_photos.json'}",
        "lm_max_length=1536",
        "max_sample_length=1536",
        "val_size=40",
        "batch_size=1",
        "gradient_accumulation_steps=2",
        "dataloader_num_workers=2",
        "max_training_steps=24",
        "eval_interval=6",
        "stats_log_interval=4",
    ]


def any_model(folder: Path, images: Path) -> list[str]:
    """LoRA on a Qwen2.5-VL, packed, through its own processor and template."""
    return [
        "qwen2_5_vl_3b_instruct_lora_custom_dataset_e1",
        f"pretrained_model_name_or_path={tiny_vlms.qwen_vl(folder / 'vlm')}",
        f"data_path={images / 'llava_photos.json'}",
        "max_pixels=12544",
        "val_fraction=0.0",
        "max_length=1024",
        "accumulative_counts=2",
        "dataloader_num_workers=2",
        "save_steps=9",
        "lr=5e-3",
    ]


@pytest.mark.shared
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("way", [llava, from_backbones, any_model])
def test_real_photos_train_and_resume_bit_exactly(tmp_path, shared_data, way) -> None:
    config, *options = way(tmp_path, shared_data / "images")
    sources = photos(shared_data / "images", tmp_path)
    run = [config, "--cfg-options", *options, "default_hooks.logger.interval=1"]
    run += ["evaluation_inputs=[]", f"train_dataloader.dataset.sources={sources}"]
    if way is from_backbones:
        run.append(f"val_dataloader.dataset.sources={sources}")
    whole = inlay("train", config, "--work-dir", "whole", *run[1:], cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    rows = records(tmp_path / "whole")
    losses = [r["loss"] for r in rows if "loss" in r]
    print(f"{way.__name__}: loss {losses[0]:.3f} -> {losses[-1]:.3f} in {len(losses)} iterations")
    assert sum(losses[-5:]) < sum(losses[:5])

    train_killed_and_resumed(tmp_path, run, "killed", 2, random.Random(1), range(18, 26))
    check_equal_after_resume(rows, records(tmp_path / "killed"))
    last = (tmp_path / "whole" / "last_checkpoint").read_text().strip()
    names = [tmp_path / w / Path(last).name / "model.safetensors" for w in ("whole", "killed")]
    assert names[0].read_bytes() == names[1].read_bytes()


def ask(cwd: Path, words: Sequence[str], image: Path, question: str) -> str:
    """The greedy answer of `inlay chat` to one question about one picture."""
    talk = ["chat", *words, "--image", str(image), "--temperature", "0", "--max-new-tokens", "400"]
    answer = inlay(*talk, cwd=cwd, input=f"{question}\n\nEXIT\n")
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


@pytest.mark.shared
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_oph_exercise_overfits_and_chat_gives_its_answers_back(tmp_path, shared_data) -> None:
    """Both LLaVA stages, the second with every weight of the language model; parts; chat."""
    oph = shared_data / "images" / "oph"
    rows = json.loads((oph / "unique_data.json").read_text(encoding="utf-8"))
    texts = [turn["value"] for row in rows for turn in row["conversations"]]
    words = tiny_vlms.words_tokenizer(texts)
    llm = tiny_vlms.llama(tmp_path / "llm", width=128, tokenizer=words)
    encoder = tiny_vlms.clip(tmp_path / "clip")
    common = [
        f"llm_name_or_path={llm}",
        f"visual_encoder_name_or_path={encoder}",
        f"data_path={oph / 'unique_data.json'}",
        f"image_folder={oph}",
        "prompt_template=None",
        "evaluation_images=None",
        "dataloader_num_workers=0",
        "save_steps=-1",
        *QUIET,
    ]
    first = inlay(
        "train", "llava_v15_7b_pretrain", "--work-dir", "pretrain",
        "--cfg-options", *common, "batch_size=2", cwd=tmp_path,
    )  # fmt: skip
    assert first.returncode == 0, first.stderr
    second = inlay(
        "train", "llava_v15_7b_finetune", "--work-dir", "finetune",
        "--cfg-options", *common, f"pretrained_pth={tmp_path / 'pretrain'}", "max_length=4096",
        "batch_size=3", "max_epochs=100", "lr=5e-3", "optim_wrapper.dtype=float32", cwd=tmp_path,
    )  # fmt: skip
    assert second.returncode == 0, second.stderr
    losses = [r["loss"] for r in records(tmp_path / "finetune") if "loss" in r]
    print(f"oph: loss {losses[0]:.3f} -> {losses[-1]:.4f}")
    assert losses[-1] < 0.1

    config = next((tmp_path / "finetune").glob("*.py"))
    last = (tmp_path / "finetune" / "last_checkpoint").read_text().strip()
    made = inlay(
        "convert", "pth_to_hf", str(config), str(tmp_path / "finetune" / Path(last).name), "parts",
        "--fp32", cwd=tmp_path,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    image = oph / "test_img" / "oph.jpg"
    words = ["parts", "--llava", "parts", "--visual-encoder", str(encoder)]
    for row in rows[3:]:  # the first three ask the same question and differ in their answers
        question, answer = (turn["value"] for turn in row["conversations"][:2])
        question = question.removeprefix("<image>\n")
        assert ask(tmp_path, words, image, question) == answer.strip()
