"""Verify an export by loading it: in a process that never imports Inlay, wherever others can."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from inlay.convert import probe
from inlay.convert.ours import OURS, look_here, needs_inlay
from inlay.convert.record import columns_of, read_record
from inlay.convert.speech import stop_check, template_check
from inlay.core.errors import ModelError

ELSEWHERE = 1e-2
"""Difference of logits allowed on another machine or torch than the export's: rounding."""


def verify(
    folder: str | Path, *, base: str | None = None, reference_logits: Any = None
) -> dict[str, Any]:
    """Load an export back with plain transformers and peft, compare, print a table of the checks.

    Logits must be equal bit for bit where hardware and torch are those of the export. What Inlay
    alone can load (LLaVA parts, nanoVLM, InternLM2's layout) is loaded by it; where such parts
    stand on base models of another precision, the record says what rounding may do.

    Args:
        folder: an export of ``inlay convert``.
        base: base model of an adapter, when it is not where the adapter says.
        reference_logits: float32 ``[N, vocab]`` of the probe tokens, to compare all of them with;
            by default those of the record, a digest of all and values of some.

    Returns:
        ``{"folder", "checks": {name: {"ok", "detail"}}, "difference"}``.

    Raises:
        ModelError: a check failed, or ``folder`` is not an export.
    """
    folder = Path(folder)
    record = read_record(folder)
    look = look_here if record["kind"] in OURS else _look
    answer, logits = look(folder, record, base)
    if "error" in answer:
        raise ModelError(f"the export '{folder}' does not load: {answer['error']}")
    difference = _difference(record, logits, reference_logits)
    same = answer["environment"] == record["environment"] and record["device"] == "cpu"
    checks = _checks(record, answer)
    allowed = max(record.get("tolerance", 0.0), 0.0 if same else ELSEWHERE)
    checks["logits"] = (
        difference <= allowed,
        f"largest difference {difference:.3g}" + ("" if same else " (other hardware or torch)"),
    )
    return conclude(folder, checks, difference)


def conclude(
    folder: Path, checks: dict[str, tuple[bool, str]], difference: float
) -> dict[str, Any]:
    """Print a table of checks (whether each holds, and what was found) and return it as ``verify``
    does.

    Raises:
        ModelError: a check failed.
    """
    report = {
        "folder": str(folder),
        "checks": {k: {"ok": ok, "detail": detail} for k, (ok, detail) in checks.items()},
        "difference": difference,
    }
    _print(report)
    failed = [f"{k}: {detail}" for k, (ok, detail) in checks.items() if not ok]
    if failed:
        raise ModelError(f"the export '{folder}' failed its verification. {'; '.join(failed)}")
    return report


def _look(folder: Path, record: dict[str, Any], base: str | None) -> tuple[dict[str, Any], Any]:
    """Run the probe; return its answer and the logits, float32 ``[N, vocab]``."""
    import torch
    from safetensors.torch import load_file

    adapter = record["kind"] == "adapter"
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "logits.safetensors"
        request = {
            "folder": str(folder),
            "auto": record.get("auto", "AutoModelForCausalLM"),
            "base": (base or _base_of(folder)) if adapter else None,
            "load_dtype": record["load_dtype"],
            "quantization": record["quantization"],
            "ids": record["probe_ids"],
            "images": record.get("images"),
            "text": record["text"],
            "conversations": record.get("conversations", []),
            "threads": torch.get_num_threads(),
            "logits_file": str(file),
        }
        answer = _here(request) if needs_inlay(record) else _elsewhere(request)
        return answer, load_file(file)["logits"] if file.is_file() else None


def _here(request: dict[str, Any]) -> dict[str, Any]:
    """Run the probe in this process, with Inlay's own models."""
    import inlay.models.internlm2  # noqa: F401 (makes transformers know it)

    try:
        return probe.look(request)
    except Exception as error:  # as the script answers
        return {"error": f"{type(error).__name__}: {error}"}


def _elsewhere(request: dict[str, Any]) -> dict[str, Any]:
    """Run the probe script in a process that never imports Inlay."""
    done = subprocess.run(
        [sys.executable, "-I", str(Path(probe.__file__).resolve())],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    if done.returncode != 0:
        folder = request["folder"]
        raise ModelError(f"the export '{folder}' does not load: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout)


def _base_of(folder: Path) -> str:
    config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
    base = config.get("base_model_name_or_path")
    if not base:
        raise ModelError(f"the adapter '{folder}' names no base model. Give it with --base.")
    return base


def _difference(record: dict[str, Any], logits: Any, reference: Any) -> float:
    import torch

    if reference is not None:
        return float((logits - reference).abs().max())
    if probe.digest(logits) == record["logits_sha256"]:
        return 0.0
    recorded = torch.tensor(record["logits"])
    if logits.shape[0] != recorded.shape[0]:
        return float("inf")
    sampled = float((logits[:, columns_of(logits.shape[1])] - recorded).abs().max())
    # Equal where sampled, yet not equal everywhere: still a difference.
    return sampled or torch.finfo(torch.float32).tiny


def _checks(record: dict[str, Any], answer: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    problems, misfits = answer["tensors"], answer["misfits"]
    by = "without inlay" if answer["foreign"] else "inlay imported"
    checks = {
        "process": (answer["foreign"] or needs_inlay(record), by),
        "tensors": (not problems, "; ".join(problems[:3]) or "none empty, all finite"),
        "weights": (
            answer["weights_sha256"] == record["weights_sha256"],
            f"sha256 {answer['weights_sha256'][:12]}, written {record['weights_sha256'][:12]}",
        ),
        "loading": (not misfits, "; ".join(misfits[:3]) or "every weight found its place"),
    }
    if answer["idle"] or record["kind"] == "adapter":
        why = f"would change nothing: {'; '.join(answer['idle'])}"
        checks["adapter"] = (not answer["idle"], why if answer["idle"] else "changes the model")
    return checks | _text_checks(record, answer) if "tokens" in answer else checks


def _text_checks(record: dict[str, Any], answer: dict[str, Any]) -> dict[str, tuple[bool, str]]:
    checks = {
        "tokenizer": (answer["tokens"] == record["tokens"], f"{len(answer['tokens'])} tokens"),
        "chat template": (
            answer["chat_template"] == record["chat_template"],
            "present" if answer["chat_template"] else "none",
        ),
    }
    if checks["chat template"][0] and (recorded := record.get("conversations")):
        checks["chat template"] = template_check(recorded, answer["conversations"])
    if answer["eos"] is not None:
        checks["stop token"] = stop_check(record, answer["eos"])
    return checks


def _print(report: dict[str, Any]) -> None:
    print(f"verify {report['folder']}")
    for name, check in report["checks"].items():
        print(f"  {'ok  ' if check['ok'] else 'FAIL'}  {name:<14} {check['detail']}")
