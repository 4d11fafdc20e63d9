from __future__ import annotations

import pytest

from inlay.config.check import check_config, format_problems
from inlay.config.load import load_config

QUANTISED = (
    "type='toy_parts.Seeing', "
    "llm=dict(type=Net, width=width, hint=0, quantization_config=dict(load_in_4bit=True))"
)


def problems(write, *changes, options=(), files="warn"):
    found = check_config(load_config(write(*changes), options), files)
    return {p.path: p for p in found}


def test_a_sound_config_has_no_problems(write):
    assert problems(write) == {}
    assert format_problems([]) == "no problems"


def test_all_problems_are_reported_at_once_with_path_line_and_nearest_name(write):
    found = problems(
        write,
        ("width=width", 'widht=width, hint="anything"'),
        ("r=4", 'r="4", bias="some"'),
        ("max_length=8", "max_len=8"),
        ("words=tokenizer", 'words=dict(type="toy_parts.Wrods")'),
        ("batch_size=batch_size,", "batchsize=batch_size,"),
        ("type=Hook", "type=Hook, evry=1"),
        ("every=10", "every=True"),
        ('["hi"]', '"hi"'),
        ("train_cfg = ", "randomness = 3\ncustom_hook = []\nspare = 1\ntrain_cfg = "),
    )
    errors = {path for path, p in found.items() if p.severity == "error"}
    assert errors == {
        "model.width",
        "model.widht",
        "model.adapter.r",
        "model.adapter.bias",
        "train_dataset.max_len",
        "train_dataset.words.type",
        "train_dataloader.batchsize",
        "custom_hooks.0.evry",
        "custom_hooks.0.every",
        "custom_hooks.1.evaluation_inputs",
        "randomness",
        "custom_hook",
    }
    assert (found["model.widht"].line, found["model.adapter.r"].expected) == (14, "int")
    assert "'width'" in found["model.widht"].hint
    assert found["model.adapter.r"].got == "'4' (str)"
    assert found["model.adapter.bias"].expected == "'none' | 'all'"
    assert found["train_dataset.max_len"].line == 21
    assert "'Words'" in found["train_dataset.words.type"].got
    assert "'custom_hooks'" in found["custom_hook"].hint
    assert found["spare"].severity == "warning"
    text = format_problems(list(found.values()))
    assert text.startswith("12 errors and 1 warning\n  error    ")
    assert "  error    model.widht (line 14): expected an argument of Net, got an unknown name. Did"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("mode=Mode.FAST", None),
        ("mode='FAST'", "Mode.FAST | Mode.SLOW | None"),
        ("scale=1", None),
        ("scale=True", "float"),
        ("sources=()", None),
        ("sources='rows.json'", "Sequence[Source]"),
        ("sources=[dict(path=3)]", "str"),
        ("sources=[dict(paht='x')]", "an argument of Source"),
        ("map_fn=len", None),
        ("map_fn='len'", "function | None"),
        ("words=None", "Words"),
        ("words=dict(type=Rows, words=tokenizer)", "Words"),
        ("template=None", None),
    ],
)
def test_values_are_held_against_type_hints(write, value, expected):
    key = value.partition("=")[0]
    text = "from toy_parts import Mode, Rows, Words\ntokenizer = dict(type=Words, path='x')\n"
    arguments = value if key == "words" else f"words=tokenizer, {value}"
    path = write(text=f"{text}train_dataset = dict(type=Rows, {arguments})\n")
    found = [p for p in check_config(load_config(path)) if p.path.startswith("train_dataset.")]
    assert [p.expected for p in found] == ([expected] if expected else [])


def test_missing_top_level_names_are_errors(write):
    found = check_config(load_config(write(text="lr = 1\n")))
    assert {p.path for p in found if p.severity == "error"} == {
        "model",
        "train_dataloader",
        "optim_wrapper",
        "train_cfg",
    }


def test_an_overridden_type_is_checked_as_the_class_it_names(write):
    assert problems(write, options=["optim_type=toy_parts.Momentum"]) == {}
    assert problems(write, options=["optim_wrapper.optimizer.type=torch.optim.SGD"]) == {}
    found = problems(
        write, ("lr=lr", "lr=lr, betas=(0.9, 0.99)"), options=["optim_type=torch.optim.SGD"]
    )
    assert list(found) == ["optim_wrapper.optimizer.betas"]


