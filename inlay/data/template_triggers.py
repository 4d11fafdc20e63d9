"""Which texts make a chat template look inside a message.

A template that only *writes* contents can be learned once and filled in. One that tests contents
(``'</think>' in content``) or rewrites them writes something else for some texts; the constants of
those tests are found here, so that such texts are rendered for real.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_GENERATION_TAG = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
_STRIPS = ("strip", "lstrip", "rstrip", "trim")
_UNRELATED = ("raise_exception", "strftime_now", "namespace", "join", "default", "d", "get")


@dataclass
class Triggers:
    """Texts that must not occur in a content (``inside``) or be one (``whole``)."""

    inside: list[str] = field(default_factory=list)
    whole: set[str] = field(default_factory=set)

    def hit(self, content: str) -> bool:
        """Whether the template may treat ``content`` in a special way."""
        return content in self.whole or any(text in content for text in self.inside)


def find_triggers(source: str) -> Triggers | None:
    """Collect the constants that a Jinja template compares with, searches for or replaces.

    Returns:
        None if the template cannot be read: then every text must be rendered.
    """
    import jinja2
    from jinja2 import nodes

    environment = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        tree = environment.parse(_GENERATION_TAG.sub("", source))
    except jinja2.TemplateError:
        return None
    found: set[str] = set()
    for node in tree.find_all((nodes.Compare, nodes.Call, nodes.Filter, nodes.Test)):
        name = _name(node)
        texts = [] if name in _UNRELATED else list(_constants(node))
        # What strips white space is learned apart, by trying.
        found.update(t for t in texts if t and not (name in _STRIPS and t.isspace()))
    # A bare word is compared with a role or looks up a key; no template searches texts for it.
    words = {text for text in found if re.fullmatch(r"[A-Za-z_]+", text)}
    return Triggers(sorted(found - words), words)


def _constants(node: Any) -> Iterator[str]:
    """Yield the strings that a comparison, call, filter or test has as its own operands."""
    from jinja2 import nodes

    if isinstance(node, nodes.Compare):
        operands = [node.expr, *(operand.expr for operand in node.ops)]
    else:
        operands = [*(node.args or ()), *(pair.value for pair in node.kwargs or ())]
    for operand in operands:
        items = operand.items if isinstance(operand, nodes.List | nodes.Tuple) else [operand]
        for item in items:
            if isinstance(item, nodes.Const) and isinstance(item.value, str):
                yield item.value


def _name(node: Any) -> str:
    """Name of the function, method or filter that is called; empty for a comparison."""
    target = getattr(node, "node", None)
    own = getattr(node, "name", None) or getattr(target, "attr", None)
    return str(own or getattr(target, "name", ""))
