"""Configs written for XTuner and F-LMM train unchanged: only paths and sizes are overridden."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import grounding_runs as g
import mgm_folder
import original_configs as originals
import published_deepseek
import pytest
import runs
import sights
import tiny_vlms
import transformers as hf
from processes import inlay as process
from processes import records
from tiny_internlm2 import write_internlm2

from inlay.config.load import load_config
from inlay.models.projector import build_projector, save_projector

ANSWERS = ["别担心，先休息一下。", "慢慢来。", "我们一起想想办法，好吗？"]
SHORT = "custom_hooks.1.max_new_tokens=4"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of its own, with a tiny InternLM2 whose code must never run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INLAY_CACHE", str(tmp_path / "cache"))
    write_internlm2(tmp_path / "internlm2", tmp_path / "canary", max_position_embeddings=512)
    yield tmp_path
    assert not (tmp_path / "canary").exists()


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return path


def train(config: Path, folder: Path, *options: str) -> str:
    """Run ``inlay train`` in a folder of the test's own; return its output."""
    own = Path(shutil.copy(config, folder))
    return runs.train(own, folder / "work", "--cfg-options", *options)


def trained(work: Path) -> list[dict[str, Any]]:
    """The records of a run's iterations."""
    return [record for record in records(work) if "loss" in record]


def last(work: Path) -> Path:
    return work / (work / "last_checkpoint").read_text().strip()


