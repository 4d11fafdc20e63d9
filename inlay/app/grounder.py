"""Open what can point at a picture: a grounding checkpoint, or a multimodal model alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from inlay.app.assemble import Parts
from inlay.app.checkpoint_config import config_for_inference, config_of, training_checkpoint
from inlay.app.evaluate.answering import Answerer
from inlay.app.foreign_start import find_foreign
from inlay.app.open_model import open_model
from inlay.chat.grounder import Grounder
from inlay.chat.open import Opened
from inlay.convert.grounding import REFINER
from inlay.core.errors import ConfigError, ModelError
from inlay.data.grounding.collate import collate
from inlay.data.grounding.sequence import PROMPT, SequenceBuilder
from inlay.data.pictures import PictureOpener
from inlay.engine import checkpoint as ckpt
from inlay.engine.optim import trainable
from inlay.engine.snapshot import copy_weights
from inlay.models.grounding.adapters.generic import GenericAdapter

if TYPE_CHECKING:
    from PIL.Image import Image

SHIPPED_MODEL, SHIPPED_GROUNDER = "tiny_vlm", "tiny_grounder"
PATHS = ("pretrained_model_name_or_path", "checkpoint")


class OpenGrounder(Grounder):
    """A grounder that also talks."""

    def logits(self, image: Image, phrases: Sequence[str]) -> torch.Tensor:
        """Return mask logits ``[M, H, W]`` of phrases, each a caption of its own, on the CPU."""
        assert self.model is not None
        samples = [self._sample(image, [(text, True)]) for text in phrases]
        batch = collate(samples, PictureOpener(self.image_processor)).to(self.lmm.device)
        with self._running():
            return torch.cat(self.model.predict(**batch.inputs)).float().cpu()

    def answerer(self) -> Answerer:
        """Return what answers questions about pictures, with the template of the grounding."""
        talking = getattr(self.lmm, "model", self.lmm)
        opened = Opened(talking, self.tokenizer, self.image_processor)
        return Answerer(opened, self.builder.template)

    def answer(
        self, pictures: Sequence[Image], text: str, max_new_tokens: int, prefix: str = ""
    ) -> str:
        """Answer a question about RGB pictures, greedily; ``prefix``: how the answer begins."""
        return self.answerer()(list(pictures), text, max_new_tokens, prefix)


def open_grounder(
    model: str | None = None,
    checkpoint: str | None = None,
    config: str | None = None,
    *,
    training_free: bool = False,
    device: str | None = None,
    dtype: str = "auto",
) -> OpenGrounder:
    """Open a grounder for inference; without any argument, the one that ships with the package.

    Args:
        model: folder or hub name of a multimodal model, or a checkpoint of a run that trained one;
            with a checkpoint, where that model lies now, if not where it lay in training. A
            checkpoint of a grounding run may stand here, too.
        checkpoint: a checkpoint of a grounding run (``iter_N`` or an export of it), or, with
            ``config``, a ``.pth`` file or a DeepSpeed folder of F-LMM. None: training-free
            pointing.
        config: a config or recipe that names model, tokenizer and image processor.
        training_free: point with the model alone, whatever else is there.
        dtype: of a model that no config names.

    Raises:
        CheckpointError: the checkpoint is missing, damaged or of another model.
        ConfigError: a config that cannot be read, or that is of no grounding run.
        ModelError: the model cannot be opened.
    """
    if checkpoint is not None and training_free:
        raise ConfigError("--checkpoint and --training-free exclude each other")
    if model is None and checkpoint is None and config is None:
        return _shipped(training_free, device)
    if checkpoint is None and config is None:
        assert model is not None
        run = _grounding_run(model)
        if run is None:
            return _alone(model, dtype, device)
        model, config = None, str(config_of(run))
        checkpoint = None if training_free else str(run)
    foreign = None if checkpoint is None else find_foreign(checkpoint)
    if config is None and foreign:
        raise ConfigError(
            f"'{checkpoint}' brings no config: name the recipe that it was trained with "
            "by --config (`inlay list-cfg -p frozen` prints them)"
        )
    folder = None if checkpoint is None or foreign else ckpt.locate(checkpoint)
    if config is None:
        assert folder is not None
        config = str(config_of(folder))
    own = None if folder is None else folder / REFINER
    values = _values(config, model, str(own) if own is not None and own.is_dir() else None)
    built = _build(values, checkpoint is None or training_free, device)
    if built.model is not None and checkpoint is not None:
        _load(built.model, str(foreign or checkpoint), folder)
    return built


def _shipped(training_free: bool, device: str | None) -> OpenGrounder:
    with ExitStack() as stack:
        data = files("inlay.app") / "demo_data"
        model, grounder = (
            str(stack.enter_context(as_file(data / name)))
            for name in (SHIPPED_MODEL, SHIPPED_GROUNDER)
        )
        if training_free:
            return _alone(model, "float32", device)
        return open_grounder(model, grounder, device=device)


def _alone(model: str, dtype: str, device: str | None) -> OpenGrounder:
    opened = open_model(model, dtype=dtype)
    if opened.image_processor is None:
        raise ModelError(f"'{model}' reads text only: name a model that takes pictures")
    lmm = GenericAdapter(opened.model)
    lmm = lmm if device is None else lmm.to(device)
    return OpenGrounder(lmm, SequenceBuilder(opened.tokenizer, opened.image_processor))


def _grounding_run(path: str) -> Path | None:
    """The folder of a checkpoint of a grounding run; None where ``path`` is anything else."""
    folder = training_checkpoint(path)
    if folder is None or "lmm" not in config_for_inference(config_of(folder))["model"]:
        return None
    return folder


def _values(source: str, model: str | None, refiner: str | None) -> dict[str, Any]:
    """The config's values, with the paths of model and refiner as they are now, without a cache."""
    values: dict[str, Any] = copy.deepcopy(dict(config_for_inference(source)))
    node = values.get("model")
    if not isinstance(node, dict) or "lmm" not in node:
        raise ConfigError(f"{source} is no config of a grounding run: its model has no 'lmm'")
    node["cache"] = None
    for part, now in (("lmm", model), ("refiner", refiner)):
        old = _path_in(node.get(part))
        if now is not None and old is not None:
            values = _moved(values, old, now)
    return values


