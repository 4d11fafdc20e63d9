"""What the originals would have done with a config: a fault is told where it is one."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inlay.app.originals import packer, settings
from inlay.app.originals.explain import explain, read_rows
from inlay.app.originals.finding import UNREAD, Data, Finding, Rows
from inlay.cli import main
from inlay.data.templates import PROMPT_TEMPLATE

XTUNER: dict[str, Any] = dict(
    model=dict(
        type="xtuner.model.SupervisedFinetune",
        llm=dict(type="transformers.AutoModelForCausalLM.from_pretrained"),
        lora=dict(type="peft.LoraConfig", r=64, lora_alpha=16, lora_dropout=0.1),
    ),
    train_dataloader=dict(
        batch_size=1,
        dataset=dict(
            type="xtuner.dataset.process_hf_dataset",
            dataset=dict(type="datasets.load_dataset", path="json"),
            max_length=128,
            dataset_map_fn="xtuner.dataset.map_fns.alpaca_map_fn",
            template_map_fn=dict(
                type="xtuner.dataset.map_fns.template_map_fn_factory",
                template=PROMPT_TEMPLATE.default,
            ),
            shuffle_before_pack=True,
            pack_to_max_length=True,
        ),
    ),
    optim_wrapper=dict(
        type="mmengine.optim.AmpOptimWrapper",
        optimizer=dict(type="torch.optim.AdamW", lr=2e-4),
        accumulative_counts=16,
    ),
    param_scheduler=[
        dict(
            type="mmengine.optim.LinearLR",
            start_factor=1e-5,
            by_epoch=True,
            begin=0,
            end=0.09,
            convert_to_iter_based=True,
        ),
        dict(
            type="mmengine.optim.CosineAnnealingLR",
            by_epoch=True,
            begin=0.09,
            end=3,
            convert_to_iter_based=True,
        ),
    ],
    train_cfg=dict(type="xtuner.engine.runner.TrainLoop", max_epochs=3),
    custom_hooks=[dict(type="EvaluateChatHook", evaluation_inputs=["hi"], system="You are kind.")],
    default_hooks=dict(checkpoint=dict(by_epoch=False, interval=500, max_keep_ckpts=3)),
    randomness=dict(seed=None, deterministic=False),
)

FLMM: dict[str, Any] = dict(
    prompt="<image>\nPlease give me a description of the image.",
    model=dict(
        type="flmm.models.frozen_llava_next.FrozenLlavaNextSAM", sam=dict(type="SAMWrapper")
    ),
    train_dataloader=dict(
        dataset=dict(
            type="flmm.datasets.png.concat_datasets",
            datasets_list=[
                dict(type="flmm.datasets.png.PNGDataset"),
                dict(
                    type="mmdet.datasets.RefCocoDataset",
                    pipeline=[dict(type="flmm.datasets.transforms.RefCOCO2PNG", prompt="p")],
                ),
            ],
        )
    ),
    optim_wrapper=dict(optimizer=dict(lr=1e-4), accumulative_counts=1),
    train_cfg=dict(type="xtuner.engine.runner.TrainLoop", max_epochs=8),
    default_hooks=dict(checkpoint=dict(by_epoch=False, interval=500, max_keep_ckpts=1)),
)


def lengths(count: int = 4000, most: int = 128) -> np.ndarray:
    return np.random.default_rng(7).integers(1, most + 1, count)


def changed(base: dict[str, Any], **places: Any) -> dict[str, Any]:
    """A copy with values set; a place is written ``train_cfg__max_epochs``, a list's by number."""
    cfg = copy.deepcopy(base)
    for path, value in places.items():
        *keys, last = (int(key) if key.isdigit() else key for key in path.split("__"))
        node: Any = cfg
        for key in keys:
            node = node[key]
        node[last] = value
    return cfg


def found(cfg: dict[str, Any], data: Data | None = None, devices: int = 1) -> dict[str, Finding]:
    findings = explain(cfg, Data(lengths()) if data is None else data, devices)
    names = [finding.name for finding in findings]
    assert len(names) == len(set(names))
    return {finding.name: finding for finding in findings}


