"""The pages for switchers name what exists, and say the same in both languages."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

from inlay import cli

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("switching.md", "switching.zh.md")


def spans(page: str) -> list[str]:
    """Everything that a page writes as code in its tables and texts, not in its blocks."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def test_both_languages_name_the_same() -> None:
    english, chinese = (sorted(set(spans(page))) for page in PAGES)
    assert english == chinese


def test_commands_exist() -> None:
    used = [span.split()[1] for span in spans(PAGES[0]) if span.startswith("inlay ")]
    known = {name for command in cli._load_all() for name in cli._names(command)}
    assert len(used) > 15 and set(used) - {"COMMAND", "help"} <= known


@pytest.mark.parametrize("package", ["data", "models", "engine", "engine.hooks"])
def test_names_of_ours_exist(package: str) -> None:
    module = import_module(f"inlay.{package}")
    named = [
        re.match(r"[A-Za-z]+", span.removeprefix(f"inlay.{package}."))
        for span in spans(PAGES[0])
        if span.startswith(f"inlay.{package}.") and span != f"inlay.{package}.hooks"
    ]
    for name in (match.group() for match in named if match):
        assert hasattr(module, name), f"inlay.{package}.{name}"


def test_options_of_training_exist(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    known = capsys.readouterr().out
    row = next(s for s in spans(PAGES[0]) if s.startswith("--work-dir --deepspeed"))
    for option in (*row.split(), "--gpus", "--strategy", "--dry-run", "--allow-change"):
        if option != "--local_rank":  # taken, as launchers pass it, and not in the help
            assert option in known, option
