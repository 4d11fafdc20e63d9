"""The text of a config: recipes flattened into one five-part file, settings rewritten in place.

A *recipe* is a short file: ``_base_`` (paths of part files), imports, and assignments. A *part
file* adds text under ``PART n`` banners. What a file assigns before its first banner replaces the
value that an earlier file gave to the name, where it stands, so that every later line reads it.
``--cfg-options NAME=value`` goes the same way. Nothing here imports or executes a config.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from inlay.config.imports import import_blocks, imported
from inlay.core.errors import ConfigError, did_you_mean

PARTS = {
    1: "Settings",
    2: "Model & Tokenizer",
    3: "Dataset & Dataloader",
    4: "Scheduler & Optimizer",
    5: "Runtime",
}
RECIPES = Path(__file__).parents[1] / "recipes"
_BANNER = re.compile(r"^#{3,}\n#\s*PART (\d)\b.*\n#{3,}\n", re.MULTILINE)
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)


def recipes() -> dict[str, Path]:
    """Return the path of every recipe that ships with Inlay, by name."""
    files = (p for p in RECIPES.rglob("*.py") if not p.stem.startswith("_"))
    return {p.stem: p for p in sorted(files, key=lambda p: p.stem) if p.parent.name != "_base"}


def find_config(path_or_name: str | Path) -> Path:
    """Return the file of a config given as a path or as the name of a recipe.

    Raises:
        ConfigError: there is neither such a file nor such a recipe.
    """
    path = Path(path_or_name)
    if path.is_file():
        return path
    known = recipes()
    if str(path_or_name) in known:
        return known[str(path_or_name)]
    near = [*known, *(str(p) for p in path.parent.glob("*.py"))]
    raise ConfigError(
        f"no config file or recipe '{path_or_name}'.{did_you_mean(str(path_or_name), near)} "
        "`inlay list-cfg` prints the recipes."
    )


def flatten(path: Path) -> str:
    """Return the config at ``path`` as one self-contained text.

    A file without ``_base_`` is returned as it stands. Raises ConfigError for a missing or cyclic
    base, a base that is not a list of paths, or an override of a name that no base assigns.
    """
    text = read(path)
    tree = parse(text, path)
    if not _bases(tree, path):
        return text
    parts = _Parts()
    parts.add(path, ())
    return parts.render(ast.get_docstring(tree))


def read(path: Path) -> str:
    """Return the text of a config file (UTF-8)."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the config '{path}': {error}") from error


def parse(text: str, path: Path | str) -> ast.Module:
    """Return the syntax tree of a config; a syntax error becomes one clear message."""
    try:
        return ast.parse(text, filename=str(path))
    except SyntaxError as error:
        line = f"\n    {error.text.strip()}" if error.text else ""
        raise ConfigError(f"{path}, line {error.lineno}: {error.msg}{line}") from error


def assigned(tree: ast.Module) -> dict[str, list[ast.stmt]]:
    """Return the statements that assign each name at module level, also inside ``if`` blocks."""
    found: dict[str, list[ast.stmt]] = {}
    for statement in _statements(tree):
        for name in _targets(statement):
            found.setdefault(name, []).append(statement)
    return found


def names_read(tree: ast.AST) -> set[str]:
    """Return every name that the code reads."""
    nodes = (n for n in ast.walk(tree) if isinstance(n, ast.Name))
    return {n.id for n in nodes if isinstance(n.ctx, ast.Load)}


def rewrite(text: str, values: Mapping[str, str]) -> str:
    """Return ``text`` with every assignment of the given names rewritten.

    Args:
        values: the source text of an expression by name. A plain ``name = ...`` gets the new value
            where the old one stood, comments and layout stay; after ``a, b = ...`` a statement is
            added; ``name += ...`` becomes an assignment, so that the new value wins.
    """
    tree = ast.parse(text)
    data = text.encode()
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def at(line: int, column: int) -> int:
        return starts[line - 1] + column

    edits: list[tuple[int, int, str]] = []
    for name, statements in assigned(tree).items():
        for node in statements if name in values else ():
            end = at(node.end_lineno or 0, node.end_col_offset or 0)
            if not _is_plain(node):
                edits.append((end, end, f"; {name} = {values[name]}"))
            elif isinstance(node, ast.AugAssign):
                begin = at(node.lineno, node.col_offset)
                edits.append((begin, end, f"{name} = {values[name]}"))
            else:
                old = node.value  # type: ignore[attr-defined]
                begin = at(old.lineno, old.col_offset)
                edits.append((begin, at(old.end_lineno, old.end_col_offset), values[name]))
    for begin, end, new in sorted(edits, reverse=True):
        data = data[:begin] + new.encode() + data[end:]
    return data.decode()


def override(tree: ast.Module, values: Mapping[str, str]) -> ast.Module:
    """Do to a syntax tree what :func:`rewrite` does to its text, and keep every line number."""
    _Override(values).visit(tree)
    return ast.fix_missing_locations(tree)