# --- the packer ---------------------------------------------------------------------------------


def by_token(sizes: list[int], max_length: int, workers: int, rows: int) -> tuple[int, ...]:
    """The original's rule, token by token: packs, tokens lost, samples cut, samples gone."""
    workers = min(workers, len(sizes))
    numbered = list(enumerate(sizes))
    base, extra = divmod(len(numbered), workers)
    packs: list[list[int]] = []
    first = 0
    for worker in range(workers):
        mine = numbered[first : first + base + (worker < extra)]
        first += len(mine)
        open_tokens: list[int] = []
        while mine:
            now, mine = mine[:rows], mine[rows:]
            open_tokens += [number for number, size in now for _ in range(size)]
            if len(open_tokens) < max_length:
                packs.append(open_tokens)
                open_tokens = []
            while len(open_tokens) >= max_length:
                packs.append(open_tokens[:max_length])
                open_tokens = open_tokens[max_length:]
    counts = [Counter(pack) for pack in packs]
    kept = Counter(number for pack in packs for number in pack)
    whole = sum(count[number] == sizes[number] for count in counts for number in count)
    gone = len(sizes) - len(kept)
    return len(packs), sum(sizes) - kept.total(), len(kept) - whole, gone


@pytest.mark.parametrize(
    ("count", "max_length", "workers", "rows"),
    [
        (37, 16, 4, 1000),
        (5, 16, 32, 1000),
        (60, 8, 3, 7),
        (90, 40, 2, 1),
        (1, 9, 1, 5),
        (64, 3, 5, 4),
    ],
)
def test_packer_counts_what_its_rule_does(
    count: int, max_length: int, workers: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packer, "ROWS_PER_CALL", rows)
    for seed in range(10):
        sizes = np.random.default_rng(seed).integers(1, max_length + 1, count)
        cuts = packer.cut(sizes, max_length, workers)
        expected = by_token(sizes.tolist(), max_length, workers, rows)
        assert (cuts.packs, cuts.lost, cuts.cut, cuts.gone) == expected


def test_lost_tokens_of_this_data_set() -> None:
    finding = found(XTUNER)["lost-tokens"]
    sizes = np.random.default_rng(0).permutation(lengths())
    packs, lost, parted, gone = by_token(sizes.tolist(), 128, 32, 1000)
    figures = finding.figures
    assert (figures["packs_there"], figures["tokens_lost"]) == (packs, lost)
    assert (figures["samples_cut"], figures["samples_gone"]) == (parted, gone)
    assert f"{lost:,} of {lengths().sum():,} tokens lost" in finding.there
    assert figures["packs_here"] * 128 >= lengths().sum() > (figures["packs_here"] - 30) * 128


def test_sources_are_packed_apart() -> None:
    sizes = np.full(6, 100)
    cfg = changed(XTUNER, train_dataloader__dataset__map_num_proc=1)
    for parts, packs, lost in (([6], 4, 88), ([3, 3], 4, 88), ([4, 2], 4, 88), ([5, 1], 4, 116)):
        figures = found(cfg, Data(sizes, sizes=parts))["lost-tokens"].figures
        assert (figures["packs_there"], figures["tokens_lost"]) == (packs, lost)


def test_nothing_is_lost_where_samples_fill_their_packs() -> None:
    assert "lost-tokens" not in found(XTUNER, Data(np.full(640, 128)))
    assert "mixed-samples" not in found(XTUNER, Data(np.full(640, 128)))


def test_without_packing_nothing_is_lost_or_mixed() -> None:
    cfg = changed(XTUNER, train_dataloader__dataset__pack_to_max_length=False)
    assert not {"lost-tokens", "mixed-samples"} & found(cfg).keys()


def test_figures_that_need_the_data_say_so() -> None:
    findings = found(XTUNER, Data(why="data.json is not here"))
    for name in ("lost-tokens", "mixed-samples", "dead-warm-up"):
        assert findings[name].unknown == UNREAD, name
        assert not findings[name].figures
    assert "last-window" not in findings  # it may not apply
    assert "fewer than 23 iterations" in findings["dead-warm-up"].there  # int(0.09 * 22) is 1
    assert "fewer than 12 the run stops" in findings["dead-warm-up"].there  # int(0.09 * 11) is 0


