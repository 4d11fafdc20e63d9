"""`inlay convert pth_to_hf`: a checkpoint becomes a Hugging Face folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inlay.app.assemble import Parts
from inlay.app.train import checked_config
from inlay.convert.to_hf import export
from inlay.engine import checkpoint as ckpt
from inlay.engine.optim import trainable
from inlay.core.errors import CheckpointError


def export_checkpoint(
    config: str,
    checkpoint: str,
    out_dir: str,
    *,
    fp32: bool = False,
    max_shard_size: str = "2GB",
    cfg_options: Sequence[str] = (),
    **kwargs: Any,
) -> Any:
    """Build the config's model, load the checkpoint's weights and export them.

    Args:
        fp32: save in float32; float16 otherwise, as in the original.
        kwargs: passed on to ``convert.to_hf.export``.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or of another model.
    """
    cfg = checked_config(config, cfg_options)
    folder = ckpt.locate(checkpoint)
    weights = ckpt.load_weights(folder)
    parts = Parts(cfg, seed=0)
    model = parts.model()
    parameters = trainable(model)
    if set(parameters) != set(weights):
        odd = sorted(set(parameters) ^ set(weights))
        raise CheckpointError(
            f"{folder} is a checkpoint of another model than {cfg.path} builds: "
            f"{len(odd)} weights differ, first '{odd[0]}'"
        )
    for name, parameter in parameters.items():
        parameter.data.copy_(weights[name])
    card = {"config": cfg.name, "checkpoint": folder.name, "data": _data_names(cfg)}
    return export(
        model,
        parts.tokenizer(),
        Path(out_dir),
        dtype="float32" if fp32 else "float16",
        max_shard_size=max_shard_size,
        base_name=cfg["model"]["llm"].get("pretrained_model_name_or_path"),
        card=card,
        **kwargs,
    )


def _data_names(cfg: Any) -> list[str]:
    sources = cfg["train_dataloader"]["dataset"].get("sources") or []
    return [str(s.get("path")) for s in sources if isinstance(s, dict)]
