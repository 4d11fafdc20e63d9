"""`inlay check --explain`: what a config would have done in the original, and does not do here."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from inlay.app.originals import settings
from inlay.app.originals.finding import Case, Data, Finding, Rows
from inlay.app.originals.rules import RULES
from inlay.config.files import missing_files
from inlay.core.errors import ConfigError, InlayError

WIDTH = 100


def explain(cfg: Mapping[str, Any], data: Data, devices: int = 1) -> list[Finding]:
    """Return what the original would have done wrong with a config, in the order of a run.

    Args:
        cfg: the values of a config file as it stands: names and types of the original, or ours.
        data: what is known of its training data, see :func:`read_data`.
        devices: that the run is counted for.

    Raises:
        ConfigError: fewer than one device.
    """
    if devices < 1:
        raise ConfigError(f"--gpus must be 1 or more, got {devices}")
    case = Case(settings.read(cfg), data, devices)
    return [finding for rule in RULES for finding in rule(case)]


def written(cfg: Any) -> Mapping[str, Any]:
    """The values of a loaded config before names of the original became ours."""
    return getattr(cfg, "original", None) or cfg


def read_data(cfg: Any) -> Data:
    """Read the training data of a loaded config, if they are here and can be read.

    Nothing is downloaded where ``HF_HUB_OFFLINE`` is set. What is missing is said in ``why``.
    """
    from inlay.app.assemble import Parts

    rows = read_rows(settings.read(written(cfg)))
    parts = Parts(cfg, seed=0)
    try:
        dataset = parts.loader("train").dataset
        tokenizer = parts.tokenizer()
    except (InlayError, OSError, ImportError) as error:
        return Data(why=_why(cfg, error), rows=rows)
    if not hasattr(dataset, "lengths"):
        return Data(why="a stream has no length", rows=rows)
    packed = getattr(dataset, "num_samples_total", len(dataset)) != len(dataset)
    expressions = list(_expressions(dataset))
    return Data(
        lengths=dataset.lengths,
        sizes=getattr(dataset, "source_sizes", None),
        trained=None if packed else dataset.loss_units,
        has_bos=None if tokenizer is None else tokenizer.bos_token_id is not None,
        rows=rows,
        sentences=sum(expressions),
        references=len(expressions),
    )


def _why(cfg: Any, error: Exception) -> str:
    """Why data could not be read: the files that are not here, or what the library says."""
    missing = [f"{p.path} ({p.got})" for p in missing_files(cfg, "warn")]
    if missing:
        return f"not here: {', '.join(missing)}"
    return str(error).partition("\n")[0].partition(". ")[0]


def _expressions(dataset: Any) -> Iterator[int]:
    """Yield the number of sentences of every reference of RefCOCO."""
    for source in getattr(dataset, "sources", ()):
        pictures = source.expressions() if hasattr(source, "expressions") else ()
        for picture in pictures:
            yield from (len(reference.sentences) for reference in picture.references)


def read_rows(there: settings.Original) -> Rows | None:
    """Look through the local data files; None where there are none."""
    from inlay.data.readers import open_local

    files = [f for node in there.datasets for f in _files(node) if Path(f).expanduser().is_file()]
    if there.kind == "grounding" or not files:
        return None
    pictures = marked = unmarked = answers = untexted = systems = 0
    try:
        for file in files:
            for row in open_local(file, "train").rows():
                value = row.value if isinstance(row.value, dict) else {}
                turns = _dicts(value.get("conversation"))
                with_mark = sum("output_with_loss" in turn for turn in turns)
                marked, unmarked = marked + with_mark, unmarked + len(turns) - with_mark
                messages = _dicts(value.get("messages"))
                said = [m for m in messages if m.get("role") == "assistant"]
                systems += sum(m.get("role") == "system" for m in messages)
                systems += sum(bool(turn.get("system")) for turn in turns)
                answers += len(said)
                untexted += sum(not isinstance(m.get("loss"), str) for m in said)
                texts = (str(m.get("value")) for m in _dicts(value.get("conversations")))
                pictures += sum(text.count("<image>") > 1 for text in texts)
    except InlayError:  # the reading of the data set says what is wrong, with its place
        return None
    return Rows(pictures, unmarked if marked else 0, answers, untexted, systems)


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _files(node: Mapping[str, Any]) -> Iterator[str]:
    """Yield the paths that a data set node names, whatever they are."""
    if isinstance(node.get("data_path"), str):
        yield node["data_path"]
    inner = node.get("dataset")
    if isinstance(inner, Mapping):
        yield from _texts(inner.get("data_files"))
    for source in node.get("sources") or ():
        yield from _texts(source.get("path") if isinstance(source, Mapping) else source)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(item)


def describe(findings: list[Finding], data: Data, devices: int = 1) -> str:
    """Return the findings as text, each with what happens there and what happens here."""
    on = "1 device" if devices == 1 else f"{devices} devices"
    lines = [
        f"What the original would have done with this config, and Inlay does not: {len(findings)}"
    ]
    if data.lengths is None:
        lines += textwrap.wrap(
            f"The training data were not read, so that figures are missing: {data.why}",
            WIDTH,
            initial_indent="  ",
            subsequent_indent="  ",
        )
    else:
        tokens = int(data.lengths.sum())
        lines.append(f"  Counted for {on}, {len(data.lengths):,} samples of {tokens:,} tokens")
    for number, finding in enumerate(findings, 1):
        lines += ["", f"{number:>3}. {finding.title}"]
        lines += _wrapped("there: ", finding.there) + _wrapped("here:  ", finding.here)
        if finding.unknown:
            lines += _wrapped("not known: ", finding.unknown)
    return "\n".join(lines)


def _wrapped(label: str, text: str) -> list[str]:
    indent = " " * 5
    return textwrap.wrap(
        label + text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + " " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )


def as_json(findings: list[Finding], data: Data, devices: int = 1) -> dict[str, Any]:
    """Return JSON values: ``devices``, ``samples`` and ``tokens`` (or why not), ``findings``."""
    found: dict[str, Any] = {"devices": devices}
    if data.lengths is None:
        found["data_unknown"] = data.why
    else:
        found |= {"samples": len(data.lengths), "tokens": int(data.lengths.sum())}
    return {**found, "findings": [dataclasses.asdict(finding) for finding in findings]}