# --- each fault, where it is one ----------------------------------------------------------------

DATASET = "train_dataloader__dataset__"
TEMPLATE = DATASET + "template_map_fn__template"
SAVE = "default_hooks__checkpoint__"
MAP_FN = DATASET + "dataset_map_fn"
MEDICAL = "xtuner.dataset.map_fns.medical_map_fn"
MINICPM = {"INSTRUCTION": "<用户> {input} <AI>", "SEP": "\n"}
CASES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    # name, changes with which it is told, changes with which it is not
    ("mixed-samples", {}, {DATASET + "use_varlen_attn": True}),
    ("bos-every-turn", {}, {TEMPLATE: PROMPT_TEMPLATE.internlm2_chat}),
    (
        "no-stop-token",
        {TEMPLATE: {"INSTRUCTION": "{input}", "SUFFIX_AS_EOS": True}},
        {TEMPLATE: PROMPT_TEMPLATE.internlm2_chat},
    ),
    ("template-without-system", {TEMPLATE: MINICPM, MAP_FN: MEDICAL}, {TEMPLATE: MINICPM}),
    ("template-without-system", {TEMPLATE: PROMPT_TEMPLATE.minicpm, MAP_FN: MEDICAL}, {}),
    ("template-llama2", {TEMPLATE: PROMPT_TEMPLATE.llama2_chat}, {}),
    (
        "template-llama2",
        {TEMPLATE: PROMPT_TEMPLATE.llama2_chat},
        {TEMPLATE: PROMPT_TEMPLATE.llama2_chat, "custom_hooks": []},
    ),
    ("braces-in-system", {"custom_hooks__0__system": "Say {word}."}, {}),
    (
        "braces-in-system",
        {"custom_hooks__0__system": "a } b"},
        {"custom_hooks__0__system": "{input}"},
    ),
    (
        "eval-of-rows",
        {DATASET + "dataset_map_fn": "xtuner.dataset.map_fns.msagent_react_map_fn"},
        {},
    ),
    ("mean-of-means", {}, {"optim_wrapper__accumulative_counts": 1}),
    (
        "remote-code",
        {"model__llm__trust_remote_code": True},
        {"model__llm__trust_remote_code": False},
    ),
    (
        "schedule-never-steps",
        {"param_scheduler__1__convert_to_iter_based": False},
        {"param_scheduler__1__by_epoch": False},
    ),
    (
        "schedule-stops-early",
        {"param_scheduler__1__end": None},
        {"param_scheduler__1__end": None, "train_cfg": {"by_epoch": True, "max_epochs": 3}},
    ),
    ("last-window", {}, {"optim_wrapper__accumulative_counts": 1}),
    ("no-validation", {"train_cfg__val_interval": 1}, {}),
    ("only-checkpoint", {SAVE + "max_keep_ckpts": 1}, {SAVE + "max_keep_ckpts": 2}),
    (
        "only-checkpoint",
        {SAVE + "max_keep_ckpts": 1},
        {SAVE + "max_keep_ckpts": 1, SAVE + "interval": 99999},
    ),
    ("one-checkpoint", {SAVE + "by_epoch": True}, {}),
    (
        "one-checkpoint",
        {SAVE + "by_epoch": True},
        {SAVE + "by_epoch": True, "train_cfg": {"by_epoch": True, "max_epochs": 3}},
    ),
    ("half-windows", {}, {SAVE + "interval": 160}),
    ("half-windows", {}, {SAVE + "interval": 99999}),
    ("data-order", {}, {"randomness__seed": 0}),
    ("random-state", {}, {"model__lora__lora_dropout": 0.0}),
    ("read-again", {}, {"train_cfg": {"by_epoch": True, "max_epochs": 3}}),
    ("replayed-epoch", {"train_cfg": {"by_epoch": True, "max_epochs": 3}}, {}),
    ("silent-changes", {"resume": True}, {"resume": False}),
    ("absolute-path", {}, {"default_hooks__checkpoint": None}),
]


