"""`inlay doctor`: are the libraries there, new enough, and can they be imported together."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from packaging.requirements import Requirement

from inlay.app.doctor.finding import FAIL, OK, WARN, Finding

PROJECT = Path(__file__).parents[3] / "pyproject.toml"
"""Of a checkout."""
PATIENCE = 120.0
"""Seconds that an import may take."""
QUANTISE = """
import torch, bitsandbytes.functional as F
device = "cuda" if torch.cuda.is_available() else "cpu"
weights = torch.randn(64, 64, device=device, dtype=torch.bfloat16)
packed, state = F.quantize_4bit(weights, quant_type="nf4")
error = (F.dequantize_4bit(packed, state) - weights).abs().mean().item()
assert error < 0.2, f"4-bit weights come back with an error of {error}"
print("4-bit weights work on", device)
"""
SET_UP = """
import torch
from inlay.engine.parallel.deepspeed_setup import set_up
set_up(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
print("can be imported")
"""


@dataclass(frozen=True)
class Probe:
    """Something to try in a process of its own: a broken library may end it.

    Attributes:
        name: of the distribution. code: what to run; what it prints last is told.
        status, advice: where it fails.
    """

    name: str
    code: str
    status: str
    advice: str


PROBES = (
    Probe(
        "torchvision",
        "import torchvision",
        FAIL,
        "it breaks `import peft` and transformers: pip uninstall torchvision (Inlay does not need "
        "it), or install the build that belongs to this torch",
    ),
    Probe(
        "peft",
        "import peft",
        FAIL,
        "mend torchvision if it fails, or pip install -U peft transformers",
    ),
    Probe("bitsandbytes", QUANTISE, WARN, "QLoRA, --bits and 8-bit optimizers do not work"),
    Probe("deepspeed", SET_UP, WARN, "--deepspeed does not work; --strategy fsdp does"),
)


def examine_versions() -> Iterator[Finding]:
    """Yield findings on the versions of what Inlay needs, against its own lower bounds."""
    needed, optional = requirements()
    found = {r.name: _version(r.name) for r in (*needed, *optional)}
    good = []
    for requirement in needed:
        version = found[requirement.name]
        if version and requirement.specifier.contains(version, prereleases=True):
            good.append(f"{requirement.name} {version}")
        else:
            yield _unmet(requirement, version, FAIL)
    yield Finding("libraries", "needed", OK, ", ".join(good))
    there = {r.name: r for r in optional if found[r.name]}
    good = []
    for name, requirement in there.items():
        version = found[name]
        assert version is not None
        if requirement.specifier.contains(version, prereleases=True):
            good.append(f"{name} {version}")
        else:
            yield _unmet(requirement, version, WARN)
    absent = sorted({r.name for r in optional} - there.keys())
    text = f"{', '.join(good) or 'none'}; not installed: {', '.join(absent) or 'none'}"
    yield Finding("libraries", "optional", OK, text)


def _unmet(requirement: Requirement, version: str | None, status: str) -> Finding:
    text = f"{version or 'not installed'}, Inlay needs {requirement.specifier}"
    wanted = f"{requirement.name}{requirement.specifier}"
    return Finding("libraries", requirement.name, status, text, f"pip install '{wanted}'")


def requirements() -> tuple[list[Requirement], list[Requirement]]:
    """Return what Inlay needs and what its extras need, development apart.

    A checkout's pyproject.toml goes before the metadata of what is installed.
    """
    if PROJECT.is_file():
        tables = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
        extras = tables["optional-dependencies"]
        lines = [r for name, group in extras.items() if name not in ("all", "dev") for r in group]
        return [Requirement(r) for r in tables["dependencies"]], [Requirement(r) for r in lines]
    needed, optional = [], []
    for line in metadata.requires("inlay") or ():
        requirement = Requirement(line)
        if requirement.marker is None:
            needed.append(requirement)
        elif requirement.name != "inlay" and not requirement.marker.evaluate({"extra": "dev"}):
            optional.append(requirement)
    return needed, optional


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def start_probes() -> Iterator[Finding]:
    """Begin to import what is installed of ``PROBES``; yield findings as they are asked for."""
    there = [probe for probe in PROBES if find_spec(probe.name) is not None]
    pool = ThreadPoolExecutor(2)
    tried = pool.map(try_out, there)
    pool.shutdown(wait=False)
    return tried


def try_out(probe: Probe) -> Finding:
    places = (str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH"))
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-W", "ignore", "-c", probe.code],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))},
        )
    except subprocess.TimeoutExpired:
        text = f"could not be tried: no answer in {PATIENCE:.0f} s"
        return Finding("libraries", probe.name, probe.status, text, probe.advice)
    if done.returncode == 0:
        said = done.stdout.strip().splitlines()
        return Finding("libraries", probe.name, OK, said[-1] if said else "can be imported")
    said = done.stderr.strip().splitlines() or [f"ended with exit code {done.returncode}"]
    reason = f"ended by signal {-done.returncode}" if done.returncode < 0 else said[-1]
    text = f"is installed, but does not work: {reason}"
    return Finding("libraries", probe.name, probe.status, text, probe.advice)
