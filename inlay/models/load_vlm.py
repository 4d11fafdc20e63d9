"""Load a vision-language model for inference, whatever the layout of its folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from inlay.core.errors import ModelError
from inlay.models.llava import LLaVAModel
from inlay.models.lm import (
    default_device,
    keep_weights_as_they_are,
    load_adapter,
    load_causal_lm,
    quantization,
    torch_dtype,
)
from inlay.models.nanovlm import from_nanovlm
from inlay.models.projector import load_projector
from inlay.models.vision import load_visual_encoder
from inlay.models.vlm import VisionFinetune


def kind_of(path: str | Path) -> str | None:
    """Tell the layout of a model: ``"parts"``, ``"nanovlm"``, ``"hf"``, or None for no pictures.

    Args:
        path: a folder, or a hub name, of which only ``config.json`` is fetched.
    """
    if (Path(path) / "projector").is_dir():
        return "parts"
    config = _config(path)
    if "vit_model_type" in config:
        return "nanovlm"
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    )

    return "hf" if config.get("model_type") in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES else None


def _config(path: str | Path) -> dict[str, Any]:
    from transformers.utils import cached_file

    try:
        file = cached_file(str(path), "config.json")
        return json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
    except (OSError, ValueError):
        return {}


def load_vlm(
    path: str,
    *,
    dtype: str | torch.dtype = "auto",
    bits: int | None = None,
    adapter: str | None = None,
    device: str | torch.device | None = None,
) -> LLaVAModel | VisionFinetune:
    """Load a model that takes pictures, in eval mode.

    Args:
        path: an image-text-to-text model of transformers (folder or hub name), a folder of LLaVA
            parts that holds all of them, or a nanoVLM folder.
        dtype, bits, device: as ``load_causal_lm`` takes them; nanoVLM knows no ``bits``.
        adapter: a PEFT adapter for it (for LLaVA parts: for the language model).

    Raises:
        ModelError: none of these is there, or a part does not fit.
    """
    kind = kind_of(path)
    if kind == "parts":
        return load_parts(path, path, dtype=dtype, bits=bits, adapter=adapter, device=device)
    if kind == "nanovlm":
        if bits or adapter:
            raise ModelError(f"'{path}' is a nanoVLM folder: bits and adapter are not for it")
        model = from_nanovlm(path)
        _cast(model, dtype)
        return _placed(model, device)
    if kind == "hf":
        return _load_hf(path, dtype, bits, adapter, device)
    raise ModelError(
        f"'{path}' holds no model that takes pictures: expected config.json of an "
        "image-text-to-text model or of nanoVLM, or LLaVA parts with projector/. For LLaVA parts "
        "that lack the language model, name that as the model and the parts with --llava."
    )


def load_parts(
    llm_path: str,
    parts_dir: str,
    visual_encoder_path: str | None = None,
    *,
    visual_select_layer: int | str | None = "stored",
    dtype: str | torch.dtype = "auto",
    llm_dtype: str | torch.dtype | None = None,
    bits: int | None = None,
    adapter: str | None = None,
    device: str | torch.device | None = None,
) -> LLaVAModel:
    """Load LLaVA parts, as Inlay and XTuner export them, in eval mode.

    Args:
        llm_path: the base language model; unused where ``parts_dir`` holds a whole one, in its
            root or in ``llm/``.
        parts_dir: holds ``projector/``, and ``llm_adapter/``, ``visual_encoder/`` or
            ``visual_encoder_adapter/`` where these were trained.
        visual_encoder_path: the base vision encoder, where ``parts_dir`` holds none.
        visual_select_layer: the encoder's layer; by default the one that the projector names, else
            -2.
        dtype, bits, device: as ``load_causal_lm`` takes them; ``bits`` is for the language model.
        llm_dtype: of the language model, where it is not ``dtype``.
        adapter: an adapter for the language model instead of ``llm_adapter/``.

    Raises:
        ModelError: a part is missing or does not fit.
    """
    parts = Path(parts_dir)
    projector = load_projector(parts / "projector")
    layer = projector.config.visual_select_layer
    if isinstance(visual_select_layer, int) or visual_select_layer is None:
        layer = visual_select_layer
    llm_adapter = adapter or _if_there(parts / "llm_adapter")
    precision = dtype if llm_dtype is None else llm_dtype
    llm = load_causal_lm(
        _whole_llm(parts) or llm_path, dtype=precision, bits=bits, adapter=llm_adapter, device="cpu"
    )
    encoder = _load_encoder(parts, visual_encoder_path)
    model = LLaVAModel(
        llm,
        encoder,
        projector=projector,
        visual_select_layer=layer,
        use_activation_checkpointing=False,
    )
    for part in (model.visual_encoder, model.projector):
        _cast(part, dtype)
        part.to(model.device)
    return model.eval() if bits else _placed(model, device)


def _whole_llm(parts: Path) -> str | None:
    for folder in (parts / "llm", parts):
        if (folder / "config.json").is_file():
            return str(folder)
    return None


def _load_encoder(parts: Path, base_path: str | None) -> Any:
    own = _if_there(parts / "visual_encoder") or base_path
    if own is None:
        raise ModelError(
            f"'{parts}' holds no visual_encoder/: name the vision encoder that it was trained on "
            "with --visual-encoder"
        )
    encoder = load_visual_encoder(own)
    adapter = _if_there(parts / "visual_encoder_adapter")
    return load_adapter(encoder, adapter) if adapter else encoder


def _if_there(folder: Path) -> str | None:
    return str(folder) if folder.is_dir() else None


def _load_hf(
    path: str,
    dtype: str | torch.dtype,
    bits: int | None,
    adapter: str | None,
    device: str | torch.device | None,
) -> VisionFinetune:
    from transformers import AutoModelForImageTextToText

    kwargs: dict[str, Any] = {"dtype": torch_dtype(dtype)}
    if bits:
        kwargs["quantization_config"] = quantization(bits, kwargs["dtype"])
    try:
        vlm: Any = AutoModelForImageTextToText.from_pretrained(path, **kwargs)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load a vision-language model from '{path}': {error}") from error
    keep_weights_as_they_are(vlm)
    model = VisionFinetune(vlm, use_activation_checkpointing=False)
    if adapter:
        model.llm = load_adapter(vlm, adapter)
    return model.eval() if bits else _placed(model, device)


def _cast(part: torch.nn.Module, dtype: str | torch.dtype) -> None:
    if torch_dtype(dtype) != "auto":
        part.to(torch_dtype(dtype))


def _placed(model: Any, device: str | torch.device | None) -> Any:
    return model.to(device or default_device()).eval()