@pytest.mark.parametrize(("name", "there", "not_there"), CASES)
def test_a_fault_is_told_where_it_is_one(
    name: str, there: dict[str, Any], not_there: dict[str, Any]
) -> None:
    assert name in found(changed(XTUNER, **there))
    assert name not in found(changed(XTUNER, **not_there))


def test_tokenizer_without_bos() -> None:
    assert "bos-every-turn" not in found(XTUNER, Data(lengths(), has_bos=False))
    assert not found(XTUNER, Data(lengths(), has_bos=True))["bos-every-turn"].unknown


@pytest.mark.parametrize("total", range(30, 72))
def test_dead_warm_up_by_length_of_the_run(total: int) -> None:
    cfg = changed(
        XTUNER, train_cfg__max_epochs=1, train_dataloader__dataset__pack_to_max_length=False
    )
    cfg["param_scheduler"][0]["end"] = 0.03
    finding = found(cfg, Data(lengths(total))).get("dead-warm-up")
    if total < 34:
        assert finding is not None and "stops before it starts" in finding.there
    elif total < 67:
        assert finding is not None and f"run of {total} iterations" in finding.there
        assert "2.0e-09" in finding.there
    else:
        assert finding is None


def test_devices_share_the_iterations() -> None:
    cfg = changed(
        XTUNER, train_cfg__max_epochs=1, train_dataloader__dataset__pack_to_max_length=False
    )
    cfg["param_scheduler"][0]["end"] = 0.03
    assert "dead-warm-up" not in found(cfg, Data(lengths(100)))
    assert found(cfg, Data(lengths(100)), devices=2)["dead-warm-up"].figures["iterations"] == 50


def test_half_windows_are_counted_save_by_save() -> None:
    for interval, window, total in itertools.product((3, 100, 500), (2, 6, 16), (90, 1999)):
        cfg = changed(XTUNER, optim_wrapper__accumulative_counts=window)
        cfg["default_hooks"]["checkpoint"]["interval"] = interval
        cfg["train_cfg"] = dict(type="TrainLoop", max_iters=total)
        inside = [i for i in range(1, total) if i % interval == 0 and i % window]
        finding = found(cfg).get("half-windows")
        assert (finding is not None) == bool(inside)
        if finding is not None:
            assert finding.figures["inside"] == len(inside)
            assert finding.figures["lost"] == max(i % window for i in inside)


def test_last_window_counts_the_rest() -> None:
    cfg = changed(XTUNER, train_cfg=dict(type="TrainLoop", max_iters=100))
    assert found(cfg)["last-window"].figures["micro_batches"] == 4
    assert "last-window" not in found(changed(cfg, train_cfg__max_iters=96))


def test_weight_of_a_token_in_short_answers() -> None:
    cfg = changed(XTUNER, train_dataloader__dataset__pack_to_max_length=False)
    trained = np.array([10] * 50 + [100] * 50)
    figures = found(cfg, Data(lengths(100), trained=trained))["mean-of-means"].figures
    assert figures["weight"] == 10.0


def test_llava_rows_lose_pictures_only_with_their_map_function() -> None:
    cfg = changed(XTUNER)
    cfg["train_dataloader"]["dataset"] = dict(
        type="xtuner.dataset.LLaVADataset", dataset_map_fn="xtuner.dataset.map_fns.llava_map_fn"
    )
    data = Data(lengths(), rows=Rows(two_pictures=3))
    assert found(cfg, data)["two-pictures"].figures == {"messages": 3}
    assert not {"lost-tokens", "mixed-samples"} & found(cfg, data).keys()  # never packed
    assert "two-pictures" not in found(cfg, Data(lengths(), rows=Rows()))
    cfg["train_dataloader"]["dataset"]["dataset_map_fn"] = None
    assert "two-pictures" not in found(cfg, data)


