"""Configs of XTuner 0.1.x, MMEngine and F-LMM: what their names and arguments become."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import original_configs as originals
import pytest
import torch
from original_configs import SFT, errors

from inlay import data, engine, models
from inlay.app.names import register_names
from inlay.config import compat
from inlay.config.check import check_config
from inlay.config.dump import dump_resolved
from inlay.config.foreign import stop_serving
from inlay.config.load import load_config
from inlay.config.registry import import_path
from inlay.core.errors import ConfigError
from inlay.engine import hooks

LOCAL = "a file or folder that exists"


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    register_names()
    yield
    stop_serving()


def test_every_name_of_the_table_stands_for_something() -> None:
    targets = {name: row.target for name, row in compat.NAMES.items() if row.target}
    assert len(targets) > 40
    for name, target in targets.items():
        assert import_path(target) is not None, name


@pytest.mark.parametrize("path", originals.ALL, ids=lambda path: path.stem[:30])
def test_printed_configs_check_clean_as_they_stand(path: Path) -> None:
    problems = check_config(load_config(path))
    assert problems
    assert {(p.severity, p.expected) for p in problems} == {("warning", LOCAL)}


def test_a_printed_config_becomes_the_same_training() -> None:
    cfg = load_config(originals.PSYCHOLOGY)
    dataset = cfg.train_dataset
    assert dataset["type"] is data.ChatDataset
    assert dataset["sources"] == [dict(path="./data/emo_1234_xtuner.json", format="xtuner")]
    assert dataset["template"] == data.PROMPT_TEMPLATE.internlm2_chat
    assert (dataset["max_length"], dataset["pack_to_max_length"]) == (2048, True)
    assert cfg.train_dataloader["dataset"] is dataset
    assert cfg.train_dataloader["shuffle"] is True
    assert cfg.model["type"] is models.SupervisedFinetune
    assert cfg.model["llm"]["dtype"] == torch.float16
    assert cfg.model["lora"]["target_modules"] == ["wqkv", "wo", "w1", "w2", "w3"]
    assert not {"device_map", "low_cpu_mem_usage", "torch_dtype"} & cfg.model["llm"].keys()
    assert cfg.optim_wrapper["type"] is engine.OptimWrapper
    assert cfg.optim_wrapper["dtype"] == "float16"
    assert cfg.optim_wrapper["clip_grad"] == dict(max_norm=1)
    assert cfg.train_cfg == dict(by_epoch=True, max_epochs=3, val_interval=1)
    assert [h["type"].__name__ for h in cfg.custom_hooks] == [
        "DatasetInfoHook",
        "EvaluateChatHook",
        "ThroughputHook",
    ]
    assert cfg.default_hooks["logger"]["log_metric_by_epoch"] is True
    checkpoint = cfg.default_hooks["checkpoint"]
    assert (checkpoint["interval"], checkpoint["by_epoch"]) == (1, True)
    assert (checkpoint["max_keep_ckpts"], checkpoint["save_best"]) == (3, None)
    assert cfg.env_cfg == dict(cudnn_benchmark=False, dist_cfg=dict(backend="nccl"))
    backends = [b["type"].__name__ for b in cfg.visualizer["vis_backends"]]
    assert backends == ["LocalVisBackend", "TensorboardVisBackend"]
    assert any(n.startswith("model.llm.device_map: left out") for n in cfg.notes)
    assert any(n.startswith("tokenizer.trust_remote_code: no code") for n in cfg.notes)


def test_a_llava_config_shares_tokenizer_and_image_processor() -> None:
    cfg = load_config(originals.LLAVA)
    dataset, chat = cfg.llava_dataset, cfg.custom_hooks[1]
    assert cfg.image_processor["type"] is data.SquareImageProcessor
    assert cfg.image_processor["pad_to_square"] is True
    assert dataset["image_processor"] is chat["image_processor"] is cfg.image_processor
    assert cfg.image_processor["tokenizer"] is dataset["tokenizer"] is cfg.tokenizer
    assert cfg.model["tokenizer"] is cfg.tokenizer
    (source,) = dataset["sources"]
    assert source["format"] == "llava_map_fn" and source["image_folder"] == cfg.data_root
    assert (dataset["max_length"], dataset["pictures_in_length"]) == (1472, False)
    assert dataset["pack_to_max_length"] is False
    assert cfg.model["visual_encoder_lora"]["target_modules"] == "all-linear"
    assert cfg.model["visual_encoder"]["dtype"] == "float32"
    assert cfg.train_dataloader["sampler"]["type"] is data.LengthGroupedSampler


FROZEN = ["frozen_deepseek_vl_1_3b_chat_unet_sam_l_refcoco_png", *originals.FAMILIES]


@pytest.mark.parametrize("name", FROZEN)
def test_published_flmm_configs_become_our_recipes(tmp_path: Path, name: str) -> None:
    path = tmp_path / f"{name}.py"
    text = originals.family(name) if name in originals.FAMILIES else originals.FLMM.read_text()
    path.write_text(text, encoding="utf-8")
    theirs, ours = load_config(path), load_config(name)
    assert errors(theirs) == []
    lmm, expected = theirs.model["lmm"], ours.model["lmm"]
    assert lmm.keys() >= expected.keys()
    assert {k: lmm[k] for k in expected} == expected
    assert theirs.model["image_processor"] is theirs.image_processor
    assert theirs.image_processor["tokenizer"] is theirs.tokenizer
    mine, dataset = ours.train_dataloader["dataset"], theirs.train_dataloader["dataset"]
    for key in ("type", "template", "prompt", "picture_size"):
        assert dataset[key] == mine[key], key
    assert [Path(s.get("refs", s.get("json_file"))) for s in dataset["sources"]] == [
        Path(s.get("refs", s.get("json_file"))) for s in mine["sources"]
    ]
    for source in dataset["sources"][1:]:
        assert source["image_folder"] == "data/coco/train2014"
        assert list(source["path_mapping"]) == ["data/coco/train2014/"]
    head, sam = theirs.model["mask_head"], theirs.model["refiner"]
    for key, value in ours.model["mask_head"].items():
        assert head[key] == value, key
    assert {k: v for k, v in sam.items() if k != "use_box"} == {
        k: v for k, v in ours.model["refiner"].items() if k != "use_box"
    }
    for key in ("optim_wrapper", "param_scheduler"):
        assert _without_types(theirs[key]) == _without_types(ours[key])


def _without_types(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_types(v) for k, v in value.items() if k != "type"}
    return [_without_types(v) for v in value] if isinstance(value, list) else value


def test_the_file_s_own_values_are_kept_as_they_were() -> None:
    cfg = load_config(originals.IDENTITY)
    assert cfg.original is not None
    there = cfg.original["alpaca_en"]
    assert there["type"].path == "xtuner.dataset.process_hf_dataset"
    assert there["type"].__name__ == "process_hf_dataset"
    assert there["dataset"]["data_files"]["train"].endswith("personal_assistant.json")
    assert cfg.original["train_dataloader"]["dataset"] is there
    assert cfg.original["model"]["llm"]["trust_remote_code"] is True
    assert load_config("qwen3_0_6b_lora_custom_dataset_e1").original is None


def test_a_translated_config_dumps_and_loads_to_the_same(tmp_path: Path) -> None:
    for path in originals.ALL:
        cfg = load_config(path)
        resolved = tmp_path / path.name
        resolved.write_text(dump_resolved(cfg), encoding="utf-8")
        again = load_config(resolved)
        assert dict(again) == {**dict(cfg), "_resolved_": True} or dict(again) == dict(cfg)
        assert again.original is None


def test_options_are_taken_in_the_original_s_names_and_in_ours() -> None:
    cfg = load_config(
        originals.PSYCHOLOGY,
        [
            "pretrained_model_name_or_path=other",  # a setting that later lines read
            "train_dataset.dataset.data_files.train=mine.json",  # the original's place
            "train_dataset.map_num_proc=3",  # an argument that the file leaves out
            "train_dataset.val_fraction=0.5",  # ours
            "train_dataloader.dataset.sources.0.format=openai",  # the original has no such place
            "default_hooks.checkpoint.interval=7",
            "model.llm.quantization_config=None",
        ],
    )
    assert cfg.model["llm"]["pretrained_model_name_or_path"] == "other"
    assert cfg.tokenizer["pretrained_model_name_or_path"] == "other"
    dataset = cfg.train_dataloader["dataset"]
    assert dataset["sources"] == [dict(path="mine.json", format="openai")]
    assert (dataset["num_proc"], dataset["val_fraction"]) == (3, 0.5)
    assert cfg.default_hooks["checkpoint"]["interval"] == 7
    assert cfg.model["llm"]["quantization_config"] is None
    assert errors(cfg) == []
    with pytest.raises(ConfigError, match="has no 'datasett'"):
        load_config(originals.PSYCHOLOGY, ["train_dataloader.datasett.max_length=3"])


def test_what_has_no_counterpart_is_named_all_at_once(write: Any) -> None:
    bad = (
        "from mmengine.hooks import EMAHook, CheckpointHok\n"
        "from xtuner.model.dpo import DPO\n"
        "import xtuner.nothing\n"
    )
    path = write(text=bad + SFT)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    text = str(caught.value)
    assert "4 names have no counterpart in Inlay" in text
    assert "line 1: mmengine.hooks.EMAHook" in text
    assert "line 1: mmengine.hooks.CheckpointHok. Did you mean 'CheckpointHook'?" in text
    assert "line 2: xtuner.model.dpo.DPO (preference training is not offered)" in text
    assert "line 3: xtuner.nothing" in text


def test_arguments_without_a_counterpart_are_problems_of_the_check(write: Any) -> None:
    text = SFT.replace("    max_length=64,", "    max_length=64, rename_maps=[('a', 'b')],")
    text += "sequence_parallel_size = 4\nmodel['peft_model'] = 'adapter'\n"
    found = errors(load_config(write(text=text)))
    assert len(found) == 3
    assert any("train_dataset.rename_maps" in e or "dataset.rename_maps" in e for e in found)
    assert any("sequence_parallel_size" in e and "expected 1, got 4" in e for e in found)
    assert any("model.peft_model" in e for e in found)
    assert errors(load_config(write(text=SFT + "sequence_parallel_size = 1\n"))) == []


def test_defaults_of_the_original_are_kept(write: Any) -> None:
    bits = load_config(write(text=SFT + "model['llm']['load_in_8bit'] = True\n")).model["llm"]
    assert errors(load_config(write(text=SFT))) == []
    assert bits["quantization_config"]["load_in_8bit"] and bits["dtype"] == "float16"
    cfg = load_config(write(text=SFT))
    assert cfg.optim_wrapper["dtype"] == "float16"  # AmpOptimWrapper's
    assert cfg.model["llm"]["dtype"] == "float32"  # transformers 4's
    assert cfg.default_hooks["checkpoint"]["interval"] == 1  # MMEngine adds it
    assert cfg.default_hooks["logger"]["log_metric_by_epoch"] is True
    (source,) = cfg.train_dataset["sources"]
    assert source == dict(path="tatsu-lab/alpaca", split="train", format="alpaca_map_fn")


def test_names_may_be_texts_as_in_a_dumped_config(write: Any) -> None:
    text = """
