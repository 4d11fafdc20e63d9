from __future__ import annotations

import re

import pytest

from inlay.cli import main
from inlay.config.check import check_config
from inlay.config.dump import dump_resolved, to_plain
from inlay.config.load import load_config
from inlay.config.source import recipes

NAMES = list(recipes())
SETTINGS = [
    "pretrained_model_name_or_path",
    "data_path",
    "prompt_template",
    "max_length",
    "pack_to_max_length",
    "batch_size",
    "accumulative_counts",
    "dataloader_num_workers",
    "max_epochs",
    "optim_type",
    "lr",
    "betas",
    "weight_decay",
    "max_norm",
    "warmup_ratio",
    "save_steps",
    "save_total_limit",
    "evaluation_freq",
    "SYSTEM",
    "evaluation_inputs",
]


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_loads_checks_and_survives_its_dump_and_its_copy(name, tmp_path, capsys):
    cfg = load_config(name)
    problems = check_config(cfg)
    assert [str(p) for p in problems if p.severity == "error"] == []
    assert {p.path for p in problems} <= {"data_path"}, "only the user's own file may be missing"
    dump = tmp_path / "dump.py"
    dump.write_text(dump_resolved(cfg), encoding="utf-8")
    dumped = load_config(dump)
    assert dict(dumped) == dict(cfg)
    assert to_plain(dumped) == to_plain(cfg)

    assert main(["copy-cfg", name, str(tmp_path)]) == 0
    copy = tmp_path / f"{name}_copy.py"
    assert capsys.readouterr().out == f"Copy to {copy}\n"
    text = copy.read_text(encoding="utf-8")
    assert re.findall(r"PART \d", text) == [f"PART {n}" for n in range(1, 6)]
    part_1 = text[text.index("PART 1") : text.index("PART 2")]
    assert [s for s in SETTINGS if not re.search(rf"^{s} = ", part_1, re.M)] == []
    assert to_plain(load_config(copy)) == to_plain(cfg)


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_recipe_tells_what_it_does(name):
    method, data = re.fullmatch(r".+?_(full|lora|qlora)_(\w+_e\d)", name).groups()
    cfg = load_config(name)
    assert bool(cfg.model.get("lora")) == (method != "full")
    assert ("quantization_config" in cfg.model["llm"]) == (method == "qlora")
    if not data.startswith("demo"):
        assert cfg.lr == (2e-5 if method == "full" else 2e-4)
    assert data.endswith(f"_e{cfg.max_epochs}")
    assert (cfg.val_dataloader is None) == (data == "alpaca_e3")


def test_a_setting_of_a_recipe_reaches_every_place():
    options = ["max_length=512", "pretrained_model_name_or_path=./m", "val_fraction=0.1"]
    cfg = load_config("qwen3_0_6b_qlora_alpaca_e3", options)
    assert cfg.val_dataloader["dataset"]["max_length"] == 512
    assert cfg.train_dataset["tokenizer"]["pretrained_model_name_or_path"] == "./m"
    assert cfg.model["llm"]["pretrained_model_name_or_path"] == "./m"


def test_list_cfg_prints_the_originals_layout(capsys):
    assert main(["list-cfg", "-p", "QWEN3_0_6B_QLORA"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "==========================CONFIGS===========================",
        "PATTERN: QWEN3_0_6B_QLORA",
        "-------------------------------",
        "qwen3_0_6b_qlora_alpaca_e3",
        "qwen3_0_6b_qlora_custom_dataset_e1",
        "=============================================================",
    ]


def test_copy_cfg_never_overwrites(tmp_path, capsys):
    assert main(["copy-cfg", NAMES[0], str(tmp_path)]) == 0
    (copy,) = tmp_path.iterdir()
    copy.write_text("mine", encoding="utf-8")
    assert main(["copy-cfg", NAMES[0], str(tmp_path)]) == 1
    assert copy.read_text(encoding="utf-8") == "mine"
    assert "exists" in capsys.readouterr().err


def test_check_exits_with_the_verdict(capsys):
    name = "qwen3_0_6b_lora_alpaca_e3"
    assert main(["check", name]) == 0
    assert main(["check", name, "--cfg-options", "max_norm=high", "max_length=x", "--json"]) == 1
    assert '"path": "train_dataset.max_length"' in capsys.readouterr().out
    assert main(["check", "qwen3_0_6b_lora_alpaca_e4"]) == 1
    assert "Did you mean" in capsys.readouterr().err


def test_listing_and_copying_do_not_import_torch(tmp_path):
    import subprocess
    import sys

    code = (
        "import sys; from inlay.cli import main; main(['list-cfg']);"
        f"main(['copy-cfg', {NAMES[0]!r}, {str(tmp_path)!r}]);"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