def test_openai_rows() -> None:
    cfg = changed(XTUNER)
    cfg["train_dataloader"]["dataset"]["dataset_map_fn"] = "xtuner.dataset.map_fns.openai_map_fn"
    rows = Rows(answers=5, untexted_loss=4)
    assert "4 of 5" in found(cfg, Data(lengths(), rows=rows))["openai-loss"].there
    assert "openai-loss" not in found(cfg, Data(lengths(), rows=Rows(answers=5)))
    assert found(cfg, Data(why="no data"))["openai-loss"].unknown == UNREAD
    assert "openai-loss" not in found(XTUNER, Data(lengths(), rows=rows))


def test_system_texts_of_rows() -> None:
    cfg = changed(XTUNER, train_dataloader__dataset__template_map_fn__template=MINICPM)
    data = Data(lengths(), rows=Rows(systems=1))
    assert "template-without-system" in found(cfg, data)
    assert "template-without-system" not in found(XTUNER, data)
    assert "template-without-system" not in found(cfg, Data(lengths(), rows=Rows()))


def test_turns_without_a_mark() -> None:
    cfg = changed(XTUNER, train_dataloader__dataset__dataset_map_fn=None)
    data = Data(lengths(), rows=Rows(unmarked_turns=2))
    assert found(cfg, data)["lost-loss"].figures == {"turns": 2}
    assert "lost-loss" not in found(XTUNER, data)  # a map function makes the turns
    assert "lost-loss" not in found(cfg, Data(lengths(), rows=Rows()))


def test_rows_of_a_file(tmp_path: Path) -> None:
    rows = [
        {"conversation": [{"input": "a", "output": "b", "output_with_loss": False}]},
        {"conversation": [{"input": "a", "output": "b"}, {"input": "c", "output": "d"}]},
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
        {"messages": [{"role": "system"}, {"role": "assistant", "loss": "true"}]},
        {"conversations": [{"from": "human", "value": "<image> and <image>?"}]},
        {"conversations": [{"from": "human", "value": "<image>?"}]},
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    node = dict(type="load_dataset", path="json", data_files=dict(train=[str(file)]))
    cfg = changed(XTUNER, train_dataloader__dataset__dataset=node)
    assert read_rows(settings.read(cfg)) == Rows(1, 2, 2, 1, 1)
    assert read_rows(settings.read(XTUNER)) is None


# --- F-LMM --------------------------------------------------------------------------------------


def test_flmm() -> None:
    findings = found(FLMM, Data(lengths(1000), sentences=300, references=100))
    assert set(findings) == {
        "one-sentence",
        "two-prompts",
        "replaced-narratives",
        "frozen-again",
        "all-attention",
        "only-checkpoint",
        "data-order",
        "read-again",
        "absolute-path",
    }
    assert findings["frozen-again"].figures["passes"] == 8000
    assert "100 of 300 sentences" in findings["one-sentence"].there
    assert findings["only-checkpoint"].figures["saves"] == math.ceil(8000 / 500)
    assert "PNGDataset" in findings["two-prompts"].there


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("one-sentence", {DATASET + "datasets_list__1__text_mode": "select_first"}),
        ("replaced-narratives", {DATASET + "datasets_list__0__type": "RefCocoDataset"}),
        ("two-prompts", {DATASET + "datasets_list__0__prompt": "p"}),
        ("frozen-again", {"model__sam": None}),
    ],
)
def test_flmm_without_a_fault(name: str, changes: dict[str, Any]) -> None:
    assert name in found(FLMM)
    assert name not in found(changed(FLMM, **changes))


# --- the command --------------------------------------------------------------------------------

RECIPE = "smollm2_360m_instruct_full_custom_dataset_e1"


def options(data: Path, tokenizer: Path, *more: str) -> list[str]:
    names = f"data_path={data}", f"pretrained_model_name_or_path={tokenizer}", "val_fraction=0"
    return ["--cfg-options", *names, *more]


