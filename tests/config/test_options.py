from __future__ import annotations

import pytest

from inlay.config.load import load_config
from inlay.config.options import parse_options, parse_value
from inlay.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("-1", -1),
        ("None", None),
        ("True", True),
        ("false", False),
        ("foo/bar.json", "foo/bar.json"),
        ("'a,b'", "a,b"),
        ("x,y", ["x", "y"]),
        ("0.9,0.95", [0.9, 0.95]),
        ("[1,2]", [1, 2]),
        ("[a,[b,1]]", ["a", ["b", 1]]),
        ("(0.9,0.95)", (0.9, 0.95)),
        ("{'a': 1}", {"a": 1}),
        ("[INST] {input} [/INST]", "[INST] {input} [/INST]"),
        ("don't stop", "don't stop"),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"),
        ("", ""),
    ],
)
def test_values_are_literals_or_strings(text, value):
    assert parse_value(text) == value
    assert type(parse_value(text)) is type(value)


@pytest.mark.parametrize("option", ["lr", "=1", "a..b=1", ".a=1"])
def test_an_option_without_a_name_or_a_value_is_refused(option):
    with pytest.raises(ConfigError, match="takes NAME=value"):
        parse_options([option])


def test_a_setting_reaches_every_place_that_uses_it(write):
    cfg = load_config(write(), ["max_epochs=10", "width=7", "lr=1"])
    assert cfg.train_cfg["max_epochs"] == 10
    assert [s["end"] for s in cfg.param_scheduler] == [1.0, 10]
    assert cfg.model["width"] == cfg.width == 7
    assert cfg.optim_wrapper["optimizer"]["lr"] == 1
    assert "width = 7  # channels" in cfg.source


def test_a_source_with_overrides_stands_for_itself(write):
    places = [
        "param_scheduler.-1.end=2.5",
        "train_dataset.sources.0.weight=2",
        "train_dataloader.num_workers=2",
        "randomness.seed=7",
        "env_cfg.dist_cfg.backend=gloo",
    ]
    cfg = load_config(write(), ["max_epochs=10", "resume=True", "work_dir=out", *places])
    again = load_config(write(text=cfg.source, name="again.py"))
    assert dict(again) == dict(cfg)
    assert again.train_dataloader["num_workers"] == 2
    assert again.env_cfg == {"dist_cfg": {"backend": "gloo"}}
    assert (again.resume, again.work_dir) == (True, "out")


def test_a_path_changes_the_one_object_wherever_it_is_nested(write):
    cfg = load_config(write(), ["train_dataset.max_length=99", "tokenizer.path=other"])
    assert cfg.train_dataloader["dataset"]["max_length"] == 99
    assert cfg.train_dataloader["dataset"]["words"]["path"] == "other"


def test_paths_reach_lists_and_accept_what_the_target_accepts(write):
    options = [
        "custom_hooks.0.every=5",
        "param_scheduler.1.end=2.5",
        "train_dataset.sources.0.weight=2",
        "tokenizer.side=left",
        "train_dataloader.num_workers=2",
        "custom_hooks.0.anything=1",
        "randomness.seed=7",
        "env_cfg.dist_cfg.backend=gloo",
    ]
    cfg = load_config(write(), options)
    assert cfg.custom_hooks[0] == cfg.custom_hooks[0] | {"every": 5, "anything": 1}
    assert cfg.param_scheduler[1]["end"] == 2.5
    assert cfg.train_dataset["sources"][0]["weight"] == 2
    assert cfg.tokenizer["side"] == "left"
    assert cfg.train_dataloader["num_workers"] == 2
    assert cfg.randomness == {"seed": 7}
    assert cfg.env_cfg == {"dist_cfg": {"backend": "gloo"}}


def test_a_library_s_own_dict_is_never_changed(write):
    from toy_parts import TEMPLATE

    cfg = load_config(write(), ["template.SUFFIX=<x>"])
    assert cfg.train_dataset["template"]["SUFFIX"] == "<x>"
    assert cfg.custom_hooks[1]["prompt_template"]["SUFFIX"] == "<x>"
    assert TEMPLATE["SUFFIX"] == "<e>"


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("max_epoch=1", "no setting 'max_epoch'. Did you mean 'max_epochs'"),
        ("model.widht=1", "'model' has no 'widht'. Did you mean 'width'"),
        ("modle.width=1", "the config has no 'modle'. Did you mean 'model'"),
        ("model.adaptor.r=1", "'model' has no 'adaptor'. Did you mean 'adapter'"),
        ("train_dataloader.num_worker=1", "Did you mean 'num_workers'"),
        ("custom_hooks.2.every=1", "'custom_hooks' has 2 entries.* from 0 to 1"),
        ("model.width.x=1", "'model.width' is 4, not a dict or a list"),
    ],
)
def test_a_path_that_leads_nowhere_names_the_nearest_one(write, option, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(), [option])


def test_a_setting_that_nothing_reads_is_not_silently_overridden(write):
    path = write(("lr=lr", "lr=1e-3"))
    with pytest.raises(ConfigError, match=r"nothing in .* reads 'lr'.*optim_wrapper.optimizer.lr"):
        load_config(path, ["lr=1"])
