from __future__ import annotations

import re

import pytest
import torch

from inlay.cli import main
from inlay.config.check import check_config
from inlay.config.dump import dump_resolved, to_plain
from inlay.config.load import load_config
from inlay.config.source import recipes

NAMES = list(recipes())
FOLDERS = {name: path.parent.name for name, path in recipes().items()}


def words(text: str) -> list[str]:
    return text.split()


# PART 1 by the names that XTuner (its text and LLaVA configs), nanoVLM and F-LMM give to settings
RUN = words("""
    data_path prompt_template max_length pack_to_max_length batch_size accumulative_counts
    dataloader_num_workers max_epochs optim_type lr betas weight_decay max_norm warmup_ratio
    save_steps save_total_limit evaluation_freq SYSTEM evaluation_inputs""")
TEXT = ["pretrained_model_name_or_path", *RUN]
VLM = [*TEXT, "min_pixels", "max_pixels", "freeze", "image_folder", "evaluation_images"]
BACKBONES = ["llm_name_or_path", "visual_encoder_name_or_path", "pretrained_pth"]
LLAVA = [*BACKBONES, "data_root", "image_folder", "evaluation_images", *RUN]
NANOVLM = words("""
    vit_model_type lm_model_type lm_tokenizer lm_max_length lm_chat_template mp_pixel_shuffle_factor
    max_img_size resize_to_max_side_len vlm_checkpoint_path hf_repo_name lr_mp lr_vision_backbone
    lr_language_backbone val_size batch_size gradient_accumulation_steps max_grad_norm
    eval_in_epochs eval_interval stats_log_interval max_training_steps max_images_per_example
    max_images_per_knapsack max_sample_length compile resume_from_vlm_checkpoint train_dataset_path
    train_dataset_name stream_dataset relevance_min_rating image_correspondence_min_rating
    visual_dependency_min_rating formatting_min_rating""")
GROUNDING = words("""
    batch_size accumulative_counts dataloader_num_workers max_epochs optim_type lr betas
    weight_decay max_norm warmup_ratio save_steps save_total_limit prompt_template prompt""")
KINDS = {
    "text": TEXT,
    "vlm": VLM,
    "llava": LLAVA,
    "scenes": LLAVA,
    "nanovlm": NANOVLM,
    "grounding": GROUNDING,
}
USERS_OWN = {"data_path", "data_root", "image_folder", "pretrained_pth", "checkpoint"}
USERS_OWN |= {"instances", "refs", "json_file", "panoptic_json_file"}


def group(name: str) -> str:
    """What kind of recipe it is: a name in ``KINDS``."""
    folder = FOLDERS[name]
    if folder == "demo":
        if name.startswith("tiny_vlm_grounding"):
            return "grounding"
        return "scenes" if name.startswith("tiny_vlm") else "text"
    return {"qwen_vl": "vlm", "smolvlm": "vlm"}.get(folder, folder if folder in KINDS else "text")


LLAVA_NAMES = [n for n in NAMES if group(n) == "llava"]
VLM_NAMES = [n for n in NAMES if group(n) == "vlm"]
NANOVLM_NAMES = [n for n in NAMES if group(n) == "nanovlm"]


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_loads_checks_and_survives_its_dump_and_its_copy(name, tmp_path, capsys):
    cfg = load_config(name)
    problems = check_config(cfg)
    assert [str(p) for p in problems if p.severity == "error"] == []
    missing = {p.path.rpartition(".")[2] for p in problems}
    assert missing <= USERS_OWN, "only the user's own files may be missing"
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
    settings = re.findall(r"^(\w+) = ", part_1, re.M)
    assert set(KINDS[group(name)]) <= set(settings)
    assert len(settings) == len(set(settings))
    rest = text[text.index("PART 2") :]
    unused = {
        s for s in settings if not re.search(rf"\b{s}\b", part_1.replace(f"{s} = ", "") + rest)
    }
    assert not unused, "every setting has an effect"
    assert to_plain(load_config(copy)) == to_plain(cfg)


@pytest.mark.parametrize("name", [n for n in NAMES if group(n) in ("text", "vlm")])
def test_the_name_of_a_recipe_tells_what_it_does(name):
    method, data = re.fullmatch(r".+?_(full|lora|qlora)_(\w+_e\d)", name).groups()
    cfg = load_config(name)
    llm = cfg.model["vlm" if group(name) == "vlm" else "llm"]
    assert bool(cfg.model.get("lora")) == (method != "full")
    assert ("quantization_config" in llm) == (method == "qlora")
    assert llm["dtype"] == (torch.float32 if method == "full" else torch.bfloat16)
    if not data.startswith("demo"):
        full = 1e-5 if group(name) == "vlm" else 2e-5
        assert cfg.lr == (full if method == "full" else 2e-4)
    assert data.endswith(f"_e{cfg.max_epochs}")
    assert (cfg.val_dataloader is None) == (data == "alpaca_e3")


