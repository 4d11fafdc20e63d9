"""Check a whole config before anything is loaded: all problems at once."""

from __future__ import annotations

import ast
import dataclasses
import difflib
from collections.abc import Iterator
from typing import Any, Literal

from inlay.config import rules, run_name, source
from inlay.config.files import missing_files
from inlay.config.hints import (
    Parameters,
    closed_set,
    describe,
    item_hint,
    matches,
    members,
    node_matches,
    parameters,
)
from inlay.config.load import RUNTIME_NAMES, Config
from inlay.config.problems import Locator, Problem, format_problems
from inlay.config.registry import resolve
from inlay.config.schema import Node, Run
from inlay.core.errors import ConfigError, did_you_mean

__all__ = ["Problem", "check_config", "format_problems"]

INJECTED: dict[str, frozenset[str]] = {
    "optimizer": frozenset({"params"}),
    "strategy": frozenset({"device", "precision", "loss_scale", "timeout"}),
    "EvaluateChatHook": frozenset({"respond"}),
    "EvaluationJobsHook": frozenset({"open_jobs"}),
    "GroundingOverlayHook": frozenset({"draw"}),
    "PushToHubHook": frozenset({"export"}),
    "HFCheckpointHook": frozenset({"export"}),
}
"""What a run hands in when it builds a node, by the node's key or by the name of its target."""
_TYPO = 0.85  # similarity from which an unknown name is taken for a misspelt one


def check_config(cfg: Config, files: Literal["warn", "error"] = "warn") -> list[Problem]:
    """Return everything that is wrong with a config. No weights and no data are loaded.

    Every node is checked against the signature and type hints of its target, every closed set
    against its dataclass; then the fields against one another, and local files for being there.

    Args:
        files: whether a missing local file is a warning (before a run is due) or an error.
    """
    walk = _Walk(cfg)
    walk.closed(Run, {k: v for k, v in cfg.items() if k in RUNTIME_NAMES}, "")
    for name, value in cfg.items():
        if name not in RUNTIME_NAMES:
            walk.value(value, Any, name)
    refused = [Problem(r.path, r.expected, r.got, r.hint) for r in cfg.refused]
    problems = [*refused, *walk.problems, *_unread(cfg), *rules.cross_checks(cfg)]
    problems += missing_files(cfg, files)
    locate = Locator(cfg).line
    return [dataclasses.replace(p, line=locate(p.path)) for p in problems]


class _Walk:
    """Collects the problems of nodes and closed sets; a shared dict is looked at once."""

    def __init__(self, cfg: Config) -> None:
        self.problems: list[Problem] = []
        self._seen: set[int] = set()
        self._names = {id(v): k for k, v in cfg.items() if isinstance(v, dict)}

    def value(self, value: Any, hint: Any, path: str) -> None:
        """Check a value and everything inside it."""
        if isinstance(value, dict) and "type" in value:
            self.node(value, hint, path)
            return
        shape = closed_set(hint)
        if isinstance(value, dict) and shape is not None:
            self.closed(shape, value, path)
            return
        if not matches(value, hint):
            self._add(path, describe(hint).replace("Node", "dict(type=...)"), _show(value))
        for key, item in _items(value):
            self.value(item, item_hint(hint, key), f"{path}.{key}")

    def node(self, node: dict[str, Any], hint: Any, path: str) -> None:
        """Check a ``dict(type=...)`` against its target."""
        try:
            target = resolve(node["type"])
        except ConfigError as error:
            self._add(f"{path}.type", "a class, a function or its name", str(error).rstrip("."))
            return
        is_node = any(m is Node for m in members(hint))
        if not is_node and not node_matches(target, hint):
            self._add(path, describe(hint), f"a {_name(target)} node")
        if id(node) in self._seen:
            return
        self._seen.add(id(node))
        values = {k: v for k, v in node.items() if k != "type"}
        keys = (path.rpartition(".")[2], _name(target))
        given = frozenset().union(*(INJECTED.get(k, ()) for k in keys))
        place = self._names.get(id(node), path)  # a node with a name of its own is known by it
        self._call(_name(target), parameters(target), values, place, given)

    def closed(self, shape: Any, values: dict[str, Any], path: str) -> None:
        """Check a dict against a dataclass or a ``TypedDict``."""
        self._call(shape.__name__, parameters(shape), values, path, frozenset())

    def _call(
        self,
        name: str,
        takes: Parameters,
        values: dict[str, Any],
        path: str,
        given: frozenset[str],
    ) -> None:
        prefix = f"{path}." if path else ""
        for key in takes.required:
            if key not in values and key not in given:
                self._add(f"{prefix}{key}", f"a value ({name} requires it)", "nothing")
        for key, value in values.items():
            place = f"{prefix}{key}"
            if key in takes.hints:
                is_default = key in takes.defaults and value is takes.defaults[key]
                self.value(value, Any if is_default else takes.hints[key], place)
                continue
            if not takes.open:
                near = did_you_mean(str(key), takes.hints)
                hint = near or f"It takes {', '.join(takes.hints) or 'no arguments'}."
                self._add(place, f"an argument of {name}", "an unknown name", hint)
            elif close := difflib.get_close_matches(str(key), takes.hints, 1, _TYPO):
                self._add(place, f"'{close[0]}'", f"'{key}'", f"Did you mean '{close[0]}'?")
            self.value(value, Any, place)

    def _add(self, path: str, expected: str, got: str, hint: str = "") -> None:
        self.problems.append(Problem(path, expected, got, hint))


def _unread(cfg: Config) -> Iterator[Problem]:
    """Yield the top-level names that nothing reads: a misspelt runtime name, or a dead setting."""
    tree = ast.parse(cfg.source)
    known = source.assigned(tree)
    if "_resolved_" in known:  # a dump keeps the settings, whose values stand where they are used
        return
    for name in cfg.keys() - source.names_read(tree) - RUNTIME_NAMES - run_name.fields(cfg):
        near = difflib.get_close_matches(name, RUNTIME_NAMES, 1, _TYPO)
        if near:
            yield Problem(name, f"'{near[0]}'", f"'{name}'", f"Did you mean '{near[0]}'?")
        elif cfg.original is None:  # other tools may read what stands in a file for them
            yield Problem(
                name,
                "a setting that is used",
                "one that nothing in the file reads",
                severity="warning",
            )


def _items(value: Any) -> Iterator[tuple[int | str, Any]]:
    if isinstance(value, dict):
        yield from ((str(k), v) for k, v in value.items())
    elif isinstance(value, list | tuple):
        yield from enumerate(value)


def _name(target: Any) -> str:
    owner = getattr(target, "__self__", None)
    prefix = f"{owner.__name__}." if isinstance(owner, type) else ""
    return prefix + getattr(target, "__name__", repr(target))


def _show(value: Any) -> str:
    text = repr(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return text if value is None else f"{text} ({type(value).__name__})"
