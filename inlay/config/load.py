"""Load a config: flatten, override settings in the text, execute, override paths in the result."""

from __future__ import annotations

import ast
import linecache
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

from inlay.config import source
from inlay.config.foreign import check_imports, is_foreign, serving
from inlay.config.options import parse_options, set_path
from inlay.config.schema import Run
from inlay.config.translate import Refused, has_foreign, translate
from inlay.core.errors import ConfigError, did_you_mean

RUNTIME_NAMES = frozenset(f.name for f in fields(Run))


class Config(Mapping[str, Any]):
    """An executed config file: its top-level names, as items and as attributes.

    Values are plain dicts, lists, tuples and literals, classes and functions. A dict that the file
    uses in two places is one object. The mapping is read-only, and nothing in it is changed
    after loading.

    Attributes:
        path: the file it was loaded from.
        name: the file's stem, which names the run.
        source: the flattened text with all overrides applied; of a file for XTuner or F-LMM without
            those that name a place as it is called here.
        text: the text whose line numbers are the file's own; None for a recipe of several files.
        original: of a file for XTuner or F-LMM the values that it has made, before they were
            translated; else None.
        notes: of such a file, what means less or nothing here, one line each.
        refused: of such a file, what has no counterpart here.
    """

    def __init__(self, values: dict[str, Any], path: Path, source: str, text: str | None) -> None:
        self._values = values
        self.path = path
        self.name = path.stem
        self.source = source
        self.text = text
        self.original: dict[str, Any] | None = None
        self.notes: list[str] = []
        self.refused: list[Refused] = []

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __getattr__(self, name: str) -> Any:
        values = self.__dict__.get("_values", {})
        if name not in values:
            raise AttributeError(f"{self.path} assigns no '{name}'.{did_you_mean(name, values)}")
        return values[name]

    def __repr__(self) -> str:
        return f"Config({str(self.path)!r})"


def load_config(path_or_name: str | Path, options: Sequence[str] = ()) -> Config:
    """Load a config file, or a recipe by its name.

    A file that was written for XTuner 0.1.x, MMEngine or F-LMM is translated, without these
    packages; options may name a place as the file does, or as it is called here.

    Args:
        options: ``NAME=value`` overrides a top-level setting before the file's later lines read
            it; ``a.b.0.c=value`` sets a place in the executed config. Literals only.

    Raises:
        ConfigError: there is no such config, it cannot be executed, or an option fits nothing.
    """
    path = source.find_config(path_or_name)
    text = source.flatten(path)
    flattened = text != source.read(path)
    values = parse_options(options)
    settings = {k: repr(v) for k, v in values.items() if "." not in k}
    tree = source.parse(text, path)
    added = _check_settings(settings, tree, path)
    _check_switches(values, tree, path)
    tail = "".join(f"\n{name} = {settings[name]}\n" for name in added)
    changed = source.rewrite(text, settings) + tail
    filename = f"{path} (flattened)" if flattened else str(path)
    if flattened:
        linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    tree = source.override(ast.parse(text + tail), settings)
    imports_foreign = check_imports(tree, filename)
    with serving():
        tree_values = _plain(_execute(tree, filename), {})
        _import_customs(tree_values.get("custom_imports"), filename)
    places = {name: value for name, value in values.items() if "." in name}
    plain_text = None if flattened else text
    if not imports_foreign and not has_foreign(tree_values):
        lines = [set_path(tree_values, name, value) for name, value in places.items()]
        return Config(tree_values, path, _ended_by(changed, lines), plain_text)
    return _translated(tree_values, places, Config({}, path, changed, plain_text))


def _ended_by(text: str, lines: Sequence[str]) -> str:
    """Return a config's text with the lines of its overridden places at the end."""
    return text + "\n# Overridden places\n" + "\n".join(lines) + "\n" if lines else text


def _translated(values: dict[str, Any], places: Mapping[str, Any], cfg: Config) -> Config:
    """Fill ``cfg`` with an original's values; an option's place is looked for on both sides."""
    later: dict[str, ConfigError] = {}
    lines = []
    for name, value in places.items():
        try:
            lines.append(set_path(values, name, value))
        except ConfigError as refusal:
            later[name] = refusal
    cfg.source = _ended_by(cfg.source, lines)
    found = translate(values, RUNTIME_NAMES)
    for name, unknown in later.items():
        try:
            set_path(found.values, name, places[name])
        except ConfigError:
            raise unknown from None
    cfg._values, cfg.original = found.values, values
    cfg.notes, cfg.refused = found.notes, found.refused
    return cfg