def test_targets_with_kwargs_are_checked_against_known_keys(write):
    text = """
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path="a/b",
                 padding_side="middle", padding_sid="left")
model = dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path="a/b",
             dtype=torch.bfloat16, attn_implementation="sdpa", trust_remote_cod=True,
             quantization_config=dict(type=BitsAndBytesConfig, load_in_4bits=True))
"""
    found = check_config(load_config(write(text=text)))
    hints = {p.path: p.hint for p in found if p.got == "an unknown name"}
    assert "'padding_side'" in hints["tokenizer.padding_sid"]
    assert "'trust_remote_code'" in hints["model.trust_remote_cod"]
    assert "'load_in_4bit'" in hints["model.quantization_config.load_in_4bits"]
    assert "tokenizer.padding_side" in {p.path for p in found}
    assert len(hints) == 3


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ([("warmup_ratio = 0.1", "warmup_ratio = 1.5")], "param_scheduler.0.end"),
        ([("batch_size = 2", "batch_size = 0")], "train_dataloader.batch_size"),
        (
            [("type=Optim,", "type=Optim, accumulative_counts=0,")],
            "optim_wrapper.accumulative_counts",
        ),
        ([("template = TEMPLATE", "template = dict(TEMPLATE, SUFFIX='')")], "template.SUFFIX"),
        ([("template = TEMPLATE", "template = dict(TEMPLATE, SEPP='')")], "template.SEPP"),
        ([("type=Loop,", "type=Loop, max_iters=5,")], "train_cfg"),
        (
            [("# PART 4", "val_dataloader = dict(dataset=dict(train_dataset, part='val'))")],
            "val_dataloader.dataset.val_fraction",
        ),
        (
            [
                ("# PART 4", "val_dataloader = dict(dataset=dict(train_dataset, part='val'))"),
                ("max_length=8,", "max_length=8, val_fraction=0.1,"),
                ("part='val'", "part='val', val_fraction=0.2"),
            ],
            "val_dataloader.dataset",
        ),
        (
            [
                ("# PART 4", "val_dataloader = dict(dataset=dict(train_dataset, part='val'))"),
                ("max_length=8,", "max_length=8, val_size=5,"),
                ("part='val'", "part='val', val_size=6"),
            ],
            "val_dataloader.dataset",
        ),
        (
            [
                ("# PART 4", "val_dataloader = dict(dataset=dict(train_dataset, part='val'))"),
                ("part='val'", "part='val', val_size=6"),
            ],
            "val_dataloader.dataset",
        ),
        (
            [("max_length=8,", "max_length=16, image_processor=dict(type='toy_parts.Tiles'),")],
            "train_dataloader.dataset.max_length",
        ),
        (
            [("type=Net, width=width, adapter=dict(type=Adapter, r=4)", QUANTISED)],
            "model.llm_lora",
        ),
        ([("# PART 5", "run_name = 'toy_{widht}_{date}'")], "run_name"),
        ([("# PART 5", "run_name = 'toy_{width'")], "run_name"),
    ],
)
def test_fields_that_contradict_each_other_are_errors(write, changes, path):
    found = problems(write, *changes)
    assert found[path].severity == "error"


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ([("prompt_template=template", "prompt_template=None")], "custom_hooks.1.prompt_template"),
        ([("max_length=8,", "max_length=8, val_fraction=0.1,")], "val_dataloader"),
        (
            [
                (
                    "# PART 5",
                    "default_hooks = dict(checkpoint=dict(type=Hook, by_epoch=True, interval=4))",
                )
            ],
            "default_hooks.checkpoint.interval",
        ),
    ],
)
def test_fields_that_look_like_a_slip_are_warnings(write, changes, path):
    found = problems(write, *changes)
    assert {p: f.severity for p, f in found.items()} == {path: "warning"}


def test_no_warm_up_is_allowed(write):
    assert problems(write, options=["warmup_ratio=0"]) == {}


def test_missing_local_files_are_warnings_in_check_and_errors_in_train(write, tmp_path):
    change = ('"org/rows"', '"rows.json"')
    (found,) = problems(write, change).values()
    assert (found.path, found.severity) == ("train_dataset.sources.0.path", "warning")
    assert problems(write, change, files="error")[found.path].severity == "error"
    rows = tmp_path / "rows.json"
    rows.write_text("[]")
    assert problems(write, ('"org/rows"', repr(str(rows)))) == {}


def test_one_split_by_number_on_both_sides_is_sound(write):
    both = [
        ("# PART 4", "val_dataloader = dict(dataset=dict(train_dataset, part='val'))"),
        (
            "max_length=8,",
            "max_length=17, val_size=5, image_processor=dict(type='toy_parts.Tiles'),",
        ),
    ]
    assert problems(write, *both) == {}


@pytest.mark.parametrize("saved", ["", ", freeze_llm=True", ", llm_lora=dict(type=Adapter)"])
def test_quantised_parts_may_be_frozen_or_carry_adapters(write, saved):
    change = ("type=Net, width=width, adapter=dict(type=Adapter, r=4)", QUANTISED + saved)
    found = problems(write, change, ("optim_type = Adam", "optim_type = Adam\nr = Adapter"))
    errors = {p for p, f in found.items() if f.severity == "error" and p.startswith("model.llm_")}
    assert errors == (set() if saved else {"model.llm_lora"})


def test_a_setting_in_the_runs_name_is_used_and_its_nearest_name_is_told(write):
    change = ("# PART 5", "spare = 1\nrun_name = '{spare}_{num_gpus}_{lr:.0e}'")
    assert problems(write, change) == {}
    found = problems(write, ("# PART 5", "run_name = '{widht}'"))
    assert "Did you mean 'width'?" in str(found["run_name"])


def test_the_word_false_is_no_bool(write):
    """Fault 12: any text is true."""
    change = ("# PART 5", "env_cfg = dict(compile='False')\nresume = 'False'")
    found = problems(write, change)
    assert {p: (f.expected, f.severity) for p, f in found.items()} == {
        "env_cfg.compile": ("bool", "error"),
        "resume": ("bool | str", "error"),
    }
    assert problems(write, options=["env_cfg.compile=False", "resume=auto"]) == {}
    assert load_config(write(), ["env_cfg.compile=false"])["env_cfg"] == {"compile": False}


def test_an_earlier_stage_that_is_missing_is_found_before_the_run(write, tmp_path):
    change = (
        "type=Net, width=width, adapter=dict(type=Adapter, r=4)",
        "type='toy_parts.Seeing', pretrained_pth=stage, llm=width",
    )
    stage = ("optim_type = Adam", "optim_type = Adam; stage = 'work_dirs/pretrain/iter_9.pth'")
    found = problems(write, change, stage, files="error")
    assert found["model.pretrained_pth"].severity == "error"
    saved = tmp_path / "iter_9"
    saved.mkdir()
    for there in (saved, f"{saved}.pth"):
        stage = ("optim_type = Adam", f"optim_type = Adam; stage = {str(there)!r}")
        assert "model.pretrained_pth" not in problems(write, change, stage, files="error")