tokenizer = dict(type='transformers.AutoTokenizer.from_pretrained',
                 pretrained_model_name_or_path='m')
model = dict(type='xtuner.model.SupervisedFinetune', use_varlen_attn=False,
             llm=dict(type='transformers.AutoModelForCausalLM.from_pretrained',
                      pretrained_model_name_or_path='m', torch_dtype='torch.float16'))
train_dataloader = dict(
    batch_size=1,
    sampler=dict(type='mmengine.dataset.DefaultSampler', shuffle=True),
    collate_fn=dict(type='xtuner.dataset.collate_fns.default_collate_fn'),
    dataset=dict(type='xtuner.dataset.process_hf_dataset', tokenizer=tokenizer, max_length=8,
                 dataset=dict(type='datasets.load_dataset', path='json', data_files='rows.json'),
                 dataset_map_fn='xtuner.dataset.map_fns.openai_map_fn',
                 template_map_fn=dict(type='xtuner.dataset.map_fns.template_map_fn_factory',
                                      template='xtuner.utils.PROMPT_TEMPLATE.qwen_chat')))
optim_wrapper = dict(type='AmpOptimWrapper', optimizer=dict(type='AdamW', lr=0.1), dtype='bfloat16')
param_scheduler = [dict(type='LinearLR', start_factor=0.1, end=3, by_epoch=False, verbose=False),
                   dict(type='MultiStepLR', milestones=[1], begin=0)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=9)
