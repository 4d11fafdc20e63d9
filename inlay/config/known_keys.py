"""Keyword arguments of targets that take ``**kwargs``: transformers' ``from_pretrained`` family."""

from __future__ import annotations

from typing import Any, Literal

_FILES: dict[str, Any] = {
    "pretrained_model_name_or_path": str,
    "cache_dir": str | None,
    "code_revision": str | None,
    "config": Any,
    "force_download": bool,
    "gguf_file": str | None,
    "local_files_only": bool,
    "proxies": dict | None,
    "revision": str | None,
    "subfolder": str,
    "token": str | bool | None,
    "trust_remote_code": bool | None,
}
_MODEL: dict[str, Any] = {
    **_FILES,
    "adapter_kwargs": dict | None,
    "attn_implementation": str | dict | None,
    "device_map": Any,
    "dtype": Any,
    "experts_implementation": str | None,
    "generation_config": Any,
    "ignore_mismatched_sizes": bool,
    "key_mapping": dict | None,
    "low_cpu_mem_usage": bool | None,
    "max_memory": dict | None,
    "offload_buffers": bool,
    "offload_folder": str | None,
    "offload_state_dict": bool,
    "output_loading_info": bool,
    "quantization_config": Any,
    "torch_dtype": Any,
    "tp_plan": Any,
    "tp_size": int | None,
    "use_kernels": bool,
    "use_safetensors": bool | None,
    "variant": str | None,
    # attributes of the model's own config that users change when they load it
    "attention_dropout": float,
    "max_position_embeddings": int,
    "output_router_logits": bool,
    "rope_parameters": dict | None,
    "rope_scaling": dict | None,
    "rope_theta": float,
    "router_aux_loss_coef": float,
    "sliding_window": int | None,
    "tie_word_embeddings": bool,
    "use_cache": bool,
    "vocab_size": int,
}
_TOKENIZER: dict[str, Any] = {
    **_FILES,
    "add_bos_token": bool,
    "add_eos_token": bool,
    "add_prefix_space": bool,
    "additional_special_tokens": list[str],
    "backend": str,
    "bos_token": str | None,
    "chat_template": str | dict | None,
    "clean_up_tokenization_spaces": bool,
    "encode_special_tokens": bool,
    "eos_token": str | None,
    "extra_special_tokens": dict | list,
    "fix_mistral_regex": bool,
    "from_slow": bool,
    "legacy": bool | None,
    "mask_token": str | None,
    "mistral_format": bool,
    "model_input_names": list[str],
    "model_max_length": int,
    "pad_token": str | None,
    "padding_side": Literal["left", "right"],
    "sep_token": str | None,
    "split_special_tokens": bool,
    "tokenizer_type": str | None,
    "truncation_side": Literal["left", "right"],
    "unk_token": str | None,
    "use_fast": bool,
    "verbose": bool,
}


_LOADERS = frozenset(("load_visual_encoder",))
"""Functions of ours that pass their ``**kwargs`` on to ``from_pretrained`` of a model."""


def known_keys(target: Any) -> dict[str, Any] | None:
    """Return hints of what ``target`` takes through its ``**kwargs``, by name.

    None where no list is kept: then any name is accepted. An empty dict means that the target
    refuses every name outside its signature, although it takes ``**kwargs``.
    """
    if getattr(target, "__name__", "") in _LOADERS:
        return _MODEL
    owner = getattr(target, "__self__", target)
    if not getattr(owner, "__module__", "").startswith("transformers."):
        return None
    if getattr(target, "__name__", "") != "from_pretrained":
        return {} if getattr(owner, "__name__", "").endswith("BitsAndBytesConfig") else None
    names = [base.__name__ for base in getattr(owner, "__mro__", ())]
    if any("Tokenizer" in n for n in names):
        return _TOKENIZER
    if any("Model" in n for n in names):
        return _MODEL
    return None
