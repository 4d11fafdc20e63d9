"""`inlay inspect`: what a checkpoint holds, and whether it is whole."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from inlay.convert.flmm import SAME, THEIR_SAM
from inlay.convert.foreign import KINDS, PARTS, Foreign, guess_checkpoint
from inlay.core.errors import CheckpointError
from inlay.core.torch_file import load_torch, state_dict_of
from inlay.engine import checkpoint as ckpt

Row = tuple[str, tuple[int, ...], str]
"""Name, shape and dtype of a tensor."""

BYTES = {"64": 8, "32": 4, "16": 2, "8": 1}
CONFIG_LINES = 12
COUNTERS = ("iter", "update", "epoch", "samples", "tokens")
TWO_WORDS = {"llm", "visual_encoder", "refiner", "sam", *PARTS}
TOP = {"base_model", "model", "module"}
"""Words that wrappers put into names; they tell no module apart."""


@dataclass
class Module:
    """A part of the model, by the first words of its weights' names.

    Attributes:
        tensors, parameters, bytes: how many. dtypes: of its tensors, most parameters first.
    """

    name: str
    tensors: int = 0
    parameters: int = 0
    bytes: int = 0
    dtypes: list[str] = field(default_factory=list)


@dataclass
class Report:
    """What is found at ``path``.

    Attributes:
        kind: one of ``convert.foreign.KINDS``; None where it is too damaged to tell.
        progress: iteration, epoch, update, seed, time, ranks, ..., as far as known.
        trained, total: parameters: in the file; of the whole model, where that is known.
        optimizer: names of the state of one weight, and of how many weights.
        config: first lines of the config, or the file that holds it.
        damage: what is wrong, one line each.
    """

    path: str
    kind: str | None = None
    what: str = ""
    progress: dict[str, Any] = field(default_factory=dict)
    modules: list[Module] = field(default_factory=list)
    trained: int = 0
    total: int | None = None
    optimizer: dict[str, Any] = field(default_factory=dict)
    config: str = ""
    damage: list[str] = field(default_factory=list)


def inspect(path: str) -> Report:
    """Read what ``path`` holds: kind, progress, weights by module, optimizer, config, damage.

    Raises:
        CheckpointError: nothing is there, or nothing of a known kind.
    """
    if not Path(path).exists() and not Path(path).with_suffix("").is_dir():
        guess_checkpoint(path)  # says so
    try:
        found = guess_checkpoint(path)
    except CheckpointError as error:
        if "is damaged" in str(error) or "incomplete" in str(error):
            return Report(path, what="a damaged checkpoint", damage=[str(error)])
        raise
    report = Report(str(found.path), found.kind, _what(found))
    report.progress = {k: v for k, v in found.meta.items() if k != "cfg"}
    report.config = _first_lines(found.meta.get("cfg", ""))
    if found.kind == "inlay":
        rows = _own(found.path, report)
    elif found.weights:
        rows = [_row(name, tensor) for name, tensor in found.weights.items()]
        _originals_optimizer(found, report)
    else:
        rows = list(_folder_rows(found.path, report))
        _folder_config(found.path, report)
    report.modules = _modules(rows)
    report.trained = sum(module.parameters for module in report.modules)
    if found.frozen is not None:
        report.total = report.trained + found.frozen
    return report


def _what(found: Foreign) -> str:
    if found.weights and all(n.startswith((*SAME, THEIR_SAM)) for n in found.weights):
        return f"{KINDS[found.kind]}, of F-LMM: mask head and what it reads"
    if found.kind == "deepspeed" and found.meta.get("stage"):
        return f"{KINDS[found.kind]}, ZeRO-{found.meta['stage']} of {found.meta['ranks']} ranks"
    return KINDS[found.kind]


def _row(name: str, tensor: Any) -> Row:
    return name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")


def _own(folder: Path, report: Report) -> list[Row]:
    """A folder ``iter_N``: counters, plan, and the state of the optimizer."""
    if problem := ckpt.damage(folder):
        report.damage.append(problem)
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        state = {}
    run = state.get("run") or {}
    report.progress = {k: run[k] for k in COUNTERS if k in run}
    report.progress |= {k: state[k] for k in ("time", "seed", "run_name") if state.get(k)}
    report.progress |= {"ranks": len(state["rng"])} if state.get("rng") else {}
    rows = list(_header(folder / "model.safetensors", report))
    held = [r[0] for f in folder.glob("optimizer*.safetensors") for r in _header(f, report)]
    parts = [full.partition("@")[0].rpartition("|") for full in held]
    if parts:
        weights, keys = {p[0] for p in parts}, _keys(p[2] for p in parts)
        report.optimizer = {"weights": len(weights), "keys": keys}
    if (folder / "config.py").is_file():
        report.config = str(folder / "config.py")
    return rows


def _keys(names: Iterable[str]) -> list[str]:
    return sorted(set(names))


def _originals_optimizer(found: Foreign, report: Report) -> None:
    states = list(found.states.values()) if isinstance(found.states, dict) else found.states
    if states:
        report.optimizer = {"weights": len(states), "keys": _keys(k for s in states for k in s)}


def _folder_rows(folder: Path, report: Report) -> Iterator[Row]:
    """Tensors of a model's folder, or of the folders of LLaVA parts, by their files' headers."""
    parts = [p for part in (*PARTS, "llm") if (p := folder / part).is_dir()]
    for place in [folder, *parts]:
        prefix = "" if place == folder else f"{place.name}."
        _check_index(place, report)
        files = sorted(place.glob("*.safetensors"))
        for file in files:
            yield from ((prefix + row[0], row[1], row[2]) for row in _header(file, report))
        if not files:
            for file in sorted(place.glob("*model*.bin")):
                state = state_dict_of(load_torch(file), file)
                yield from (_row(prefix + name, tensor) for name, tensor in state.items())


def _check_index(folder: Path, report: Report) -> None:
    """Note the files that an index names and that are not there."""
    for index in folder.glob("*.index.json"):
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, KeyError) as error:
            report.damage.append(f"{index.name} cannot be read ({error})")
            continue
        missing = sorted(name for name in names if not (folder / name).is_file())
        report.damage += [f"{name} is missing" for name in missing]


def _folder_config(folder: Path, report: Report) -> None:
    for name in ("adapter_config.json", "config.json", "xtuner_config.py", "inlay_export.json"):
        if (folder / name).is_file():
            report.config = report.config or str(folder / name)
            if name == "adapter_config.json":
                values = json.loads((folder / name).read_text(encoding="utf-8"))
                keys = ("base_model_name_or_path", "peft_type", "r", "lora_alpha")
                report.progress |= {key: values[key] for key in keys if key in values}


def _header(file: Path, report: Report) -> Iterator[Row]:
    """Tensors of a safetensors file; a broken one is noted."""
    if not file.is_file():
        return
    try:
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (no mapping)
                part = opened.get_slice(name)
                yield name, tuple(part.get_shape()), _plain_dtype(part.get_dtype())
    except (OSError, SafetensorError) as error:
        report.damage.append(f"{file.name} is damaged: {error}")


def _plain_dtype(name: str) -> str:
    """safetensors' ``"BF16"`` in torch's words."""
    words = {"BF": "bfloat", "F": "float", "I": "int", "U": "uint"}
    kind = name.rstrip("0123456789")
    return f"{words[kind]}{name.removeprefix(kind)}" if kind in words else name.lower()


def _modules(rows: list[Row]) -> list[Module]:
    """Sum up by the first word of the names that tells modules apart."""
    found: dict[str, Module] = {}
    for name, shape, dtype in rows:
        module = found.setdefault(_module_of(name), Module(_module_of(name)))
        count = math.prod(shape)
        module.tensors += 1
        module.parameters += count
        module.bytes += count * _width(dtype)
        if dtype not in module.dtypes:
            module.dtypes.append(dtype)
    return list(found.values())


def _module_of(name: str) -> str:
    """``llm.base_model.model.model.layers.0.self_attn...`` is of ``llm.layers``."""
    words = [w for w in name.split(".")[:-1] if w not in TOP] or [name]
    kept = (
        words[:2] if words[0] in ("llm", "visual_encoder", *PARTS, "refiner", "sam") else words[:1]
    )
    return ".".join(word for word in kept if not word.isdigit())


def _width(dtype: str) -> int:
    """Bytes of one value."""
    digits = "".join(c for c in dtype.partition("_")[0] if c.isdigit())
    return BYTES.get(digits, 16 if dtype.startswith("complex") else 1)


def _first_lines(text: str) -> str:
    lines = text.strip().splitlines()
    return "\n".join(lines[:CONFIG_LINES] + (["..."] if len(lines) > CONFIG_LINES else []))


def as_json(report: Report) -> str:
    """One JSON object, with the fields of :class:`Report`."""
    return json.dumps(asdict(report), indent=1)


def as_text(report: Report) -> str:
    """The report as a person reads it."""
    lines = [f"{report.path}: {report.what}"]
    if report.progress:
        lines.append("  " + ", ".join(f"{k} {v}" for k, v in report.progress.items()))
    width = max((len(m.name) for m in report.modules), default=0)
    for m in report.modules:
        size = f"{m.parameters:>15,} parameters {m.bytes / 2**20:>10.1f} MiB"
        lines.append(f"  {m.name.ljust(width)} {size}  {'/'.join(m.dtypes)}  {m.tensors} tensors")
    share = f", {report.trained / report.total:.2%} of {report.total:,}" if report.total else ""
    lines.append(f"  {'all'.ljust(width)} {report.trained:>15,} parameters{share}")
    if report.optimizer:
        keys = ", ".join(report.optimizer["keys"])
        lines.append(f"  optimizer: {keys} of {report.optimizer['weights']} weights")
    if report.config:
        lines += ["  config:", *(f"    {line}" for line in report.config.splitlines())]
    lines += [f"  DAMAGED: {problem}" for problem in report.damage] or ["  no damage found"]
    return "\n".join(lines)