val_cfg = None
default_scope = 'mmengine'
custom_hooks = [dict(type='EmptyCacheHook')]
default_hooks = dict(checkpoint=dict(type='CheckpointHook', save_best='acc', interval=2))
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
"""
    cfg = load_config(write(text=text))
    assert errors(cfg) == []
    dataset = cfg.train_dataloader["dataset"]
    assert dataset["type"] is data.ChatDataset and dataset["template"] == "qwen_chat"
    assert dataset["sources"] == [dict(path="rows.json", format="openai_map_fn")]
    assert cfg.train_dataloader.keys() == {"batch_size", "shuffle", "dataset"}
    assert cfg.model["llm"]["dtype"] == "float16"
    assert cfg.train_cfg == dict(type=engine.TrainLoop, max_iters=9)
    assert [s["type"] for s in cfg.param_scheduler] == [engine.LinearLR, engine.MultiStepLR]
    assert cfg.custom_hooks == [] and "memory" in cfg.notes[-1]
    assert cfg.default_hooks["checkpoint"]["rule"] == "greater"
    assert "default_scope" not in cfg


def test_data_sets_are_joined(write: Any) -> None:
    join = """
from xtuner.dataset import ConcatDataset
other = dict(train_dataset, dataset=dict(type=load_dataset, path="parquet",
             data_files=dict(train=["a.parquet", "b.parquet"])), dataset_map_fn=None)