class _Override(ast.NodeTransformer):
    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values

    def visit(self, node: ast.AST) -> ast.AST | list[ast.AST]:
        if isinstance(node, _SCOPES):
            return node
        if not isinstance(node, ast.stmt):
            return self.generic_visit(node)
        news = [self._assign(n, node) for n in sorted(_targets(node) & self.values.keys())]
        if news and _is_plain(node):
            if isinstance(node, ast.AugAssign):
                return news[0]
            node.value = news[0].value  # type: ignore[attr-defined]
            return node
        return [self.generic_visit(node), *news] if news else self.generic_visit(node)

    def _assign(self, name: str, old: ast.stmt) -> ast.stmt:
        new = ast.parse(f"{name} = {self.values[name]}").body[0]
        for part in ast.walk(new):
            ast.copy_location(part, old)
        return new


@dataclass
class _Parts:
    """The five sections of a flattened recipe while its files are added one by one."""

    imports: dict[tuple[str, str, str], None] = field(default_factory=dict)
    sections: dict[int, str] = field(default_factory=lambda: dict.fromkeys(PARTS, ""))

    def add(self, path: Path, parents: tuple[Path, ...]) -> None:
        """Add the bases of the file at ``path``, then its overrides, then its sections."""
        if path in parents:
            raise ConfigError(f"{path}: its _base_ leads back to the file itself")
        head, *pieces = _BANNER.split(read(path))
        tree = parse(head, path)
        bases = _bases(tree, path)
        for base in bases:
            self.add(base, (*parents, path))
        self._override(tree, head, path)
        for number, body in zip(pieces[::2], pieces[1::2], strict=True):
            if int(number) not in PARTS:
                raise ConfigError(f"{path}: there is no PART {number}, only 1 to {len(PARTS)}")
            section = self.sections[int(number)]
            self.sections[int(number)] = f"{section}\n\n{body.strip()}".strip()

    def _override(self, tree: ast.Module, text: str, path: Path) -> None:
        known = {n for s in self.sections.values() for n in assigned(ast.parse(s))}
        values: dict[str, str] = {}
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                self.imports |= dict.fromkeys(imported(node))
            elif isinstance(node, ast.Assign) and _is_plain(node):
                (name,) = _targets(node)
                if name != "_base_":
                    values[name] = _expression(text, node.value)
            elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
                raise ConfigError(
                    f"{path}, line {node.lineno}: a file with _base_ holds imports and plain "
                    "assignments; write anything else in a file without _base_"
                )
            for name in values.keys() - known:
                raise ConfigError(
                    f"{path}, line {node.lineno}: no base of this file assigns '{name}', so there "
                    f"is nothing to override.{did_you_mean(name, known)}"
                )
        for number, section in self.sections.items():
            self.sections[number] = rewrite(section, values)

    def render(self, docstring: str | None) -> str:
        """Return the text, with the imports that it uses at its top."""
        body = []
        for number, title in PARTS.items():
            bar, name = "#" * 71, f"PART {number}  {title}"
            body.append(f"{bar}\n#{name:^69}#\n{bar}\n{self.sections[number]}".strip())
        code = "\n\n".join(body) + "\n"
        top = [f'"""{docstring}"""'] if docstring else []
        return "\n\n".join([*top, *import_blocks(self.imports, names_read(ast.parse(code))), code])


def _statements(node: ast.AST) -> Iterator[ast.stmt]:
    """Yield the statements of the module's own scope, in order."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        if not isinstance(child, (*_SCOPES, ast.expr)):
            yield from _statements(child)


def _targets(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AugAssign) or (isinstance(node, ast.AnnAssign) and node.value):
        targets = [node.target]
    else:
        return set()
    names = (n for t in targets for n in ast.walk(t) if isinstance(n, ast.Name))
    return {n.id for n in names if isinstance(n.ctx, ast.Store)}


def _is_plain(node: ast.stmt) -> bool:
    """Whether the statement assigns one name and nothing else."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]  # type: ignore[attr-defined]
    return len(targets) == 1 and isinstance(targets[0], ast.Name)


def _expression(text: str, node: ast.expr) -> str:
    """Return the source of an expression so that it can stand alone."""
    segment = ast.get_source_segment(text, node) or ast.unparse(node)
    try:
        ast.parse(segment, mode="eval")
    except SyntaxError:  # lines joined by parentheses that are not part of the node
        return f"({segment})"
    return segment


def _bases(tree: ast.Module, path: Path) -> list[Path]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and _targets(node) == {"_base_"}:
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                value = None
            names = [value] if isinstance(value, str) else value
            if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
                raise ConfigError(
                    f"{path}, line {node.lineno}: _base_ must be a list of paths, "
                    f"got {ast.unparse(node.value)}"
                )
            return [_base(path.parent / n, f"{path}, line {node.lineno}") for n in names]
    return []


def _base(path: Path, where: str) -> Path:
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*.py")]
        raise ConfigError(f"{where}: no base file '{path}'.{did_you_mean(path.name, near)}")
    return path.resolve()
