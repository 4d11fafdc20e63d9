from __future__ import annotations

import json
from pathlib import PurePosixPath

import pytest

from inlay.config.check import check_config
from inlay.config.dump import dump_resolved, to_plain
from inlay.config.load import load_config
from inlay.core.errors import ConfigError

VALUES = """
import torch
from math import inf
from pathlib import PurePosixPath
from collections import OrderedDict as Net2
from toy_parts import Mode, Net, Words
a = dict(type=Words.load, dtype=torch.bfloat16, mode=Mode.FAST, net=Net)
b = [1.5, -inf, 2e-5, True, None, "it's", b"x", (1,), (), {}, {1: 2}, {"not a name": 3}]
c = {"class": 1, "nested": [dict(a=a, path=PurePosixPath("x/y"))]}
Words_ = Words
long = ["a text that is quite long" * 2, "another text that is quite long" * 2, dict(x=[1, 2])]
"""


def test_values_of_every_kind_reload_equal(write):
    cfg = load_config(write(text=VALUES))
    text = dump_resolved(cfg)
    again = load_config(write(text=text, name="dumped.py"))
    assert dict(again) == dict(cfg)
    assert again.c["nested"][0]["a"] is again.a, "what was one object stays one object"
    assert type(again.b[7]) is tuple and type(again.c["nested"][0]["path"]) is PurePosixPath
    assert max(map(len, text.splitlines())) <= 100


def test_a_config_value_may_have_the_name_of_a_class(write):
    cfg = load_config(write(text="from toy_parts import Net as N\nNet = 3\nmodel = dict(type=N)\n"))
    again = load_config(write(text=dump_resolved(cfg), name="dumped.py"))
    assert dict(again) == dict(cfg)


def test_overrides_of_places_are_kept_and_the_dump_checks_clean(write):
    cfg = load_config(write(), ["train_dataset.max_length=99", "lr=0.5"])
    again = load_config(write(text=dump_resolved(cfg), name="dumped.py"))
    assert to_plain(again) == to_plain(cfg)
    assert again.train_dataloader["dataset"] is again.train_dataset
    assert again.train_dataset["words"] is again.tokenizer
    assert check_config(again) == []
    with pytest.raises(ConfigError, match=r"Set the place itself: optim_wrapper.optimizer.lr"):
        load_config(again.path, ["lr=1"])


@pytest.mark.parametrize("value", ["lambda x: x", "object()", "open", "f"])
def test_a_value_without_source_is_refused_by_its_path(write, value):
    text = f"def f():\n    pass\nmodel = dict(type=dict, inner=[1, {value}])\n"
    cfg = load_config(write(text=text))
    if value == "open":
        assert "inner=[1, open]" in dump_resolved(cfg)
        return
    for write_out in (dump_resolved, to_plain):
        with pytest.raises(ConfigError, match=r"^model.inner.1: .* cannot be written"):
            write_out(cfg)


def test_plain_values_are_json(write):
    plain = to_plain(load_config(write(("width = 4", "import torch\nwidth = torch.bfloat16"))))
    assert json.loads(json.dumps(plain)) == plain
    assert plain["model"]["type"] == "toy_parts.Net"
    assert plain["model"]["width"] == "torch.bfloat16"
    assert plain["tokenizer"]["type"] == "toy_parts.Words.load"