train_dataloader = dict(dataset=dict(type=ConcatDataset, datasets=[train_dataset, other]))
"""
    cfg = load_config(write(text=SFT + join))
    dataset = cfg.train_dataloader["dataset"]
    assert [s["path"] for s in dataset["sources"]] == [
        "tatsu-lab/alpaca",
        ["a.parquet", "b.parquet"],
    ]
    assert [s["format"] for s in dataset["sources"]] == ["alpaca_map_fn", "xtuner"]
    unequal = join.replace("dataset_map_fn=None", "dataset_map_fn=None, max_length=9")
    (error,) = errors(load_config(write(text=SFT + unequal)))
    assert "datasets.1.max_length" in error


def test_installed_packages_are_not_used(write: Any, tmp_path: Path, monkeypatch: Any) -> None:
    for name in ("mmengine", "xtuner"):
        (tmp_path / "site" / name).mkdir(parents=True)
        (tmp_path / "site" / name / "__init__.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert errors(load_config(write(text=SFT))) == []
    stop_serving()
    assert not [n for n in sys.modules if n.partition(".")[0] in ("mmengine", "xtuner")]
    with pytest.raises(SystemExit):
        import mmengine  # noqa: F401


def test_a_config_of_ours_leaves_imports_alone(write: Any) -> None:
    before = list(sys.meta_path)
    cfg = load_config(write())
    assert sys.meta_path == before and cfg.original is None and cfg.notes == []


def test_foreign_names_cannot_be_called_or_subclassed(write: Any) -> None:
    calls = "from xtuner.dataset import process_hf_dataset\nx = process_hf_dataset(dataset=1)\n"
    with pytest.raises(ConfigError, match=r"line 2: .*write dict\(type=process_hf_dataset"):
        load_config(write(text=calls))
    inherits = "from xtuner.dataset import LLaVADataset\nclass Mine(LLaVADataset): ...\n"
    with pytest.raises(ConfigError, match=r"LLaVADataset cannot be subclassed"):
        load_config(write(text=inherits))


def test_hooks_for_mmengine_are_hooks_of_ours(write: Any) -> None:
    cfg = load_config(
        write(text=SFT + "from mmengine.hooks import Hook as Base, LoggerHook as Line\nx = Line\n")
    )
    assert cfg.x is hooks.LoggerHook
    assert issubclass(hooks.StageHook, hooks.Hook)