def _path_in(node: Any) -> str | None:
    if not isinstance(node, dict):
        return None
    return next((node[key] for key in PATHS if isinstance(node.get(key), str)), None)


def _moved(value: Any, old: str, new: str) -> Any:
    """The same values, paths at and under ``old`` at and under ``new``."""
    if isinstance(value, dict):
        return {key: _moved(inner, old, new) for key, inner in value.items()}
    if isinstance(value, list):
        return [_moved(inner, old, new) for inner in value]
    if isinstance(value, str) and (value == old or value.startswith(f"{old}/")):
        return new + value.removeprefix(old)
    return value


def builder_of(parts: Parts) -> SequenceBuilder:
    """Return what writes prompts and captions as a run's training does."""
    tokenizer, processor = parts.tokenizer(), parts.image_processor()
    data = parts.cfg["train_dataloader"]["dataset"]
    return SequenceBuilder(
        tokenizer,
        processor,
        template=data.get("template"),
        prompt=data.get("prompt", PROMPT),
        max_length=data.get("max_length"),
    )


def _build(values: dict[str, Any], training_free: bool, device: str | None) -> OpenGrounder:
    parts = Parts(values, seed=0)
    builder = builder_of(parts)
    if training_free:
        lmm = parts.builder.build(values["model"]["lmm"])
        return OpenGrounder(lmm if device is None else lmm.to(device), builder)
    model = parts.model()
    model = model.to(device or model.lmm.device)
    return OpenGrounder(model.lmm, builder, model.eval())


def _load(model: Any, checkpoint: str, folder: Path | None) -> None:
    if folder is None:
        from inlay.convert.flmm import load_flmm

        load_flmm(model, checkpoint)
        return
    from inlay.convert.flmm import check_lmm

    weights = ckpt.load_weights(folder)
    check_lmm(weights, dict(model.named_parameters()), checkpoint)
    copy_weights(trainable(model), weights, folder)
