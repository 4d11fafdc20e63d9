"""Fold a PEFT adapter into its base: a language model, one with eyes, or a vision encoder."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inlay.convert.folder import staged
from inlay.convert.internlm2 import in_layout
from inlay.convert.probe import probe_ids, probe_logits
from inlay.convert.record import write_record
from inlay.convert.see import Probe, native_probe
from inlay.convert.speech import Speech
from inlay.convert.to_hf import (
    cast_weights,
    portable_name,
    prepare_tokenizer,
    write_card,
    write_generation_config,
    write_model,
)
from inlay.core.errors import ModelError
from inlay.core.types import ImageProcessor
from inlay.data.vision.load import load_image_processor, save_image_processor
from inlay.models.llava import LLaVAModel
from inlay.models.lm import default_device, load_adapter, load_causal_lm
from inlay.models.load_vlm import kind_of, load_vlm
from inlay.models.vision import load_visual_encoder

ROUNDING = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest change of a logit that merging may cause, relative to the largest logit (at least 1)."""


def merge(
    base: str,
    adapter: str,
    out: str | Path,
    *,
    device: str = "cpu",
    dtype: str | None = None,
    max_shard_size: str = "2GB",
    layout: str = "own",
) -> Path:
    """Write ``base`` with ``adapter`` folded into its weights as a Hugging Face folder.

    Args:
        base: the base model, with eyes or without, not quantised: an adapter trained on 4-bit
            weights goes onto the full ones. Folder or hub name.
        adapter: PEFT adapter, folder or hub name. Its tokenizer is used where it has one.
        out: folder to write; an earlier export there is replaced.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"`` (a GPU where there is one).
        dtype: ``"float16"``, ``"bfloat16"``, ``"float32"``, or None for that of the base.
        max_shard_size: largest weight file, such as ``"2GB"``.
        layout: ``"own"``, or ``"llama"`` for an InternLM2 under the names of transformers' Llama.

    Raises:
        ModelError: the adapter does not fit, the base is quantised, the merged model answers
            otherwise than the adapter does, or the model has no such layout.
    """
    from transformers import AutoTokenizer

    own = (Path(adapter) / "tokenizer_config.json").is_file()
    try:
        tokenizer = AutoTokenizer.from_pretrained(adapter if own else base)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load a tokenizer from '{base}': {error}") from error
    place = default_device() if device == "auto" else device
    llm, processor, probe = _load_base(base, tokenizer, place)
    merged = in_layout(_merged(llm, adapter, probe), layout)
    cast_weights(merged, getattr(torch, dtype) if dtype else None)
    found = prepare_tokenizer(tokenizer, None, processor)
    auto = "AutoModelForImageTextToText" if processor else "AutoModelForCausalLM"
    with staged(out) as folder:
        write_model(merged, folder, max_shard_size)
        write_generation_config(merged, found.stop_ids, folder)
        if processor is not None:
            save_image_processor(processor, folder)
        tokenizer.save_pretrained(folder)
        write_record(folder, merged, tokenizer, base=None, speech=found, probe=probe, auto=auto)
        facts = {"Adapter": Path(adapter).name}
        kind = "vlm" if processor else "model"
        write_card(folder, Path(out).name, kind, portable_name(base), facts)
    return Path(out)


def _load_base(base: str, tokenizer: Any, device: str) -> tuple[Any, ImageProcessor | None, Probe]:
    """The model, its image processor if it has eyes, and what to show it."""
    if kind_of(base) == "hf":
        model: Any = load_vlm(base, device=device)
        model.base.set_attn_implementation("sdpa")
        processor = load_image_processor(base, tokenizer)
        _refuse_quantised(model.llm, base)
        return model.llm, processor, native_probe(model, processor, tokenizer)
    llm = load_causal_lm(base, device=device)
    _refuse_quantised(llm, base)
    return llm, None, Probe(probe_ids(llm.config.get_text_config().vocab_size), {})


def _refuse_quantised(model: Any, base: str) -> None:
    if getattr(model, "is_quantized", False):
        raise ModelError(f"'{base}' is quantised: merge onto the model it was made from.")


