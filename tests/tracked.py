"""Runs of Weights & Biases and Trackio, read back from their own files."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7


def wandb_records(file: Path) -> Iterator[Any]:
    """Records of an offline run: protocol buffers in LevelDB's log format, behind 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, parts = file.read_bytes(), HEADER, b""
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:  # no room for a record: filled with zeros
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        place += HEADER
        parts += data[place : place + length]
        place += length
        if kind in (1, 4):  # all of a record, or its last part
            record = Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def wandb_history(file: Path) -> list[dict[str, Any]]:
    """The rows of an offline run."""
    rows = []
    for record in wandb_records(file):
        if record.HasField("history"):
            items = record.history.item
            rows.append({i.key or ".".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows


def wandb_axes(file: Path) -> dict[str, str]:
    """Curves of an offline run that have an axis of their own."""
    metrics = [r.metric for r in wandb_records(file) if r.HasField("metric")]
    return {m.name: m.step_metric for m in metrics if m.step_metric}


def trackio_rows(folder: Path, project: str = "inlay") -> list[dict[str, Any]]:
    """The rows of all runs of a project: ``run``, ``step`` and the metrics."""
    import sqlite3

    with sqlite3.connect(folder / f"{project}.db") as base:
        found = base.execute("select run_name, step, metrics from metrics order by id").fetchall()
    return [{"run": run, "step": step, **json.loads(values)} for run, step, values in found]
