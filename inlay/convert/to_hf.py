"""Export a trained model: a Hugging Face folder, or a PEFT adapter folder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inlay.convert.card import model_card
from inlay.convert.folder import staged
from inlay.convert.internlm2 import copy_published_files
from inlay.convert.jinja import chat_template
from inlay.convert.record import write_record
from inlay.convert.see import native_probe
from inlay.convert.speech import Speech, speech
from inlay.core.errors import ConfigError, ModelError
from inlay.core.types import ImageProcessor
from inlay.data.chat import ChatEncoder
from inlay.data.templates import check_template
from inlay.data.tokens import bos_ids
from inlay.data.vision.load import save_image_processor


def export(
    model: Any,
    tokenizer: Any,
    out_dir: str | Path,
    *,
    dtype: str | None = "float16",
    max_shard_size: str = "2GB",
    base_name: str | None = None,
    card: Mapping[str, Any] | None = None,
    template: str | Mapping[str, Any] | None = None,
    image_processor: ImageProcessor | None = None,
) -> Path:
    """Write ``model`` as others load it: with LoRA a PEFT adapter, else a whole model.

    The folder appears complete or not at all; an earlier export is replaced. The weights of
    ``model`` are cast in place, so that no second copy is held in memory.

    Args:
        model: a ``SupervisedFinetune`` or ``VisionFinetune``; its ``llm`` is exported.
        tokenizer: written beside the weights.
        dtype: ``"float16"``, ``"bfloat16"``, ``"float32"``, or None to keep that of the weights.
        max_shard_size: largest weight file, such as ``"2GB"``.
        base_name: what an adapter names as its base model; by default what it was loaded from.
        card: facts for the model card, name to value.
        template: the prompt template of the training (name or dict), None for the tokenizer's own.
            It is written as the exported tokenizer's chat template.
        image_processor: of a ``VisionFinetune``; written beside the weights.

    Raises:
        ModelError: the target holds other files, the model is quantised without LoRA, or a weight
            is not finite.
    """
    llm = model.llm
    adapter = hasattr(llm, "peft_config")
    if not adapter and getattr(llm, "is_quantized", False):
        raise ModelError("a quantised model without LoRA has nothing that could be exported")
    tokenizer = copy.deepcopy(tokenizer)
    found = prepare_tokenizer(tokenizer, template, image_processor)
    cast = getattr(torch, dtype) if dtype else None
    eyes = image_processor is not None
    kind = f"vlm{' adapter' * adapter}" if eyes else "adapter" if adapter else "model"
    with staged(out_dir) as folder:
        if adapter:
            base = write_adapter(llm, folder, cast, base_name)
        else:
            base = None
            cast_weights(llm, cast)
            write_model(llm, folder, max_shard_size)
        write_generation_config(llm, found.stop_ids, folder)
        probe = None
        if image_processor is not None:
            save_image_processor(image_processor, folder)
            probe = native_probe(model, image_processor, tokenizer)
        tokenizer.save_pretrained(folder)
        check_finite(llm)
        auto = "AutoModelForImageTextToText" if eyes else "AutoModelForCausalLM"
        write_record(folder, llm, tokenizer, base=base, speech=found, probe=probe, auto=auto)
        name = base or base_name or llm.config._name_or_path
        write_card(folder, Path(out_dir).name, kind, name, card)
    return Path(out_dir)


def write_card(
    folder: Path, title: str, kind: str, base: str | None, card: Mapping[str, Any] | None
) -> None:
    """Write ``README.md``."""
    text = model_card(title, kind, base, card or {})
    (folder / "README.md").write_text(text, encoding="utf-8")


def prepare_tokenizer(
    tokenizer: Any,
    template: str | Mapping[str, Any] | None,
    image_processor: ImageProcessor | None = None,
    picture: str | None = None,
) -> Speech:
    """Give the tokenizer the template's Jinja form; return what training made of conversations.

    Args:
        picture: what the Jinja form writes for a picture; by default as ``image_processor`` has it.
    """
    encoder = ChatEncoder(tokenizer, template, image_processor)
    if picture is None and image_processor is not None and image_processor.placeholder is not None:
        picture = image_processor.placeholder + "\n"  # as rows of pictures have it
    try:
        stop_ids = list(encoder.stop_token_ids)
    except ConfigError:  # no chat template, or one that leaves the end of an answer to EOS
        stop_ids = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    shown = image_processor.placeholder if encoder.takes_parts and image_processor else picture
    found = speech(encoder, stop_ids, shown)
    if template is not None:
        bos = "".join(tokenizer.convert_ids_to_tokens(bos_ids(tokenizer)))
        eos = tokenizer.eos_token or ""
        tokenizer.chat_template = chat_template(check_template(template), bos, eos, picture)
    return found


def write_model(llm: Any, folder: Path, max_shard_size: str) -> None:
    """Write config and sharded weights of a whole model."""
    if llm.can_generate():
        llm.config.use_cache = True  # training switches it off
        _repair_generation_config(llm)
    llm.save_pretrained(folder, max_shard_size=max_shard_size)
    if llm.config.model_type == "internlm2":
        copy_published_files(llm.config._name_or_path, folder)


def write_generation_config(llm: Any, stop_ids: list[int], folder: Path) -> None:
    """Write the generation config with the stop tokens among its end tokens."""
    _repair_generation_config(llm)
    config = llm.generation_config
    known = config.eos_token_id
    known = [] if known is None else [known] if isinstance(known, int) else list(known)
    ends = list(dict.fromkeys([*stop_ids, *known]))
    config.eos_token_id = ends[0] if len(ends) == 1 else ends or None
    config.save_pretrained(folder)


def _repair_generation_config(llm: Any) -> None:
    """Make the generation config one that transformers agrees to save.

    Many published models set a temperature without ``do_sample``, and saving refuses that.
    """
    from transformers import GenerationConfig

    config = llm.generation_config
    if _is_valid(config):
        return
    config.do_sample = True
    if not _is_valid(config):
        llm.generation_config = GenerationConfig(
            bos_token_id=config.bos_token_id,
            eos_token_id=config.eos_token_id,
            pad_token_id=config.pad_token_id,
        )


def _is_valid(config: Any) -> bool:
    try:
        config.validate(strict=True)
    except ValueError:
        return False
    return True


def cast_weights(llm: nn.Module, dtype: torch.dtype | None) -> None:
    """Cast what is saved in place. Buffers that are not saved, such as rotary frequencies, keep
    their precision, as they do when the model is loaded in ``dtype``."""
    if dtype is None:
        return
    for parameter in llm.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    for module in llm.modules():
        for name, buffer in module._buffers.items():
            saved = name not in module._non_persistent_buffers_set
            if saved and buffer is not None and buffer.is_floating_point():
                module._buffers[name] = buffer.to(dtype)


def write_adapter(llm: Any, folder: Path, dtype: torch.dtype | None, base_name: str | None) -> str:
    """Write a PEFT adapter; return the name of its base model."""
    from safetensors.torch import load_file, save_file

    _settle_adapter(llm, dtype)
    config = llm.active_peft_config
    loaded_from = config.base_model_name_or_path
    config.base_model_name_or_path = portable_name(base_name or loaded_from)
    base = config.base_model_name_or_path
    try:
        llm.save_pretrained(folder)
    finally:
        config.base_model_name_or_path = loaded_from
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({k: v.to(dtype or v.dtype) for k, v in tensors.items()}, file, {"format": "pt"})
    return base


def _settle_adapter(llm: Any, dtype: torch.dtype | None) -> None:
    """Bring the live model to what a reader will have: adapter weights rounded to ``dtype``, and
    base weights that training on a quantised model keeps in float32 back as they were loaded."""
    stored = llm.config.dtype
    stored = getattr(torch, stored) if isinstance(stored, str) else stored
    for parameter in llm.parameters():
        if not parameter.is_floating_point():
            continue
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(stored)
        elif dtype:
            parameter.data = parameter.data.to(dtype).to(parameter.dtype)


def portable_name(path: str) -> str:
    """Return a hub name as it is, that of a folder in the Hugging Face cache, and the absolute path
    of any other folder."""
    for part in Path(path).parts:
        if part.startswith("models--"):
            return part.removeprefix("models--").replace("--", "/")
    return str(Path(path).absolute()) if Path(path).is_dir() else path


def check_finite(llm: nn.Module) -> None:
    """Raise a ``ModelError`` for the first weight with NaN or infinity."""
    for name, parameter in llm.named_parameters():
        if parameter.is_floating_point() and not parameter.isfinite().all():
            raise ModelError(
                f"weight {name} is not finite in {parameter.dtype}. "
                "Export in float32 (--fp32), or an earlier checkpoint."
            )
