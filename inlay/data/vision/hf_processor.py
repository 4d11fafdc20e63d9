"""A model's own processor from its folder, without the parts that pictures do not need."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inlay.core.errors import ModelError
from inlay.data.vision.common import read_json_of


class Unused(dict):
    """The settings of a video or audio part in the part's place: saved again, never called."""

    _auto_class = None
    model_input_names: tuple[str, ...] = ()


def load_processor(path: str | Path, tokenizer: Any = None) -> Any:
    """Return the processor (image processor, tokenizer, text expansion) of an HF model.

    The class is the one that ``AutoProcessor`` would take. Its image processor is always the PIL
    one, so that the same picture gives the same bits with and without torchvision; its video and
    audio parts, some of which need torchvision, are replaced by their settings.

    Args:
        path: folder or hub name.
        tokenizer: the model's tokenizer, if it is loaded already.

    Raises:
        ModelError: there is no processor, or it cannot work without torchvision.
    """
    from transformers import AutoImageProcessor, AutoTokenizer, ProcessorMixin

    name = str(path)
    try:
        settings, _ = ProcessorMixin.get_processor_dict(name)
        kind = _class_of(name, settings)
        image_processor = AutoImageProcessor.from_pretrained(
            name, backend="pil", trust_remote_code=False
        )
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        raise ModelError(
            f"'{name}' must be the folder or hub name of an image-text-to-text model with its"
            f" processor's files: {error}"
        ) from None
    parts = {"image_processor": image_processor, "tokenizer": tokenizer}
    return _assemble(name, kind, parts, settings)


def _class_of(name: str, settings: dict[str, Any]) -> Any:
    from transformers import AutoConfig
    from transformers.models.auto.processing_auto import (
        PROCESSOR_MAPPING,
        processor_class_from_name,
    )

    files = ("preprocessor_config.json", "tokenizer_config.json")
    places = [settings, *(read_json_of(name, file) or {} for file in files)]
    title = next((p["processor_class"] for p in places if p.get("processor_class")), None)
    if title is None:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if type(config) not in PROCESSOR_MAPPING:
            raise ValueError(f"a {config.model_type} model has no processor for pictures")
        return PROCESSOR_MAPPING[type(config)]
    kind = processor_class_from_name(title)
    if kind is None or getattr(kind, "is_dummy", False):
        raise ValueError(
            f"{title} is not available here: it is not part of this transformers, or it needs"
            " torchvision"
        )
    return kind


def _assemble(name: str, kind: Any, parts: dict[str, Any], settings: dict[str, Any]) -> Any:
    for part in kind.get_attributes():
        if part not in parts:
            parts[part] = Unused(settings.get(part) or _settings_file(name, part))
    accepted = inspect.signature(kind.__init__).parameters
    extra = {k: v for k, v in settings.items() if k in accepted and k not in parts}
    processor = kind.__new__(kind)
    # __init__ holds each part against its base class; that of video processors needs torchvision
    processor.check_argument_for_proper_class = lambda argument_name, argument: type(argument)
    with _without_num2words(sys.modules[kind.__module__]):
        processor.__init__(**parts, **extra)
    del processor.check_argument_for_proper_class
    return processor


def _settings_file(name: str, part: str) -> dict[str, Any]:
    file = "video_preprocessor_config.json" if part == "video_processor" else ""
    return (read_json_of(name, file) if file else None) or {}


@contextlib.contextmanager
def _without_num2words(module: Any) -> Iterator[None]:
    """Let SmolVLM's class be made without num2words, which spells numbers in video prompts."""
    lacking = getattr(module, "num2words", str) is None
    if lacking:
        module.num2words = str
    try:
        yield
    finally:
        if lacking:
            module.num2words = None
