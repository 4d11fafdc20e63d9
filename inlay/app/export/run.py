"""`inlay convert pth_to_hf`: a checkpoint becomes a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inlay.app.assemble import Parts
from inlay.app.export.card_facts import card_facts
from inlay.app.export.grounding import FLMM, export_grounding, verify_grounding
from inlay.app.foreign_start import put_weights, read_weights
from inlay.app.train import checked_config
from inlay.convert.grounding import KIND as GROUNDING
from inlay.convert.internlm2 import in_layout, is_internlm2
from inlay.convert.llava import export_llava
from inlay.convert.merge import merge_parts
from inlay.convert.nanovlm import export_nanovlm
from inlay.convert.official import export_official
from inlay.convert.parts import export_parts
from inlay.convert.record import read_record
from inlay.convert.to_hf import export
from inlay.convert.verify import verify
from inlay.core.errors import ModelError
from inlay.core.secrets import redact
from inlay.data import PROMPT_TEMPLATE
from inlay.models.grounding.model import FrozenGrounding
from inlay.models.llava import LLaVAModel

CONFIG = "xtuner_config.py"
"""The config of the run in an export, by the name that XTuner gives it."""


def export_checkpoint(
    config: str,
    checkpoint: str,
    out_dir: str,
    *,
    fp32: bool = False,
    max_shard_size: str = "2GB",
    save_format: str = "xtuner",
    layout: str = "own",
    cfg_options: Sequence[str] = (),
) -> None:
    """Build the config's model, load the checkpoint's weights, export them, load them back.

    Args:
        fp32: save in float32; float16 otherwise, as in the original.
        save_format: of a ``LLaVAModel``: ``"xtuner"`` (the parts that were trained), ``"whole"``
            (all of them, adapters merged), ``"huggingface"``, ``"official"`` (of
            LLaVA's authors) or ``"nanovlm"``; of a
            ``FrozenGrounding``: ``"xtuner"`` (a folder) or ``"flmm"`` (F-LMM's one file).
        layout: ``"own"``, or ``"llama"`` for an InternLM2 under the names of transformers' Llama.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or of another model.
        ModelError: the format cannot express the model.
    """
    saved = read_weights(checkpoint)
    parts = Parts(checked_config(config, cfg_options), seed=0)
    model = parts.model()
    put_weights(model, saved)
    export_model(
        parts,
        model,
        out_dir,
        saved.path.name,
        fp32=fp32,
        max_shard_size=max_shard_size,
        save_format=save_format,
        layout=layout,
        folder=saved.path,
    )


def export_model(
    parts: Parts,
    model: Any,
    out_dir: str | Path,
    checkpoint: str,
    *,
    fp32: bool = False,
    max_shard_size: str = "2GB",
    save_format: str = "xtuner",
    layout: str = "own",
    folder: Path | None = None,
) -> None:
    """Export a model in memory, which is cast in place, with the config of its run, and load the
    folder back.

    Args:
        parts: of the run that it comes from.
        checkpoint: what the model card calls its weights.
        folder: the checkpoint, or the work dir of the run: what the model card tells of it.
        fp32, max_shard_size, save_format, layout: see :func:`export_checkpoint`.

    Raises:
        ModelError: the format cannot express the model.
    """
    if isinstance(model, FrozenGrounding):
        given: dict[str, Any] = {"fp32": fp32, "save_format": save_format, "folder": folder}
        export_grounding(parts, model, Path(out_dir), checkpoint, **given)
        return
    if save_format == FLMM:
        raise ModelError(
            f"--save-format {FLMM} is for a FrozenGrounding, this is a {type(model).__name__}"
        )
    cfg, processor = parts.cfg, parts.image_processor()
    data = cfg["train_dataloader"]["dataset"]
    template = data.get("template")
    options = {
        "dtype": "float32" if fp32 else "float16",
        "max_shard_size": max_shard_size,
        "card": card_facts(cfg, checkpoint, folder),
        "template": PROMPT_TEMPLATE[template] if isinstance(template, str) else template,
    }
    if isinstance(model, LLaVAModel):
        saw_training = _is_trained(model.visual_encoder)
        if save_format != "xtuner":
            merge_parts(model)
        if save_format in ("huggingface", "official", "nanovlm") and is_internlm2(model.llm):
            layout = "llama"  # these formats know no InternLM2
        model.llm = in_layout(model.llm, layout)
        if save_format == "official":
            options["with_encoder"] = saw_training
        _export_llava(model, parts.tokenizer(), processor, str(out_dir), save_format, options)
    elif save_format != "xtuner":
        raise ModelError(
            f"--save-format {save_format} is for a LLaVAModel: a {type(model).__name__} has one "
            "format, that of transformers or peft. Leave the option out."
        )
    else:
        node = cfg["model"].get("vlm") or cfg["model"]["llm"]
        base = node.get("pretrained_model_name_or_path")
        options.update(base_name=base, image_processor=processor)
        model.llm = in_layout(model.llm, layout)
        export(model, parts.tokenizer(), out_dir, **options)
    _write_config(parts, Path(out_dir))
    verify(out_dir)


def _write_config(parts: Parts, folder: Path) -> None:
    """Write the config of the run into an export, without secrets."""
    source = redact(parts.cfg.source, is_code=True)
    (folder / CONFIG).write_text(source, encoding="utf-8")


def verify_export(folder: str, base: str | None = None) -> None:
    """Open an export and compare it with its record; see ``convert.verify.verify``.

    Raises:
        ModelError: a check failed, or ``folder`` is not an export.
    """
    if read_record(Path(folder))["kind"] == GROUNDING:
        verify_grounding(Path(folder), base)
    else:
        verify(folder, base=base)


def _export_llava(
    model: LLaVAModel,
    tokenizer: Any,
    processor: Any,
    out_dir: str,
    save_format: str,
    options: dict[str, Any],
) -> None:
    if save_format == "xtuner":
        export_parts(model, tokenizer, processor, out_dir, **options)
    elif save_format == "whole":
        export_parts(model, tokenizer, processor, out_dir, whole=True, **options)
    elif save_format == "huggingface":
        export_llava(model, tokenizer, processor, out_dir, **options)
    elif save_format == "official":
        export_official(model, tokenizer, processor, out_dir, **options)
    else:
        del options["max_shard_size"]  # its layout is one file
        export_nanovlm(model, tokenizer, processor, out_dir, **options)


def _is_trained(part: Any) -> bool:
    """Whether a part has an adapter, or weights that were trained."""
    return any(p.requires_grad for p in part.parameters())
