"""`inlay doctor`: is everything here that training needs, and does it do what we rely on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from inlay.app.doctor.finding import FAIL, OK, WARN, Finding

NAME_WIDTH = 16


def examine(work_dir: str | Path) -> Iterator[Finding]:
    """Yield the findings, quick ones first; libraries are tried beside it, in other processes.

    Args:
        work_dir: of a run; it need not be there yet, and is not made.
    """
    from inlay.app.doctor.libraries import examine_versions, start_probes
    from inlay.app.doctor.machine import examine_environment, examine_folders, examine_machine

    yield from examine_machine()
    yield from examine_versions()
    yield from examine_folders(Path(work_dir))
    yield from examine_environment(os.environ)
    probes = start_probes()

    from inlay.app.doctor.devices import examine_devices
    from inlay.app.doctor.packing import examine_packing

    yield from examine_devices()
    yield from examine_packing()
    yield from probes


def line(finding: Finding) -> str:
    """A finding as text; what to do stands below."""
    status = "FAIL" if finding.status == FAIL else finding.status
    text = f"{status:<4}  {finding.name:<{NAME_WIDTH}}  {finding.text}"
    return f"{text}\n{'':<{NAME_WIDTH + 8}}-> {finding.advice}" if finding.advice else text


def summary(findings: Sequence[Finding]) -> str:
    """One line on how many of which kind."""
    counts = {status: sum(f.status == status for f in findings) for status in (OK, WARN, FAIL)}
    if counts[FAIL]:
        return f"{counts[FAIL]} FAIL, {counts[WARN]} warnings: training will not work as it should"
    return f"all is well: {counts[OK]} ok, {counts[WARN]} warnings"


def has_failed(findings: Sequence[Finding]) -> bool:
    return any(f.status == FAIL for f in findings)


def as_json(findings: Sequence[Finding]) -> str:
    """``{"ok": bool, "findings": [{group, name, status, text, advice}]}``."""
    value = {"ok": not has_failed(findings), "findings": [asdict(f) for f in findings]}
    return json.dumps(value, ensure_ascii=False)
