from __future__ import annotations

import pytest

from inlay.config.load import load_config
from inlay.core.errors import ConfigError


def test_a_config_is_a_read_only_mapping_with_attributes(write):
    cfg = load_config(write(("width = 4", "_hidden = 4\nwidth = _hidden")))
    assert cfg["width"] == cfg.width == 4
    assert cfg.name == "toy"
    assert "_hidden" not in cfg and "Net" not in cfg
    with pytest.raises(TypeError):
        cfg["width"] = 5
    with pytest.raises(AttributeError, match="Did you mean 'model'"):
        _ = cfg.modl


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_epochs = 3", "max_epochs = = 3", r"toy.py, line 6: invalid syntax"),
        ("max_epochs = 3", "max_epochs = 1 / 0", r"toy.py, line 6: ZeroDivisionError"),
        ("width=width", "width=widht", r"toy.py, line 14: .*Did you mean 'width'"),
        ("type=Words.load", "type=Words.laod", r"line 13: .*Did you mean 'load'"),
        ("# PART 2", "import no_such_package.x", r"line 12: the package 'no_such_package' is not"),
        (", Words", ", Wordz", r"line 1: cannot import name 'Wordz'"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line(write, old, new, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write((old, new)))


def test_the_line_of_a_mistake_is_the_file_s_own_under_overrides(write):
    path = write(text="items = [\n    1,\n    2,\n]\nwidth = items\nmodel = width / 0\n")
    with pytest.raises(ConfigError, match=r"toy.py, line 6"):
        load_config(path, ["items=3"])


def test_a_setting_with_side_effects_is_replaced_before_it_runs(write):
    path = write(text="import os\nwidth = os.environ['NOT_SET_ANYWHERE']\nmodel = width\n")
    assert load_config(path, ["width=3"]).model == 3
