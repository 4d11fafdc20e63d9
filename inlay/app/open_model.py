"""The one door to what can be talked to: a model on disk, on the hub, or a checkpoint of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from inlay.app.assemble import Parts, place_model
from inlay.app.checkpoint_config import config_for_inference, config_of, training_checkpoint
from inlay.chat import open as chat_open
from inlay.chat.open import Opened
from inlay.core.errors import ConfigError
from inlay.engine import checkpoint as ckpt
from inlay.engine.optim import trainable
from inlay.engine.parallel.single import SingleDevice
from inlay.engine.snapshot import copy_weights
from inlay.models.lm import default_device, torch_dtype
from inlay.models.sft import SupervisedFinetune


def open_model(path: str, *, dtype: str = "auto", **options: Any) -> Opened:
    """Load a model for inference with its tokenizer and, if it has eyes, its image processor.

    Args:
        path: what ``chat.open.open_model`` opens, or a checkpoint of a training run (``iter_N``,
            ``best_...``, or a work dir for its last one) of any kind: full, LoRA, QLoRA, LLaVA,
            a VLM. Of a grounding run it is the multimodal model. A checkpoint holds what was
            trained: the rest is loaded from where the run has loaded it.
        dtype: ``"auto"`` leaves weights as stored, or as the run has built them.
        options: of ``chat.open.open_model``, for models that are no checkpoint.

    Raises:
        CheckpointError: the checkpoint is damaged, or does not fit its config.
        ConfigError: its config cannot be used, or an option that has no effect on it.
        ModelError: something is missing, or the parts do not fit each other.
    """
    folder = training_checkpoint(path)
    if folder is None:
        return chat_open.open_model(path, dtype=dtype, **options)
    given = [f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None]
    if given:
        raise ConfigError(
            f"{', '.join(given)} cannot be put on a training checkpoint, which knows its own "
            f"parts: leave it out, or export {folder} first (inlay convert pth_to_hf)"
        )
    return _open_checkpoint(folder, dtype)


def _open_checkpoint(folder: Path, dtype: str) -> Opened:
    cfg = config_for_inference(config_of(folder))
    if "lmm" in cfg["model"]:
        from inlay.app.grounder import open_grounder

        # The multimodal model of a grounding run is frozen: nothing of the checkpoint is its own.
        grounder = open_grounder(config=str(config_of(folder)), dtype=dtype)
        talking = getattr(grounder.lmm, "model", grounder.lmm)
        template = grounder.builder.template
        return Opened(talking, grounder.tokenizer, grounder.image_processor, template)
    weights = ckpt.load_weights(folder)
    parts = Parts(cfg, seed=0)
    model = place_model(parts.model(), SingleDevice(torch.device(default_device())))
    copy_weights(trainable(model), weights, folder)
    quantised = any(getattr(m, "is_quantized", False) for m in model.modules())
    if dtype != "auto" and not quantised:
        model.to(torch_dtype(dtype))
    data = cfg["train_dataloader"]["dataset"]
    processor = parts.image_processor()
    if isinstance(model, SupervisedFinetune):
        model.llm.config.use_cache = True
        model = model.llm
    return Opened(model.eval(), parts.tokenizer(), processor, data.get("template"))
