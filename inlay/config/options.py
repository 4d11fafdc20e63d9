"""``--cfg-options NAME=value``: literals only, nothing is ever evaluated."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Sequence
from typing import Any

from inlay.config.hints import closed_set, item_hint, parameters
from inlay.config.registry import resolve
from inlay.config.schema import Run
from inlay.core.errors import ConfigError, did_you_mean

_BRACKETS = {"[": "]", "(": ")", "{": "}"}


def parse_options(options: Sequence[str]) -> dict[str, Any]:
    """Return the values of ``a.b.c=value`` words by their path.

    ``2e-5``, ``None``, ``True`` (``true``), ``[1,2]``, ``(a,b)`` and ``x,y`` (a list) are read as
    such; anything else is a string, with or without quotes.
    """
    values: dict[str, Any] = {}
    for option in options:
        name, equals, text = option.partition("=")
        if not equals or not name.strip() or not all(name.strip().split(".")):
            raise ConfigError(f"--cfg-options takes NAME=value, got '{option}'")
        values[name.strip()] = parse_value(text.strip())
    return values


def parse_value(text: str) -> Any:
    """Return the literal that ``text`` spells, or ``text`` itself."""
    bracketed = _is_bracketed(text)
    items = [] if bracketed else _split(text)
    if len(items) > 1:
        return [parse_value(item) for item in items]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pass
    if text in ("true", "false"):
        return text == "true"
    if bracketed and text[0] != "{":
        inner = [parse_value(item) for item in _split(text[1:-1]) if item]
        return inner if text[0] == "[" else tuple(inner)
    return text


def _is_bracketed(text: str) -> bool:
    """Whether one pair of brackets holds the whole text: not so in ``[INST] {input} [/INST]``."""
    if text[:1] not in _BRACKETS or not text.endswith(_BRACKETS[text[0]]):
        return False
    depths = itertools.accumulate((c == text[0]) - (c == text[-1]) for c in text[:-1])
    return all(depth > 0 for depth in depths)


def _split(text: str) -> list[str]:
    """Split at the commas that stand outside brackets and quotes."""
    items, depth, quote = [""], 0, ""
    for char in text:
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"" and not items[-1].strip():
            quote = char
        elif char in "[({":
            depth += 1
        elif char in "])}":
            depth -= 1
        if char == "," and not quote and depth == 0:
            items.append("")
        else:
            items[-1] += char
    return [item.strip() for item in items] if depth == 0 and not quote else [text]


def set_path(tree: dict[str, Any], path: str, value: Any) -> str:
    """Set ``a.b.0.c`` in an executed config; a dict that stands in two places changes in both.

    Returns:
        The line of Python that does the same to the config's names.

    Raises:
        ConfigError: the path leads nowhere, and what it leads to does not take such a key.
    """
    *parents, last = path.split(".")
    node: Any = tree
    hint: Any = Run
    places: list[Any] = []  # as far as the file goes itself
    for depth, key in enumerate(parents):
        holder, is_there = node, not isinstance(node, dict) or key in node
        node, hint = _enter(node, key, hint, ".".join(parents[:depth]), path)
        if is_there and len(places) == depth:
            places.append(key if isinstance(holder, dict) else int(key))
    where: str = ".".join(parents)
    end: Any = last
    if isinstance(node, list):
        end = _index(node, last, where, path)
        node[end] = value
    elif isinstance(node, dict):
        known = [*node, *_accepted(node, hint)]
        if last not in known and not _is_open(node, hint):
            raise _unknown(path, last, where, known)
        node[last] = value
    else:
        raise _not_a_container(node, where, path)
    return _line([*places, *parents[len(places) :], end], len(places) + 1, value)


def _line(keys: Sequence[Any], there: int, value: Any) -> str:
    """``a['b'][0] = {'c': value}``: the first ``there`` keys lead to it, the others make it up."""
    for key in reversed(keys[there:]):
        value = {key: value}
    return f"{keys[0]}{''.join(f'[{key!r}]' for key in keys[1:there])} = {value!r}"


def _enter(node: Any, key: str, hint: Any, where: str, path: str) -> tuple[Any, Any]:
    """Step into ``key``; a closed set that the file leaves out starts as an empty dict."""
    if isinstance(node, list | tuple):
        index = _index(node, key, where, path)
        return node[index], item_hint(hint, index)
    if not isinstance(node, dict):
        raise _not_a_container(node, where, path)
    accepted = _accepted(node, hint)
    inner = accepted.get(key, Any)
    if key not in node:
        if closed_set(inner) is None:
            raise _unknown(path, key, where, [*node, *accepted])
        node[key] = {}
    return node[key], inner


def _accepted(node: dict[str, Any], hint: Any) -> dict[str, Any]:
    """Return the hints of the keys that a dict takes: of its target's, or of its closed set."""
    if "type" in node:
        try:
            return parameters(resolve(node["type"])).hints
        except ConfigError:
            return {}
    shape = closed_set(hint)
    return parameters(shape).hints if shape else {}


def _is_open(node: dict[str, Any], hint: Any) -> bool:
    """Whether any key may be added: the target takes ``**kwargs`` that no list describes."""
    try:
        return "type" in node and parameters(resolve(node["type"])).open
    except ConfigError:
        return False


def _index(node: Any, key: str, where: str, path: str) -> int:
    if key.lstrip("-").isdigit() and -len(node) <= int(key) < len(node):
        return int(key)
    raise ConfigError(
        f"--cfg-options {path}: '{where}' has {len(node)} entries, so '{key}' must be a number "
        f"from 0 to {len(node) - 1}"
    )


def _unknown(path: str, key: str, where: str, known: Sequence[str]) -> ConfigError:
    place = f"'{where}'" if where else "the config"
    return ConfigError(f"--cfg-options {path}: {place} has no '{key}'.{did_you_mean(key, known)}")


def _not_a_container(node: Any, where: str, path: str) -> ConfigError:
    hint = " (set it whole)" if isinstance(node, tuple) else ""
    return ConfigError(f"--cfg-options {path}: '{where}' is {node!r}, not a dict or a list{hint}")
