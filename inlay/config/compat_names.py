"""Rows of the table of foreign names, and what their converters are given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Node = dict[str, Any]


class At(Protocol):
    """Where a converter stands: the whole config as it was written, and where to report.

    Attributes:
        values: the config's top-level values, untranslated.
    """

    values: Mapping[str, Any]

    def note(self, key: str, text: str) -> None:
        """Tell that an argument of this node (or the node, for an empty key) means less here."""

    def refuse(self, key: str, expected: str, got: str, hint: str = "") -> None:
        """Report an argument that cannot be translated: a problem of the config."""

    def convert(self, node: Node) -> Node | None:
        """Return a node inside this one in our terms; None: left out."""

    def nodes(self, *names: str) -> list[Node]:
        """Return the nodes of the training data whose type has one of these names."""

    def name(self, node: Any) -> str:
        """Return the last name of what a node's ``type`` stands for; "" for anything else."""


Converter = Callable[[Node, At], "Node | None"]


@dataclass(frozen=True)
class Name:
    """What a foreign name stands for.

    Attributes:
        target: dotted path of ours; empty: nodes of it are left out.
        rename: arguments by another name.
        drop: arguments that mean nothing here, and why; an empty reason is not worth a note.
        convert: writes a node anew, instead of the three above.
        direct: whether the config is given our own object, which can be called and subclassed.
        note: why nodes of it are left out, where that is worth a note.
    """

    target: str = ""
    rename: Mapping[str, str] = field(default_factory=dict)
    drop: Mapping[str, str] = field(default_factory=dict)
    convert: Converter | None = None
    direct: bool = False
    note: str = ""


def same(target: str, convert: Converter | None = None, **drop: str) -> Name:
    """A name whose object of ours takes its place; ``drop`` names arguments it does not take."""
    return Name(target, drop=drop, convert=convert, direct=True)


def left_out(note: str = "") -> Name:
    """A name whose work the engine does itself."""
    return Name(note=note)


def converted(convert: Converter) -> Name:
    """A name whose nodes are written anew."""
    return Name(convert=convert)


def words(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())
