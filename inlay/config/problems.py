"""A problem in a config, where it stands in the file, and how it is printed."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from inlay.config import source
from inlay.config.load import Config


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a config.

    Attributes:
        path: place in the config, as ``train_dataset.sources.0.path``.
        expected, got: what the place takes, and what stands there.
        hint: what to do, or an empty string.
        severity: errors stop a run, warnings do not.
        line: line of the file, where it is known.
    """

    path: str
    expected: str
    got: str
    hint: str = ""
    severity: Literal["error", "warning"] = "error"
    line: int | None = None

    def __str__(self) -> str:
        line = f" (line {self.line})" if self.line else ""
        hint = f" {self.hint.strip()}" if self.hint else ""
        return f"{self.path}{line}: expected {self.expected}, got {self.got}.{hint}"


def format_problems(problems: Sequence[Problem]) -> str:
    """Return one line for each problem, errors first, under a line that counts them."""
    errors = [p for p in problems if p.severity == "error"]
    warnings = [p for p in problems if p.severity == "warning"]
    counts = [
        f"{len(found)} {word}{'s' if len(found) != 1 else ''}"
        for found, word in ((errors, "error"), (warnings, "warning"))
        if found
    ]
    rows = [f"  {p.severity:<7}  {p}" for p in (*errors, *warnings)]
    return "\n".join([" and ".join(counts) or "no problems", *rows])


class Locator:
    """Finds the line of a place in a config file by its syntax tree, without executing it."""

    def __init__(self, cfg: Config) -> None:
        self._top: dict[str, ast.expr] = {}
        if cfg.text is not None:
            for name, statements in source.assigned(ast.parse(cfg.text)).items():
                value = getattr(statements[-1], "value", None)
                if value is not None:
                    self._top[name] = value

    def line(self, path: str) -> int | None:
        """Return the line of ``path``, or of the nearest place above it that the file spells out.

        None where the config is a recipe of several files, which has no lines of its own.
        """
        head, *keys = path.split(".")
        node = self._top.get(head)
        line = node.lineno if node else None
        for key in keys:
            found = _child(self._follow(node), key)
            if found is None:
                break
            line, node = found
        return line

    def _follow(self, node: ast.expr | None) -> ast.expr | None:
        for _ in range(len(self._top)):
            if not isinstance(node, ast.Name):
                break
            node = self._top.get(node.id)
        return node


def _child(node: ast.expr | None, key: str) -> tuple[int, ast.expr] | None:
    if isinstance(node, ast.Call):
        for keyword in node.keywords:
            if keyword.arg == key:
                return keyword.lineno, keyword.value
    elif isinstance(node, ast.Dict):
        for name, value in zip(node.keys, node.values, strict=True):
            if isinstance(name, ast.Constant) and str(name.value) == key:
                return name.lineno, value
    elif isinstance(node, ast.List | ast.Tuple) and key.isdigit() and int(key) < len(node.elts):
        item = node.elts[int(key)]
        return item.lineno, item
    return None