def test_command_counts_the_data(
    tmp_path: Path, tiny_tokenizer: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    file = tmp_path / "rows.json"
    turns = [[{"input": "hi", "output": "yes " * (1 + n % 9)}] for n in range(40)]
    file.write_text(json.dumps([{"conversation": turn} for turn in turns]))
    words = options(file, tiny_tokenizer, "max_length=64")
    assert main(["check", RECIPE, "--explain", "--json", *words]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["problems"] == [] and printed["explain"]["samples"] == 40
    names = {finding["name"]: finding for finding in printed["explain"]["findings"]}
    assert names["lost-tokens"]["figures"]["samples"] == 40
    assert "bos-every-turn" not in names  # the tokenizer's own template
    assert main(["check", RECIPE, "--explain", *words]) == 0
    text = capsys.readouterr().out
    assert "40 samples" in text and "there: " in text and "here:  " in text


ORIGINAL = """
from datasets import load_dataset
from mmengine.hooks import CheckpointHook
from mmengine.optim import AmpOptimWrapper, CosineAnnealingLR, LinearLR
from mmengine.runner import EpochBasedTrainLoop
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, AutoTokenizer
from xtuner.dataset import ConcatDataset, process_hf_dataset
from xtuner.dataset.map_fns import openai_map_fn, template_map_fn_factory
from xtuner.model import SupervisedFinetune
from xtuner.utils import PROMPT_TEMPLATE

path = {folder!r}
tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path=path)
model = dict(
    type=SupervisedFinetune,
    llm=dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path=path),
)
parts = [
    dict(
        type=process_hf_dataset,
        dataset=dict(type=load_dataset, path='json', data_files=dict(train=file)),
        tokenizer=tokenizer, max_length=64, map_num_proc=1, dataset_map_fn=openai_map_fn,
        template_map_fn=dict(type=template_map_fn_factory, template=PROMPT_TEMPLATE.qwen_chat),
    )
    for file in {files!r}
]
train_dataloader = dict(batch_size=1, dataset=dict(type=ConcatDataset, datasets=parts))
optim_wrapper = dict(type=AmpOptimWrapper, optimizer=dict(type=AdamW, lr=1e-4), dtype='bfloat16')
param_scheduler = [
    dict(type=LinearLR, start_factor=1e-5, by_epoch=True, end={end}, convert_to_iter_based=True),
    dict(type=CosineAnnealingLR, by_epoch=True, begin={end}, end=2, convert_to_iter_based=True),
]
train_cfg = dict(type=EpochBasedTrainLoop, max_epochs=2)
default_hooks = dict(checkpoint=dict(type=CheckpointHook, interval=1, max_keep_ckpts=1))
"""


def test_file_of_the_original(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    files = [str(tmp_path / name) for name in ("a.json", "b.json")]
    for file, count in zip(files, (10, 5), strict=True):
        turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
        Path(file).write_text(json.dumps([{"messages": turns}] * count))
    config = tmp_path / "theirs.py"
    config.write_text(ORIGINAL.format(folder=str(tiny_model), files=files, end=0.2))
    assert main(["check", str(config), "--explain", "--json"]) == 0
    found_there = json.loads(capsys.readouterr().out)["explain"]
    assert found_there["samples"] == 15
    size, rest = divmod(found_there["tokens"], 15)
    assert not rest  # all rows are the same
    packs = 10 * size // 64 + 5 * size // 64
    names = {finding["name"]: finding["figures"] for finding in found_there["findings"]}
    assert names["lost-tokens"]["packs_there"] == packs
    assert names["lost-tokens"]["tokens_lost"] == 15 * size - packs * 64
    assert names["openai-loss"] == {"answers": 15}
    assert names["only-checkpoint"] == {"saves": 2}
    assert names["dead-warm-up"]["iterations"] == 2 * packs
    assert not {"one-checkpoint", "read-again"} & names.keys()  # its loop counts epochs


def test_command_without_the_data(
    tmp_path: Path, tiny_tokenizer: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = options(tmp_path / "none.json", tiny_tokenizer)
    assert main(["check", RECIPE, "--explain", *words]) == 0
    text = capsys.readouterr().out
    assert "were not read" in text and "none.json" in text
    assert main(["check", RECIPE, "--explain", "--gpus", "0", *words]) == 1
