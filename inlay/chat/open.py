"""Open whatever can be talked to: a language model, LLaVA parts, nanoVLM, any model with eyes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlay.core.errors import ModelError
from inlay.core.types import ImageProcessor


@dataclass(frozen=True)
class Opened:
    """What a chat needs.

    Attributes:
        image_processor: None for a model that reads text only.
        template: the chat template that it was trained with, where that is known; None for the
            tokenizer's own.
    """

    model: Any
    tokenizer: Any
    image_processor: ImageProcessor | None = None
    template: Any = None


def open_model(
    path: str,
    *,
    adapter: str | None = None,
    llava: str | None = None,
    visual_encoder: str | None = None,
    visual_select_layer: int | None = None,
    dtype: str = "auto",
    bits: int | None = None,
    offload_folder: str | None = None,
) -> Opened:
    """Load a model for inference with its tokenizer and, if it has eyes, its image processor.

    Args:
        path: folder or hub name: a language model, an image-text-to-text model, LLaVA parts, or
            nanoVLM.
        adapter: a PEFT adapter for it; its tokenizer is used where it has one.
        llava: LLaVA parts that give the language model ``path`` eyes, folder or hub name.
        visual_encoder: the vision encoder of parts that hold none.
        visual_select_layer: the encoder's layer; None takes the one that the projector names.
        dtype, bits, offload_folder: see ``load_causal_lm``; a model with eyes is not offloaded.

    Raises:
        ModelError: something is missing, or the parts do not fit each other.
    """
    from inlay.models.lm import load_causal_lm
    from inlay.models.load_vlm import kind_of, load_vlm

    options: dict[str, Any] = {"dtype": dtype, "bits": bits}
    kind = "parts" if llava else kind_of(path)
    if visual_encoder and kind != "parts":
        raise ModelError("--visual-encoder goes with --llava, or with a folder of LLaVA parts")
    if kind and offload_folder:
        raise ModelError("--offload-folder works for language models only: use --bits instead")
    if kind == "parts":
        layer = "stored" if visual_select_layer is None else visual_select_layer
        options.update(adapter=adapter, visual_select_layer=layer)
        base = path if llava else None
        return _open_parts(base, _local(llava or path), visual_encoder, options)
    if kind is None:
        model = load_causal_lm(path, adapter=adapter, offload_folder=offload_folder, **options)
        return Opened(model, load_tokenizer(path, adapter))
    from inlay.data.vision.load import load_image_processor

    path = _local(path) if kind == "nanovlm" else path
    tokenizer = _nanovlm_tokenizer(path) if kind == "nanovlm" else load_tokenizer(path, adapter)
    model = load_vlm(path, adapter=adapter, **options)
    return Opened(model, tokenizer, load_image_processor(path, tokenizer))


def load_tokenizer(path: str, adapter: str | None = None) -> Any:
    """The adapter's tokenizer where it has one (it carries the template of its training).

    Raises:
        ModelError: there is none.
    """
    from transformers import AutoTokenizer

    own = adapter is not None and (Path(adapter) / "tokenizer_config.json").is_file()
    source = adapter if own else path
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load a tokenizer from '{source}': {error}") from error


def _open_parts(
    llm_path: str | None, parts: str, visual_encoder: str | None, options: dict[str, Any]
) -> Opened:
    """Open parts on ``llm_path``, or, with None, on what they were trained on."""
    from inlay.data.vision.load import FILE, load_image_processor
    from inlay.data.vision.square import SquareImageProcessor
    from inlay.models.load_vlm import load_parts

    own = Path(parts) / "visual_encoder"
    if own.is_dir() and visual_encoder:
        raise ModelError(f"leave --visual-encoder out: '{parts}' holds a trained one")
    bases = _bases(parts)
    llm_path = llm_path or bases.get("llm") or parts
    if not own.is_dir():
        visual_encoder = visual_encoder or bases.get("visual_encoder")
    model = load_parts(llm_path, parts, visual_encoder, **options)
    tokenizer = load_tokenizer(llm_path, parts)
    if (Path(parts) / FILE).is_file():
        return Opened(model, tokenizer, load_image_processor(parts, tokenizer))
    processor = SquareImageProcessor(  # XTuner's parts say nothing of pictures: its chat pads them
        tokenizer,
        visual_encoder or own,
        pixel_shuffle_factor=model.projector.config.pixel_shuffle_factor,
        pad_to_square=True,
    )
    return Opened(model, tokenizer, processor)


def _bases(parts: str) -> dict[str, str]:
    """What the parts were trained on, as their export has recorded it."""
    try:
        record = json.loads((Path(parts) / "inlay_export.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return record.get("bases") or {}


def _nanovlm_tokenizer(folder: str) -> Any:
    """The folder's own, or that of its language model with nanoVLM's chat template."""
    if (Path(folder) / "tokenizer_config.json").is_file():
        return load_tokenizer(folder)
    config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    tokenizer = load_tokenizer(config["lm_tokenizer"])
    tokenizer.chat_template = config.get("lm_chat_template") or tokenizer.chat_template
    return tokenizer


def _local(path: str) -> str:
    """A folder as it is, a hub name as the folder of its download."""
    if Path(path).is_dir():
        return path
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"'{path}' is neither a folder nor a model on the hub: {error}") from error