@pytest.mark.parametrize("name", VLM_NAMES)
def test_adapters_go_on_the_language_model_and_full_training_spares_the_eyes(name):
    frozen = ("vision",) if "_full_" in name else ("vision", "projector")
    assert load_config(name).model["freeze"] == frozen


@pytest.mark.parametrize("name", LLAVA_NAMES)
def test_the_name_of_a_llava_recipe_tells_what_is_trained(name):
    cfg = load_config(name)
    model = cfg.model
    is_qlora, is_lora = "_qlora_" in name, name.endswith("finetune_lora")
    is_pretrain, is_full = "pretrain" in name, not re.search("lora|pretrain", name)
    assert model["freeze_visual_encoder"] and model["freeze_llm"] == (not is_full)
    assert ("quantization_config" in model["llm"]) == is_qlora
    assert model["llm"]["dtype"] == (torch.float32 if is_full else torch.bfloat16)
    ranks = {k: (model[k]["r"], model[k]["lora_alpha"]) for k in model if k.endswith("_lora")}
    expected = {"llm_lora": (512, 256), "visual_encoder_lora": (64, 16)} if is_qlora else {}
    assert ranks == (expected or ({"llm_lora": (128, 256)} if is_lora else {}))
    assert cfg.lr == (1e-3 if is_pretrain else 2e-5 if is_full else 2e-4)
    assert cfg.optim_wrapper.get("lr_groups") == ({"projector": 2e-5} if is_lora else None)
    assert cfg.image_processor["pad_to_square"] == (not is_pretrain)
    assert (cfg.max_length, cfg.warmup_ratio) == (2048, 0.03)
    devices = 1 if "_gpu1_" in name else 8
    batch = cfg.batch_size * cfg.accumulative_counts * devices
    assert batch == (256 if is_pretrain else 128), "of the paper, whatever the number of devices"


@pytest.mark.parametrize("name", LLAVA_NAMES)
def test_a_finetune_begins_where_its_pretrain_ends(name):
    cfg = load_config(name)
    if "pretrain" in name:
        assert cfg.pretrained_pth is None
        return
    start = cfg.pretrained_pth.removeprefix("./work_dirs/")
    assert cfg.pretrained_pth.startswith("./work_dirs/") and "pretrain" in start
    before = load_config(start)
    for setting in ("llm_name_or_path", "visual_encoder_name_or_path", "prompt_template"):
        assert before[setting] == cfg[setting]


@pytest.mark.parametrize("name", NANOVLM_NAMES)
def test_nanovlm_parts_learn_at_their_rates(name):
    cfg = load_config(name)
    published = {"nanovlm_222m": (2e-3, 1e-4, 1e-4), "nanovlm_450m": (5.12e-3, 5e-5, 5e-5)}
    rates = dict(zip(("projector", "visual_encoder", "llm"), published[name], strict=True))
    assert cfg.optim_wrapper["lr_groups"] == rates
    frozen = load_config(name, ["lr_language_backbone=-1", "lr_vision_backbone=0"])
    assert frozen.optim_wrapper["lr_groups"]["llm"] == -1
    assert not [p for p in check_config(frozen) if p.severity == "error"]


def test_nanovlm_settings_reach_their_places():
    cfg = load_config("nanovlm_450m")
    assert cfg.train_cfg["max_iters"] == 40_000 * 8 and cfg.train_cfg["val_interval"] == 500 * 8
    data = cfg.train_dataset
    assert (data["max_tiles"], data["max_images"], data["max_length"]) == (63, 4, 4096)
    assert set(data["min_ratings"].values()) == {1} and len(data["min_ratings"]) == 4
    assert data["type"].__name__ == "StreamDataset" and "num_proc" not in data
    assert cfg.val_dataloader["dataset"]["max_items"] == 64 * 2
    assert "work_dir" in cfg and cfg.work_dir is None
    hooks = [hook["type"].__name__ for hook in cfg.custom_hooks]
    assert "PushToHubHook" not in hooks

    options = ["push_to_hub=True", "hf_repo_name=me/mine", "stream_dataset=False"]
    options += ["vlm_checkpoint_path=runs/a", "resume_from_vlm_checkpoint=./start", "val_size=0"]
    options += ["lm_model_type=org/lm", "compile=True", "normalise_pixels=False"]
    cfg = load_config("nanovlm_450m", options)
    assert cfg.custom_hooks[-1]["repo_id"] == "me/mine" and cfg.work_dir == "runs/a"
    assert cfg.train_dataset["type"].__name__ == "ChatDataset"
    assert cfg.train_dataset["num_proc"] == 3 and cfg.val_dataloader is None
    assert cfg.model["pretrained_pth"] == "./start" and cfg.env_cfg["compile"] is True
    assert cfg.tokenizer["pretrained_model_name_or_path"] == "org/lm"
    assert cfg.image_processor["image_mean"] is None is cfg.image_processor["image_std"]


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
        "llava_qwen3_0_6b_qlora_siglip2_base_p16_384_lora_e1_gpu1_finetune",
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
