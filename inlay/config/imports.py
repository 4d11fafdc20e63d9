"""Import statements as data, and as sorted text."""

from __future__ import annotations

import ast
import sys
from collections.abc import Collection, Iterator

_WIDTH = 100


def imported(node: ast.Import | ast.ImportFrom) -> Iterator[tuple[str, str, str]]:
    """Yield ``(module, name or "", alias or "")`` of an import statement."""
    for item in node.names:
        alias = item.asname or ""
        if isinstance(node, ast.Import):
            yield item.name, "", alias
        elif node.module != "__future__":
            yield "." * node.level + (node.module or ""), item.name, alias


def import_blocks(imports: Collection[tuple[str, str, str]], used: set[str]) -> list[str]:
    """Return imports as blocks of text: standard library, other packages, Inlay.

    Args:
        imports: ``(module, name or "", alias or "")``.
        used: names that the code reads; what would bind another name is left out.
    """
    blocks: dict[int, list[str]] = {0: [], 1: [], 2: []}
    by_module: dict[str, list[tuple[str, str]]] = {}
    for module, name, alias in imports:
        if (alias or name or module.partition(".")[0]) in used:
            by_module.setdefault(module, []).append((name, alias))
    for module in sorted(by_module):
        package = module.partition(".")[0]
        block = blocks[0 if package in sys.stdlib_module_names else 2 if package == "inlay" else 1]
        items = by_module[module]
        for _, alias in (i for i in items if not i[0]):
            block.append(f"import {module} as {alias}" if alias else f"import {module}")
        names = [f"{n} as {a}" if a else n for n, a in items if n]
        if names:
            block.append(_from_import(module, sorted(names, key=_import_order)))
    return [
        "\n".join(sorted(lines, key=lambda line: line.startswith("from")))
        for lines in blocks.values()
        if lines
    ]


def _import_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, as import sorters do."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2), name


def _from_import(module: str, names: list[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= _WIDTH:
        return line
    return f"from {module} import (\n" + "".join(f"    {n},\n" for n in names) + ")"
