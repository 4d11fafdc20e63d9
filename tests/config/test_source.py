from __future__ import annotations

import ast

import pytest

from inlay.config.source import find_config, flatten, override, read, recipes, rewrite
from inlay.core.errors import ConfigError

BASE_1 = '''\
"""Settings."""

from toy_parts import Adam, Momentum

#######################################################################
#                          PART 1  Settings                           #
#######################################################################
# Data
lr = 1e-3  # peak
names = ["a"]
optim_type = Adam
'''
BASE_2 = """\
from toy_parts import Net

lr = 2e-3

###
# PART 2  Model & Tokenizer
###
model = dict(type=Net, width=names)
"""
RECIPE = '''\
"""A recipe."""

from toy_parts import Momentum

_base_ = ["_base/one.py", "_base/two.py"]

names = [
    "b",
    "c",
]
optim_type = Momentum
'''


@pytest.fixture
def recipe(write):
    write(text=BASE_1, name="_base/one.py")
    write(text=BASE_2, name="_base/two.py")
    return lambda text=RECIPE: write(text=text, name="recipe.py")


def test_a_recipe_becomes_one_file_in_five_parts(recipe):
    text = flatten(recipe())
    assert [line for line in text.splitlines() if "PART" in line] == [
        "#                          PART 1  Settings                           #",
        "#                      PART 2  Model & Tokenizer                      #",
        "#                    PART 3  Dataset & Dataloader                     #",
        "#                    PART 4  Scheduler & Optimizer                    #",
        "#                           PART 5  Runtime                           #",
    ]
    assert text.startswith('"""A recipe."""\n\nfrom toy_parts import Momentum, Net\n\n###')
    assert 'lr = 2e-3  # peak\nnames = [\n    "b",\n    "c",\n]\noptim_type = Momentum\n' in text
    assert "_base_" not in text


def test_a_flattened_file_goes_through_unchanged(recipe, write):
    text = flatten(recipe())
    assert flatten(write(text=text, name="flat.py")) == text


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("optim_type", "optim_typ", r"line 11: no base .* 'optim_typ'.* 'optim_type'"),
        ("two.py", "tow.py", r"line 5: no base file .*tow.py'. Did you mean 'two.py'"),
        ('["_base/one.py", "_base/two.py"]', "1 + 2", r"line 5: _base_ must be a list of paths"),
        ("_base/two.py", "recipe.py", "leads back to the file itself"),
        ("optim_type = Momentum", "if lr:\n    lr = 1", "line 11: .*imports and plain assignments"),
        ("names = [", "names = [)", "line 7"),
    ],
)
def test_a_broken_recipe_is_one_clear_error(recipe, old, new, message):
    with pytest.raises(ConfigError, match=message):
        flatten(recipe(RECIPE.replace(old, new)))


@pytest.mark.parametrize(
    ("text", "new"),
    [
        ("a = 1  # why\n", "a = 9  # why\n"),
        ("a: int = 1\n", "a: int = 9\n"),
        ("a = (\n    'x'\n    'y'\n)\nb = a\n", "a = (\n    9\n)\nb = a\n"),
        ("if x:\n    a = 1\nelse:\n    a = 2\n", "if x:\n    a = 9\nelse:\n    a = 9\n"),
        ("a = 4\na *= 2\n", "a = 9\na = 9\n"),
        ("a, b = 1, 2\nc = a\n", "a, b = 1, 2; a = 9\nc = a\n"),
        ("b = a = 1; c = a\n", "b = a = 1; a = 9; c = a\n"),
        ("é = 'ü'; a = 'ö'  # ä\n", "é = 'ü'; a = 9  # ä\n"),
        ("def f():\n    a = 1\na = f\n", "def f():\n    a = 1\na = 9\n"),
    ],
)
def test_every_assignment_of_a_name_is_rewritten_alike_in_text_and_tree(text, new):
    assert rewrite(text, {"a": "9"}) == new
    tree = override(ast.parse(text), {"a": "9"})
    assert ast.dump(tree) == ast.dump(ast.parse(new))


def test_the_tree_keeps_the_line_numbers_that_the_text_loses():
    tree = override(ast.parse("a = [\n    1,\n]\nb = a\n"), {"a": "9"})
    assert [node.lineno for node in tree.body] == [1, 4]


def test_recipes_are_found_by_name():
    name, path = next(iter(recipes().items()))
    assert find_config(name) == path
    assert find_config(path) == path
    with pytest.raises(ConfigError, match=f"no config file or recipe.* Did you mean '{name}'"):
        find_config(f"{name}x")
    assert all(read(p).count("\n") < 40 for p in recipes().values()), "a recipe is a short file"
