"""From a config of the originals to one of ours: nodes with foreign names are written anew.

The values that the file has made are left as they are. What was one object stays one object.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from inlay.config import compat
from inlay.config.compat_libraries import library_node
from inlay.config.compat_mmengine import IGNORED, TOP, default_hooks, strategy
from inlay.config.compat_names import Name, Node
from inlay.config.foreign import SERVED, Foreign
from inlay.config.registry import import_path, is_registered, is_users_own

_GONE = object()


@dataclass(frozen=True)
class Refused:
    """Something of an original's config that has no counterpart; see ``Problem``."""

    path: str
    expected: str
    got: str
    hint: str = ""


@dataclass
class Translated:
    """A config in our terms.

    Attributes:
        values: its top-level values.
        notes: what means less or nothing here, one line each.
        refused: what could not be translated.
    """

    values: dict[str, Any]
    notes: list[str] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


def has_foreign(value: Any) -> bool:
    """Whether a name of an original stands anywhere in a value."""
    if isinstance(value, dict):
        kind = value.get("type")
        named = isinstance(kind, str) and not is_registered(kind) and compat.find_text(kind)
        return bool(named) or any(has_foreign(v) for v in value.values())
    if isinstance(value, list | tuple):
        return any(has_foreign(v) for v in value)
    return isinstance(value, Foreign)


def translate(values: Mapping[str, Any], settings: frozenset[str]) -> Translated:
    """Return an original's config in our terms.

    Args:
        values: the top-level values of the executed file; they are not changed.
        settings: the top-level names that a run reads.
    """
    work = _Translation(values)
    whole = {"default_hooks": None, **values}
    if (chosen := strategy(values, work)) is not None:
        whole["strategy"] = chosen
    new = {name: work.setting(name, v) for name, v in whole.items() if name in settings}
    work.check_whole()
    for name in values.keys() - settings - IGNORED.keys():
        if id(values[name]) in work.done or not has_foreign(values[name]):
            new[name] = work.value(values[name], name)
    for name in IGNORED.keys() & values.keys():
        work.ignore(name)
    ordered = {k: new[k] for k in [*values, *new] if k in new and new[k] is not _GONE}
    return Translated(ordered, list(dict.fromkeys(work.notes)), work.refused)


class _Translation:
    """Writes nodes anew, each once; converters get it as ``At``."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values
        self.notes: list[str] = []
        self.refused: list[Refused] = []
        self.done: dict[int, Any] = {}
        self._converted: dict[int, Node | None] = {}
        self._kept: list[Any] = []  # what is looked up by id must stay alive
        self._path = ""

    # -- what converters use -----------------------------------------------------------------

    def note(self, key: str, text: str) -> None:
        self.notes.append(f"{self._at(key)}: {text}")

    def refuse(self, key: str, expected: str, got: str, hint: str = "") -> None:
        self.refused.append(Refused(self._at(key), expected, got, hint))

    def _at(self, key: str) -> str:
        return ".".join(part for part in (self._path, key) if part)

    def name(self, node: Any) -> str:
        kind = node.get("type") if isinstance(node, dict) else None
        found = self._find(kind)
        if found is not None:
            return found[0].partition(".")[2]
        return kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", "")

    def nodes(self, *names: str) -> list[Node]:
        found = _nodes(self.values.get("train_dataloader"))
        return [node for node in found if self.name(node).partition(".")[0] in names]

    def convert(self, node: Node) -> Node | None:
        if id(node) not in self._converted:
            found = self._find(node.get("type"))
            new = self._by_row(node, *found) if found else library_node(node, self)
            self._converted[id(node)] = _with_our_type(new)
            self._kept.append(node)
        return self._converted[id(node)]

    def _by_row(self, node: Node, key: str, name: Name) -> Node | None:
        if name.convert is not None:
            new = name.convert(node, self)
            if new is not None and new.get("type") is node["type"] and name.target:
                return {**new, "type": name.target}
            return new
        if not name.target:
            if name.note:
                self.note("", f"{key.partition('.')[2]} is left out: {name.note}")
            return None
        for argument, why in name.drop.items():
            if why and node.get(argument) is not None:
                self.note(argument, why)
        kept = {k: v for k, v in node.items() if k not in name.drop and k != "type"}
        renamed = {name.rename.get(k, k): v for k, v in kept.items()}
        return {"type": name.target, **renamed}

    def _find(self, kind: Any) -> tuple[str, Name] | None:
        if isinstance(kind, Foreign):
            return kind.name, compat.NAMES[kind.name]
        if isinstance(kind, str):
            return None if is_users_own(kind) else compat.find_text(kind)
        key = SERVED.get(id(kind))
        return None if key is None else (key, compat.NAMES[key])

    # -- the walk ----------------------------------------------------------------------------

    def setting(self, name: str, value: Any) -> Any:
        """Translate a setting that the run reads."""
        self._path = name
        if name == "default_hooks":
            value = default_hooks(value, self)
            self._kept.append(value)
        elif name in TOP and isinstance(value, dict):
            new = TOP[name](value, self)
            self.done[id(value)] = self._plain_or_node(new, name)
            return self.done[id(value)]
        return self.value(value, name)

    def value(self, value: Any, path: str) -> Any:
        """Translate a value and everything inside it."""
        if isinstance(value, Foreign):
            target = compat.NAMES[value.name].target
            return import_path(target) if target else _GONE
        if not isinstance(value, dict | list | tuple) or hasattr(value, "_fields"):
            return value
        if id(value) not in self.done:
            self.done[id(value)] = self._container(value, path)
        return self.done[id(value)]

    def _container(self, value: Any, path: str) -> Any:
        if isinstance(value, dict):
            return self._plain_or_node(value, path)
        items = [self.value(v, f"{path}.{i}") for i, v in enumerate(value)]
        kept = [item for item in items if item is not _GONE]
        return kept if isinstance(value, list) else tuple(kept)

    def _plain_or_node(self, value: Node, path: str) -> Any:
        new: Node | None = value
        if "type" in value:
            before, self._path = self._path, path
            new = self.convert(value)
            self._path = before
        if new is None:
            return _GONE
        if new is not value and id(new) in self.done:
            return self.done[id(new)]
        items = {k: self.value(v, f"{path}.{k}") for k, v in new.items()}
        made = {k: v for k, v in items.items() if v is not _GONE}
        self._kept.append(new)
        self.done[id(new)] = made
        return made

    def check_whole(self) -> None:
        """What no single node shows."""
        self._path = ""
        size = self.values.get("sequence_parallel_size", 1)
        if isinstance(size, int) and size > 1:
            self.refuse(
                "sequence_parallel_size",
                "1",
                str(size),
                "A sequence is not divided between devices here.",
            )

    def ignore(self, name: str) -> None:
        """A setting that nothing reads."""
        self._path = ""
        if IGNORED[name] and self.values[name]:
            self.note(name, f"left out: {IGNORED[name]}")


def _with_our_type(node: Node | None) -> Node | None:
    """Put the object in the place of its dotted path, where the path is the table's."""
    kind = None if node is None else node.get("type")
    if node is None or not isinstance(kind, str) or not kind.startswith(_OURS):
        return node
    return {**node, "type": import_path(kind)}


_OURS = ("inlay.", "transformers.")


def _nodes(value: Any) -> Iterator[Node]:
    if isinstance(value, dict):
        if "type" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _nodes(item)
