"""The house's floors: imports run downward only, and what is imported is declared."""

from __future__ import annotations

import ast
import itertools
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "inlay"

BASE = {"core"}
MACHINES = {"data", "models", "engine"}
TRADES = {"recipes", "evaluation", "convert", "chat"}
BELOW = {
    "core": set(),
    "config": BASE,
    **dict.fromkeys(MACHINES, BASE),
    **dict.fromkeys(TRADES, BASE | MACHINES),
    "app": BASE | MACHINES | TRADES | {"config"},
    "cli": BASE | MACHINES | TRADES | {"config", "app"},
}
"""What a floor may import beside itself."""

IMPORTED_AS = {"pillow": "PIL"}
"""Packages whose modules are not called as they are."""

Import = tuple[str, int, str]  # file, line, dotted name of the imported module


def imports(source: str, file: str) -> Iterator[Import]:
    """Yield every import of a file, those inside functions and ``TYPE_CHECKING`` blocks too.

    Args:
        file: path relative to the repository, against which relative imports are resolved.
    """
    package = Path(file).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((file, node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            # `from inlay import data` imports inlay.data
            yield from ((file, node.lineno, f"{module}.{alias.name}") for alias in node.names)


def all_imports() -> list[Import]:
    files = sorted(PACKAGE.rglob("*.py"))
    return [i for f in files for i in imports(f.read_text("utf-8"), str(f.relative_to(ROOT)))]


def offences(found: list[Import]) -> list[str]:
    """Return the imports that do not run downward, one readable line each."""
    lines = []
    for file, line, name in found:
        parts, source = name.split("."), Path(file).parts
        if parts[0] != "inlay" or len(source) < 3:  # inlay/__main__.py stands above the floors
            continue
        floor, target = source[1], parts[1]
        if target in BELOW and target not in BELOW[floor] | {floor}:
            lines.append(f"{file}:{line}: {floor} must not import {name}")
    return lines


def test_imports_run_downward() -> None:
    assert offences(all_imports()) == []


def test_every_folder_has_a_floor() -> None:
    folders = {f.parent.name for f in PACKAGE.glob("*/__init__.py")}
    assert folders <= BELOW.keys(), "add the new folder to BELOW, with what it may import"


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("inlay/data/pack.py", "import inlay.engine.loop"),
        ("inlay/models/lm.py", "from inlay.data.chat import ChatEncoder"),
        ("inlay/engine/hooks/chat.py", "def f():\n    from inlay.data import chat"),
        ("inlay/engine/hooks/chat.py", "from ...models import sft"),
        ("inlay/core/io.py", "from inlay import config"),
        ("inlay/chat/session.py", "from inlay.config.load import load_config"),
        ("inlay/convert/merge.py", "from ..chat.session import ChatSession"),
        ("inlay/app/train.py", "import inlay.cli"),
        ("inlay/config/build.py", "if TYPE_CHECKING:\n    from inlay.engine import Hook"),
    ],
)
def test_an_upward_import_is_seen(file: str, source: str) -> None:
    assert len(offences(list(imports(source, file)))) == 1


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("inlay/app/train.py", "from inlay.config import load_config"),
        ("inlay/cli/train.py", "from inlay import __version__"),
        ("inlay/engine/hooks/chat.py", "from ..schedule import LinearLR"),
        ("inlay/data/pack.py", "from inlay.core.types import Sample\nimport numpy.data"),
    ],
)
def test_a_downward_import_passes(file: str, source: str) -> None:
    assert offences(list(imports(source, file))) == []


def test_imported_packages_are_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    declared = [*project["dependencies"], *itertools.chain.from_iterable(extras)]
    names = {re.match(r"[\w.-]+", d)[0].lower().replace("-", "_") for d in declared} | {"inlay"}
    names |= {module for package, module in IMPORTED_AS.items() if package in names}
    foreign = {
        f"{file}:{line}: {name}"
        for file, line, name in all_imports()
        if name.split(".")[0] not in names | sys.stdlib_module_names
    }
    assert foreign == set()
