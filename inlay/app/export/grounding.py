"""Export of a grounding run: the light folder of ``convert.grounding``, or F-LMM's one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from inlay.app.assemble import Parts
from inlay.app.export.card_facts import card_facts
from inlay.app.grounder import OpenGrounder, builder_of, open_grounder
from inlay.config.dump import dump_resolved
from inlay.convert.flmm import load_flmm, write_flmm
from inlay.convert.grounding import (
    PHRASES,
    difference,
    flmm_weights,
    probe_picture,
    round_weights,
    write_grounding,
)
from inlay.convert.probe import environment, read_weights
from inlay.convert.record import read_record
from inlay.convert.verify import ELSEWHERE, conclude
from inlay.core.errors import ModelError
from inlay.engine.optim import trainable
from inlay.models.grounding.model import FrozenGrounding

FLMM = "flmm"
"""The format that is one ``.pth`` file, as F-LMM publishes them."""


def export_grounding(
    parts: Parts,
    model: FrozenGrounding,
    out: Path,
    checkpoint: str,
    *,
    fp32: bool = False,
    save_format: str = "xtuner",
    folder: Path | None = None,
) -> None:
    """Export a grounding model, which is rounded in place, and open what was written.

    Args:
        parts: of the run that it comes from.
        out: folder, or, for F-LMM's format, a file that ends in ``.pth``.
        checkpoint: what the model card calls its weights.
        fp32: write float32; float16 otherwise.
        save_format: ``"xtuner"`` (the only folder that there is) or ``"flmm"``.
        folder: see ``export.export_model``.

    Raises:
        ModelError: another format, a target that cannot be, or an export that shows other masks.
        CheckpointError: F-LMM has no place for what the model has.
    """
    if save_format not in ("xtuner", FLMM):
        raise ModelError(
            f"--save-format {save_format} is for a LLaVAModel: of a FrozenGrounding a folder is "
            f"written (leave the option out), or F-LMM's file (--save-format {FLMM})"
        )
    model.cache = None  # the probe is none of the run's pictures
    grounder = OpenGrounder(model.lmm, builder_of(parts), model.to(model.lmm.device))
    dtype = torch.float32 if fp32 else torch.float16
    round_weights(model, dtype)
    logits = grounder.logits(probe_picture(), PHRASES)
    if save_format == FLMM:
        _write_flmm(grounder, out, dtype, logits)
        return
    write_grounding(
        model,
        out,
        config=dump_resolved(parts.cfg),
        dtype=dtype,
        logits=logits,
        base=str(parts.cfg["model"]["lmm"].get("pretrained_model_name_or_path", "")),
        card=_facts(parts, checkpoint, folder),
    )
    verify_grounding(out, reference=logits)


def verify_grounding(
    folder: Path, base: str | None = None, reference: torch.Tensor | None = None
) -> dict[str, Any]:
    """Open an export, compare its masks of the probe with those that it had, print the checks.

    Args:
        base: the multimodal model, when it is not where the config says.
        reference: logits ``[M, H, W]`` of the probe, instead of what the record holds of them.

    Returns: as ``convert.verify.verify``.

    Raises:
        ModelError: a check failed.
        InlayError: the export cannot be opened.
    """
    record = read_record(folder)
    opened = open_grounder(base, str(folder))
    change = difference(record, opened.logits(probe_picture(), record["phrases"]), reference)
    here = (environment(), opened.lmm.device.type)
    same = here == (record["environment"], record["device"]) and here[1] == "cpu"
    found, problems = read_weights(folder)
    wanted = record["weights_sha256"]
    checks = {
        "tensors": (not problems, "; ".join(problems[:3]) or "none empty, all finite"),
        "weights": (found == wanted, f"sha256 {found[:12]}, written {wanted[:12]}"),
        "masks": (
            change <= (0.0 if same else ELSEWHERE),
            f"{len(record['phrases'])} phrases, largest difference of logits {change:.3g}"
            + ("" if same else " (other hardware or torch)"),
        ),
    }
    return conclude(folder, checks, change)


def _write_flmm(
    grounder: OpenGrounder, out: Path, dtype: torch.dtype, logits: torch.Tensor
) -> None:
    """Write F-LMM's file and load it into the same model, emptied of all that was trained."""
    if out.suffix != ".pth":
        raise ModelError(f"F-LMM's format is one file: name it FILE.pth, not '{out}'")
    assert grounder.model is not None
    model = grounder.model
    write_flmm({name: t.to(dtype) for name, t in flmm_weights(model).items()}, out)
    with torch.no_grad():
        for weight in trainable(model).values():
            weight.zero_()
    load_flmm(model, out)
    change = difference({}, grounder.logits(probe_picture(), PHRASES), logits)
    detail = f"{len(PHRASES)} phrases, largest difference of logits {change:.3g}"
    conclude(out, {"masks": (change <= ELSEWHERE, detail)}, change)


def _facts(parts: Parts, checkpoint: str, folder: Path | None) -> dict[str, Any]:
    """What the model card tells of the training."""
    refiner = "none" if parts.cfg["model"].get("refiner") is None else "in refiner/"
    facts = card_facts(parts.cfg, checkpoint, folder)
    return {"Refiner": refiner, **facts}
