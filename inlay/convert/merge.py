"""Fold a PEFT adapter into its base model."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from inlay.convert.card import model_card
from inlay.convert.folder import staged
from inlay.convert.probe import probe_ids, probe_logits
from inlay.convert.record import write_record
from inlay.convert.to_hf import (
    cast_weights,
    portable_name,
    prepare_tokenizer,
    write_generation_config,
    write_model,
)
from inlay.core.errors import ModelError
from inlay.models.lm import default_device, load_adapter, load_causal_lm

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
) -> Path:
    """Write ``base`` with ``adapter`` folded into its weights as a Hugging Face folder.

    Args:
        base: the base model, not quantised: an adapter trained on 4-bit weights goes onto the
            full ones. Folder or hub name.
        adapter: PEFT adapter, folder or hub name. Its tokenizer is used where it has one.
        out: folder to write; an earlier export there is replaced.
        device: ``"cpu"``, ``"cuda"`` or ``"auto"`` (a GPU where there is one).
        dtype: ``"float16"``, ``"bfloat16"``, ``"float32"``, or None for that of the base.
        max_shard_size: largest weight file, such as ``"2GB"``.

    Raises:
        ModelError: the adapter does not fit, the base is quantised, or the merged model answers
            otherwise than the adapter does.
    """
    from transformers import AutoTokenizer

    place = default_device() if device == "auto" else device
    llm = load_causal_lm(base, device=place)
    if getattr(llm, "is_quantized", False):
        raise ModelError(f"'{base}' is quantised: merge onto the model it was made from.")
    own = (Path(adapter) / "tokenizer_config.json").is_file()
    tokenizer = AutoTokenizer.from_pretrained(adapter if own else base)
    merged = _merged(llm, adapter)
    cast_weights(merged, getattr(torch, dtype) if dtype else None)
    stop_ids = prepare_tokenizer(tokenizer, None)
    with staged(out) as folder:
        write_model(merged, folder, max_shard_size)
        write_generation_config(merged, stop_ids, folder)
        tokenizer.save_pretrained(folder)
        write_record(folder, merged, tokenizer, base=None, stop_ids=stop_ids)
        name = portable_name(base)
        facts = {"Adapter": Path(adapter).name}
        text = model_card(Path(out).name, "model", name, facts)
        (folder / "README.md").write_text(text, encoding="utf-8")
    return Path(out)


def _merged(llm: Any, adapter: str) -> Any:
    """Return ``llm`` with the adapter folded in, checked against the adapter's own answer."""
    _untie_if_targeted(llm, adapter)
    ids = probe_ids(llm.config.get_text_config().vocab_size)
    tuned = load_adapter(llm, adapter).eval()
    before = probe_logits(tuned, ids)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*tie_word_embeddings.*")
        merged = tuned.merge_and_unload(safe_merge=True)
    change = float((probe_logits(merged, ids) - before).abs().max())
    allowed = ROUNDING[merged.dtype] * max(1.0, float(before.abs().max()))
    if not change <= allowed:
        raise ModelError(
            f"merging '{adapter}' changed a logit by {change:.3g}, more than rounding explains "
            f"({allowed:.3g}). The folder was not written."
        )
    return merged


def _untie_if_targeted(llm: Any, adapter: str) -> None:
    """Give a tied output layer its own weight when the adapter changes only one of the two."""
    from peft import PeftConfig

    if not getattr(llm.config.get_text_config(), "tie_word_embeddings", False):
        return
    config = PeftConfig.from_pretrained(adapter)
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