@pytest.mark.long
def test_the_psychology_config_in_a_process_of_its_own(here: Path) -> None:
    rows = [
        {"conversation": [{"system": "心理专家", "input": f"医生 {i}", "output": ANSWERS[i % 3]}]}
        for i in range(24)
    ]
    write(here / "emo.json", rows)
    options = ["pretrained_model_name_or_path=internlm2", "data_path=emo.json", "max_length=128"]
    done = process(
        "train", str(originals.PSYCHOLOGY), "--work-dir", "work", "--cfg-options", *options, SHORT,
        cwd=here,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Epoch(train) [3]" in done.stderr  # log_processor = dict(by_epoch=True)
    assert sorted(p.name for p in (here / "work").glob("epoch_*")) == [
        "epoch_1",
        "epoch_2",
        "epoch_3",
    ]
    found = trained(here / "work")
    assert found[-1]["epoch"] == 3 and all(r["loss"] > 0 for r in found)
    assert "tflops" in found[-1]
    assert list((here / "work").glob("*/vis_data/events.out.tfevents.*"))
    resolved = load_config(last(here / "work") / "config.py")
    assert resolved.train_dataset["sources"][0]["format"] == "xtuner"
    done = process(
        "convert", "pth_to_hf", str(originals.PSYCHOLOGY), "work/epoch_3.pth", "hf",
        "--cfg-options", *options, cwd=here,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    adapter = json.loads((here / "hf" / "adapter_config.json").read_text())
    assert set(adapter["target_modules"]) == {"wqkv", "wo", "w1", "w2", "w3"}


def test_the_identity_config(here: Path) -> None:
    turns = [("user", "你是谁"), ("assistant", "我是小助手")]
    rows = [{"messages": [{"role": r, "content": c * (i % 3 + 1)} for r, c in turns]}
            for i in range(20)]  # fmt: skip
    options = [f"alpaca_en_path={write(here / 'assistant.json', rows)}", "max_length=64", SHORT]
    options += ["pretrained_model_name_or_path=internlm2", "accumulative_counts=2"]
    text = train(originals.IDENTITY, here, *options)
    assert "请你介绍一下你自己" in text  # the chat hook has asked
    assert trained(here / "work")[-1]["lr"] < 2e-4
    assert list((here / "work").glob("*/vis_data/events.out.tfevents.*"))


@pytest.mark.long
def test_the_llava_config(here: Path) -> None:
    tiny_vlms.clip(here / "clip")
    g.write_coco(here / "coco")
    rows: list[dict[str, Any]] = [
        {
            "image": f"{i % 3 + 1}.png",
            "conversations": [
                {"from": "human", "value": "<image>\nwhat?"},
                {"from": "gpt", "value": "a block " * (i % 4 + 1)},
            ],
        }
        for i in range(8)
    ]
    rows.append({"conversations": [{"from": "human", "value": "hi"},
                                   {"from": "gpt", "value": "hello"}]})  # fmt: skip
    write(here / "rows.json", rows)
    options = [
        "llm_name_or_path=internlm2",
        "visual_encoder_name_or_path=clip",
        "pretrained_pth=None",
        "data_path=rows.json",
        "image_folder=coco/train2017",
        "evaluation_images=coco/train2017/1.png",
        "model.llm_lora.r=4",
        "model.visual_encoder_lora.r=4",
        "max_length=100",
        SHORT,
    ]
    text = train(originals.LLAVA, here, *options)
    assert "What is the equipment in the image?" in text
    assert trained(here / "work")[-1]["iter"] == 9
    code, said = runs.inlay(
        ["convert", "pth_to_hf", originals.LLAVA, last(here / "work"), "hf", "--cfg-options",
         *options],
        here,
    )  # fmt: skip
    assert code == 0, said
    assert sorted(p.name for p in (here / "hf").iterdir() if p.is_dir()) == [
        "llm_adapter",
        "projector",
        "visual_encoder_adapter",
    ]


def test_the_flmm_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    g.write_coco(tmp_path / "data" / "coco")
    g.deepseek(tmp_path / "deepseek")
    g.sam(tmp_path / "sam")
    options = [
        "deepseek_vl_name=deepseek",
        "model.sam.checkpoint=sam",
        "unet.base_channels=8",
        f"train_dataloader.dataset.picture_size={g.SIDE}",
        "max_epochs=1",
    ]
    train(originals.FLMM, tmp_path, *options)
    found = trained(tmp_path / "work")
    assert found[-1]["iter"] == 12  # three narratives, three pictures in each of three sets
    assert {"loss_mask", "loss_dice", "sam_loss_mask", "sam_aiou"} <= found[-1].keys()
    assert (last(tmp_path / "work") / "model.safetensors").is_file()


def _hybrid(folder: Path) -> list[str]:
    """A DeepSeek-VL-7B as published, whose config says how large its two views are."""
    published_deepseek.publish(folder, hybrid=True)
    config = json.loads((folder / "config.json").read_text())
    params = config["vision_config"]["params"]
    params["low_res_cfg"]["patch_size"], params["high_res_cfg"] = 8, {"image_size": 64}
    (folder / "config.json").write_text(json.dumps(config))
    return [f"deepseek_vl_name={folder}"]


def _llava(folder: Path) -> list[str]:
    """A LLaVA-1.5 and the CLIP whose processor its config asks for."""
    tokenizer = tiny_vlms.byte_tokenizer(tokens=("<image>",))
    text = sights.TEXT | {"vocab_size": len(tokenizer)}
    config = hf.LlavaConfig(
        text_config=hf.LlamaConfig(**text),
        vision_config=hf.CLIPVisionConfig(**sights.VISION),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    sights.livelier(hf.LlavaForConditionalGeneration(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    clip = mgm_folder.clip(folder / "clip")
    return [f"llava_name={folder}", f"image_processor.pretrained_model_name_or_path={clip}"]


def _mgm(folder: Path) -> list[str]:
    """An MGM-HD, which holds the weights of both of its towers, and CLIP's settings."""
    tokenizer = tiny_vlms.byte_tokenizer(tokens=("<image>",))
    eyes = mgm_folder.eyes_tensors()
    mgm_folder.write(folder, hd=True, vocab_size=len(tokenizer), eyes=eyes)
    tokenizer.save_pretrained(folder)
    clip = mgm_folder.clip(folder / "clip")
    return [f"mgm_name={folder}", f"model.model.mm_vision_tower={clip}"]


def _hpt(folder: Path) -> list[str]:
    """An HPT 1.5 Air in its three folders, whose pictures are larger than its encoder's."""
    tokenizer = tiny_vlms.byte_tokenizer(tokens=("<image>",))
    sights.llama(len(tokenizer)).save_pretrained(folder / "llm")
    tokenizer.save_pretrained(folder / "llm")
    sights.livelier(sights.siglip()).save_pretrained(folder / "visual_encoder")
    hf.SiglipImageProcessorPil().save_pretrained(folder / "visual_encoder")
    save_projector(build_projector("mlp", 32, 32), folder / "projector")
    side = 2 * sights.SIDE
    size = [f"image_processor.size.{edge}={side}" for edge in ("height", "width")]
    return [f"hpt_name={folder}", f"model.image_size={side}", *size]


@pytest.mark.parametrize(
    ("family", "build"),
    [
        ("frozen_deepseek_vl_7b_chat", _hybrid),
        ("frozen_llava_next_mistral_7b", lambda folder: [f"llava_name={g.llava_next(folder)}"]),
        ("frozen_llava_1_5_vicuna_7b", _llava),
        ("frozen_mgm_vicuna_7b_hd", _mgm),
        ("frozen_hpt_air_1_5", _hpt),
    ],
)
def test_flmm_configs_of_other_families(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, build: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    g.write_coco(tmp_path / "data" / "coco")
    g.sam(tmp_path / "sam")
    name = f"{family}_unet_sam_l_refcoco_png"
    config = tmp_path / f"{name}.py"
    config.write_text(originals.family(name), encoding="utf-8")
    options = [
        *build(tmp_path / "lmm"),
        "model.sam.checkpoint=sam",
        "unet.base_channels=8",
        f"train_dataloader.dataset.picture_size={g.SIDE}",
        "max_epochs=1",
    ]
    runs.train(config, tmp_path / "work", "--cfg-options", *options)
    found = trained(tmp_path / "work")
    assert found[-1]["iter"] == 12 and {"loss_dice", "sam_aiou"} <= found[-1].keys()


HOOK = """
import json
from mmengine.dist import is_main_process, master_only
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS


@HOOKS.register_module()
class Witness(Hook):
    priority = 'LOW'

    def __init__(self, interval=2, into='seen.jsonl'):
        self.interval, self.into = interval, into

    @master_only
    def say(self, **what):
        with open(self.into, 'a') as file:
            file.write(json.dumps(what) + '\\n')

    def before_run(self, runner):
        super().before_run(runner)
        self.say(point='before_run', iters=runner.max_iters, main=is_main_process())

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        super().after_train_iter(runner, batch_idx, data_batch, outputs)
        if self.every_n_train_iters(runner, self.interval):
            loss = dict(outputs)['loss'].item()
            print_log(f'witnessed {runner.iter}', logger='current')
            rate = runner.optim_wrapper.get_lr()['lr'][0]
            runner.visualizer.add_scalar('witness/twice', 2 * loss, step=runner.iter)
            assert runner.train_loop.max_iters == 8
            self.say(point='iter', iter=runner.iter, batch_idx=batch_idx, loss=loss, lr=rate)

    def _after_epoch(self, runner, mode='train'):
        self.say(point='epoch', mode=mode, epoch=runner.epoch)

    def before_save_checkpoint(self, runner, checkpoint):
        checkpoint['message_hub'].setdefault('seen', 1)
        self.say(point='save')
"""


def test_a_users_hook_for_mmengine_sees_a_training(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"instruction": f"count {i}", "input": "", "output": "one two"} for i in range(8)]
    path = write(tmp_path / "rows.json", rows)
    (tmp_path / "witness.py").write_text(HOOK, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = tmp_path / "config.py"
    config.write_text(
        originals.SFT.replace('path="tatsu-lab/alpaca"', f"path='json', data_files='{path}'")
        + "custom_imports = dict(imports=['witness'])\n"
        + "custom_hooks = [dict(type='Witness', interval=2)]\n",
        encoding="utf-8",
    )
    options = [f"path={tiny_model}", "train_dataset.pack_to_max_length=False"]
    text = runs.train(config, tmp_path / "work", "--cfg-options", *options)
    assert "witnessed 3" in text
    seen = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    assert seen[0] == {"point": "before_run", "iters": 8, "main": True}
    iters = [s for s in seen if s["point"] == "iter"]
    assert [s["iter"] for s in iters] == [1, 3, 5, 7]
    assert [s["batch_idx"] for s in iters] == [1, 3, 5, 7]  # as XTuner's loop counts
    assert all(s["loss"] > 0 and s["lr"] > 0 for s in iters)
    logged = next((tmp_path / "work").glob("*/vis_data/scalars.json")).read_text().splitlines()
    twice = [r for r in map(json.loads, logged) if "witness/twice" in r]
    assert [(r["step"], r["witness/twice"] / 2) for r in twice] == [
        (s["iter"], s["loss"]) for s in iters
    ]
    assert [s["epoch"] for s in seen if s["point"] == "epoch"] == [0, 1]
    assert sum(s["point"] == "save" for s in seen) == 2  # MMEngine saves every epoch by itself
