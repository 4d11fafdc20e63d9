"""`inlay convert pth_to_hf`: a checkpoint becomes a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inlay.app.assemble import Parts
from inlay.app.train import checked_config
from inlay.convert.to_hf import export
from inlay.convert.verify import verify
from inlay.data import PROMPT_TEMPLATE
from inlay.engine import checkpoint as ckpt
from inlay.engine.optim import trainable
from inlay.engine.snapshot import copy_weights


def export_checkpoint(
    config: str,
    checkpoint: str,
    out_dir: str,
    *,
    fp32: bool = False,
    max_shard_size: str = "2GB",
    cfg_options: Sequence[str] = (),
) -> None:
    """Build the config's model, load the checkpoint's weights, export them, load them back.

    Args:
        fp32: save in float32; float16 otherwise, as in the original.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or of another model.
    """
    cfg = checked_config(config, cfg_options)
    folder = ckpt.locate(checkpoint)
    weights = ckpt.load_weights(folder)
    parts = Parts(cfg, seed=0)
    model = parts.model()
    copy_weights(trainable(model), weights, folder)
    data = cfg["train_dataloader"]["dataset"]
    template = data.get("template")
    export(
        model,
        parts.tokenizer(),
        Path(out_dir),
        dtype="float32" if fp32 else "float16",
        max_shard_size=max_shard_size,
        base_name=cfg["model"]["llm"].get("pretrained_model_name_or_path"),
        card={"Config": cfg.name, "Checkpoint": folder.name, "Data": _data_names(data)},
        template=PROMPT_TEMPLATE[template] if isinstance(template, str) else template,
    )
    verify(out_dir)


def _data_names(data: dict[str, Any]) -> str:
    """The sources of a data set as they may be told to others: names, not paths."""
    paths = [s.get("path") for s in data.get("sources") or [] if isinstance(s, dict)]
    flat = [p for path in paths for p in (path if isinstance(path, list) else [path])]
    return ", ".join(Path(str(p)).name if Path(str(p)).exists() else str(p) for p in flat)