def merge_visual_encoder(
    base: str,
    adapter: str,
    out: str | Path,
    *,
    device: str = "cpu",
    max_shard_size: str = "2GB",
) -> Path:
    """Write a vision encoder with ``adapter`` (``visual_encoder_adapter/``) folded in.

    Args:
        base: CLIP, SigLIP, DINOv2, ...; of two towers the vision half counts. Its image processor
            is written beside the weights.

    Raises:
        ModelError: see ``merge``.
    """
    from transformers import AutoImageProcessor

    place = default_device() if device == "auto" else device
    encoder = load_visual_encoder(base, dtype="auto").to(place).eval()
    _refuse_quantised(encoder, base)
    size = getattr(encoder.config, "image_size", None)
    if not isinstance(size, int):
        raise ModelError(f"'{base}' is no vision encoder for pictures of one fixed size")
    probe = Probe([], {"pixel_values": {"shape": [1, 3, size, size], "dtype": "float32"}})
    merged = _merged(encoder, adapter, probe)
    with staged(out) as folder:
        write_model(merged, folder, max_shard_size)
        AutoImageProcessor.from_pretrained(base, backend="pil").save_pretrained(folder)
        none = Speech([])
        write_record(folder, merged, None, base=None, speech=none, probe=probe, auto="AutoModel")
        facts = {"Adapter": Path(adapter).name}
        write_card(folder, Path(out).name, "visual encoder", portable_name(base), facts)
    return Path(out)


def merge_parts(model: LLaVAModel) -> None:
    """Fold the adapters of a ``LLaVAModel`` into its parts, in place.

    An adapter on quantised weights goes onto the full ones, which are loaded for it.

    Raises:
        ModelError: merging changed what a part computes, or the full weights cannot be loaded.
    """
    if hasattr(model.llm, "peft_config"):
        model.llm = _merged_here(model.llm, Probe(probe_ids(model.llm.config.vocab_size), {}))
    encoder = model.visual_encoder
    if hasattr(encoder, "peft_config"):
        size = encoder.config.image_size
        shape = {"shape": [1, 3, size, size], "dtype": "float32"}
        model.visual_encoder = _merged_here(encoder, Probe([], {"pixel_values": shape}))


def _merged_here(tuned: Any, probe: Probe) -> Any:
    if not getattr(tuned, "is_quantized", False):
        return _folded(tuned.eval(), probe, "its adapter")
    base = tuned.get_base_model()
    full = load_causal_lm(base.config._name_or_path, dtype=base.config.dtype, device="cpu")
    rows = base.get_input_embeddings().weight
    if len(rows) != len(full.get_input_embeddings().weight):
        full.resize_token_embeddings(len(rows), mean_resizing=False)
        full.get_input_embeddings().weight.data.copy_(rows)
        full.get_output_embeddings().weight.data.copy_(base.get_output_embeddings().weight)
    with tempfile.TemporaryDirectory() as scratch:
        tuned.save_pretrained(scratch)
        return _merged(full, scratch, probe)


def _merged(llm: Any, adapter: str, probe: Probe) -> Any:
    """Return ``llm`` with the adapter folded in, checked against the adapter's own answer."""
    _untie_if_targeted(llm, adapter)
    return _folded(load_adapter(llm, adapter).eval(), probe, f"'{adapter}'")


def _folded(tuned: Any, probe: Probe, adapter: str) -> Any:
    before = probe_logits(tuned, probe.ids, probe.images)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
        merged = tuned.merge_and_unload(safe_merge=True)
    change = float((probe_logits(merged, probe.ids, probe.images) - before).abs().max())
    allowed = ROUNDING[merged.dtype] * max(1.0, float(before.abs().max()))
    if not change <= allowed:
        raise ModelError(
            f"merging {adapter} changed an output by {change:.3g}, more than rounding explains "
            f"({allowed:.3g}). The folder was not written."
        )
    return merged


def _untie_if_targeted(llm: Any, adapter: str) -> None:
    """Give a tied output layer its own weight when the adapter changes only one of the two."""
    from peft import PeftConfig

    if llm.get_output_embeddings() is None:  # a vision encoder
        return
    if not getattr(llm.config.get_text_config(), "tie_word_embeddings", False):
        return
    try:
        config = PeftConfig.from_pretrained(adapter)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load an adapter from '{adapter}': {error}") from error
    changed = {*_names(config.target_modules), *_names(config.modules_to_save)}
    ends = (llm.get_input_embeddings(), llm.get_output_embeddings())
    names = {n.rsplit(".", 1)[-1] for n, m in llm.named_modules() if m in ends}
    if names & changed:
        head = llm.get_output_embeddings()
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        llm.config.get_text_config().tie_word_embeddings = False
        llm.config.tie_word_embeddings = False


def _names(modules: Any) -> set[str]:
    return {modules} if isinstance(modules, str) else set(modules or ())