def _import_customs(customs: Any, filename: str) -> None:
    """Import the modules of ``custom_imports=dict(imports=[...])``, which register classes."""
    if customs is None:
        return
    names = customs.get("imports", []) if isinstance(customs, dict) else customs
    for name in [names] if isinstance(names, str) else names:
        try:
            import_module(name)
        except ImportError as error:
            if isinstance(customs, dict) and customs.get("allow_failed_imports"):
                continue
            raise ConfigError(f"{filename}: custom_imports: {_explain(error, {})}") from error


def _check_settings(settings: Mapping[str, str], tree: ast.Module, path: Path) -> list[str]:
    """Return the runtime names among ``settings`` that the file does not assign.

    Raises ConfigError for a name that is unknown, or that nothing would read.
    """
    known, read = source.assigned(tree), source.names_read(tree)
    for name in settings.keys() - RUNTIME_NAMES:
        if name not in known:
            hint = did_you_mean(name, [*known, *RUNTIME_NAMES])
            raise ConfigError(f"--cfg-options {name}: {path} has no setting '{name}'.{hint}")
        if name not in read:
            places = [".".join(p) for p in _keyword_paths(tree, name)]
            where = f" Set the place itself: {', '.join(places)}." if places else ""
            raise ConfigError(
                f"--cfg-options {name}: nothing in {path} reads '{name}', so that changing it "
                f"would change nothing.{where}"
            )
    return sorted(settings.keys() - known.keys())


def _check_switches(values: Mapping[str, Any], tree: ast.Module, path: Path) -> None:
    """Raise ConfigError for a text where the file has True or False: any text would mean True."""
    for name, statements in source.assigned(tree).items():
        old, new = getattr(statements[-1], "value", None), values.get(name)
        is_switch = isinstance(old, ast.Constant) and isinstance(old.value, bool)
        if is_switch and isinstance(new, str) and name not in RUNTIME_NAMES:
            raise ConfigError(f"--cfg-options {name}: {path} takes True or False, got '{new}'")


def _keyword_paths(tree: ast.Module, name: str) -> Iterator[list[str]]:
    """Yield the config paths of keywords called ``name`` in the file's top-level values."""

    def inside(node: ast.AST, path: list[str]) -> Iterator[list[str]]:
        if isinstance(node, ast.Call):
            for keyword in node.keywords:
                here = [*path, keyword.arg or ""]
                if keyword.arg == name:
                    yield here
                yield from inside(keyword.value, here)
        elif isinstance(node, ast.List):
            for index, item in enumerate(node.elts):
                yield from inside(item, [*path, str(index)])

    for statement in tree.body:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            yield from inside(statement.value, [statement.targets[0].id])


def _execute(tree: ast.Module, filename: str) -> dict[str, Any]:
    """Run the config as a module of its own and return the names that it assigns."""
    namespace: dict[str, Any] = {"__name__": "inlay_config", "__file__": filename}
    _import_beside(tree, Path(filename))
    try:
        exec(compile(tree, filename, "exec"), namespace)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if f.filename == filename]
        where = f"{filename}, line {lines[-1]}" if lines else filename
        raise ConfigError(f"{where}: {_explain(error, namespace)}") from error
    names = (n for n in source.assigned(tree) if not n.startswith("_"))
    return {n: namespace[n] for n in names if n in namespace}


def _import_beside(tree: ast.Module, path: Path) -> None:
    """Let ``from .map_fns import f`` find the module beside the config, or above it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and node.module:
            folder = str(path.absolute().parents[node.level - 1])
            node.level = 0
            if folder not in sys.path:
                sys.path.insert(0, folder)


def _explain(error: Exception, namespace: Mapping[str, Any]) -> str:
    if isinstance(error, ImportError) and is_foreign(error.name or ""):
        return f"{error}: Inlay stands in for '{error.name}' and has no counterpart of this name"
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").partition(".")[0]
        return f"the package '{package}' is not installed ({error})"
    if isinstance(error, NameError):
        return f"{error}.{did_you_mean(error.name or '', namespace)}"
    if isinstance(error, AttributeError) and error.name and error.obj is not None:
        return f"{error}.{did_you_mean(error.name, dir(error.obj))}"
    if isinstance(error, ImportError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """Copy the containers of a config, so that an override never reaches a library's own dicts.

    What was one object stays one object.
    """
    if not isinstance(value, dict | list | tuple) or hasattr(value, "_fields"):
        return value
    if id(value) not in seen:
        if isinstance(value, dict):
            copy: Any = {k: _plain(v, seen) for k, v in value.items()}
        else:
            copy = (list if isinstance(value, list) else tuple)(_plain(v, seen) for v in value)
        seen[id(value)] = copy
    return seen[id(value)]
