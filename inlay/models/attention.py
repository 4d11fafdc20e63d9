"""Attention over a flat row of documents: no token ever sees another document.

Documents are told to the model as a 4-D "attention mask" that holds their cumulative lengths,
int32 ``[1, 1, 1, D + 1]``. transformers hands a 4-D mask to every attention layer untouched
(``masking_utils._preprocess_mask_arguments``), recomputed layers included, whatever the model's
own forward signature. Everything else (padding masks, generation with a cache) goes to the
library's SDPA.
"""

from __future__ import annotations

import inspect
from functools import cache
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

from inlay.core.errors import ModelError

NAME = "inlay"
HALF_DTYPES = (torch.bfloat16, torch.float16)
CPU_BLOCK = 64
"""Tokens that a document is padded to a multiple of on a CPU in half precision."""


def document_mask(doc_starts: torch.Tensor) -> torch.Tensor:
    """Return the mask that tells ``packed_attention`` the document borders.

    Args:
        doc_starts: int32 ``[D + 1]`` cumulative document lengths, from 0 to N.
    """
    return doc_starts.to(torch.int32).view(1, 1, 1, -1)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention function with the signature of transformers' ``AttentionInterface``.

    Args:
        query: ``[B, H, N, D]`` after rotary embedding.
        key, value: ``[B, Hkv, N, D]``.
        attention_mask: document borders from :func:`document_mask` (int32), or any mask that SDPA
            takes, or None.

    Returns:
        ``([B, N, H, D], None)``.
    """
    if attention_mask is None or attention_mask.dtype != torch.int32:
        softcap = kwargs.get("softcap")
        if softcap is not None:  # SDPA knows no such scores
            seen = _seen(attention_mask, query.shape[2], key.shape[2], query.device)
            found = _softcapped(query, key, value, scaling, dropout, softcap, seen)
            return found.transpose(1, 2), None
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    if kwargs.get("s_aux") is not None:
        raise ModelError(
            f"{type(module).__name__} uses attention sinks, which packed attention does not "
            "support. Set pack_to_max_length=False and batch_size=1."
        )
    window = kwargs.get("sliding_window") or 0
    softcap = kwargs.get("softcap")
    doc_starts = attention_mask.view(-1)
    if torch.is_autocast_enabled(query.device.type):
        # Rotary embeddings leave query and key in float32 there; SDPA would be cast by autocast.
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if _runs_varlen(query, dropout, softcap):
        longest = kwargs.get("longest_document") or query.shape[2]
        return _varlen(query, key, value, doc_starts, longest, scaling, window), None
    lengths = [b - a for a, b in pairwise(doc_starts.tolist())]
    # The gradient of a split is one concatenation; that of a slice is as long as the whole row.
    documents = zip(*(x.split(lengths, dim=2) for x in (query, key, value)), strict=True)
    attend = _in_blocks if query.is_cpu and query.dtype in HALF_DTYPES else _one_document
    parts = [attend(q, k, v, scaling, dropout, window, softcap) for q, k, v in documents]
    out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
    return out.transpose(1, 2), None


@cache
def _varlen_parameters() -> frozenset[str]:
    """What this torch's kernel takes: 2.10 has no scale and window, 2.11 no grouped heads."""
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)


def _runs_varlen(query: torch.Tensor, dropout: float, softcap: float | None) -> bool:
    fits = query.is_cuda and query.dtype in HALF_DTYPES and not dropout and softcap is None
    return fits and {"scale", "window_size"} <= _varlen_parameters()


def kernel_name(device: torch.device, dtype: torch.dtype | None) -> str:
    """What runs a row of documents on ``device``, under autocast to ``dtype`` (None: float32)."""
    query = torch.empty(0, dtype=dtype or torch.float32, device=device)
    return "one varlen kernel" if _runs_varlen(query, 0.0, None) else "SDPA document by document"


def _varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    doc_starts: torch.Tensor,
    longest: int,
    scaling: float | None,
    window: int,
) -> torch.Tensor:
    """All documents in one kernel (``torch.nn.attention.varlen``). Returns ``[1, N, H, D]``."""
    from torch.nn.attention.varlen import varlen_attn

    groups = query.shape[1] // key.shape[1]
    options: dict[str, Any] = {}
    if groups > 1 and "enable_gqa" in _varlen_parameters():
        options["enable_gqa"] = True
    elif groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    out = varlen_attn(
        q,
        k,
        v,
        doc_starts,
        doc_starts,
        longest,
        longest,
        scale=scaling,
        window_size=(window - 1 if window else -1, 0),
        **options,
    )
    assert isinstance(out, torch.Tensor)
    return out[None]


def _in_blocks(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *settings: Any
) -> torch.Tensor:
    """``_one_document`` with zeros behind the document, where no token of it looks.

    There the kernels are compiled for each size, and sizes that recur keep the heap whole: 5 % of
    a training step whose documents are all of different lengths. Returns ``[B, H, n, D]``.
    """
    length = query.shape[2]
    behind = (0, 0, 0, -length % CPU_BLOCK)
    query, key, value = (F.pad(x, behind) for x in (query, key, value))
    return _one_document(query, key, value, *settings)[:, :, :length]


def _one_document(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    dropout: float,
    window: int,
    softcap: float | None,
) -> torch.Tensor:
    """Causal attention inside one document. Returns ``[B, H, n, D]``."""
    length = query.shape[2]
    if softcap is not None:
        seen = _window_mask(length, window, query.device)
        return _softcapped(query, key, value, scaling, dropout, softcap, seen)
    mask = _window_mask(length, window, query.device) if 0 < window < length else None
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _window_mask(length: int, window: int, device: torch.device) -> torch.Tensor:
    """bool ``[n, n]``: query i sees keys ``i - window < j <= i`` (0: all of the past)."""
    distance = torch.arange(length, device=device)[:, None] - torch.arange(length, device=device)
    return (distance >= 0) & (distance < window) if window else distance >= 0


def _seen(mask: torch.Tensor | None, queries: int, keys: int, device: torch.device) -> torch.Tensor:
    """A mask of the library as bool or as what is added to the scores; None is causal, the last
    query at the last key."""
    if mask is not None:
        return mask[..., :keys]
    return _window_mask(keys, 0, device)[keys - queries :]


def _softcapped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    dropout: float,
    softcap: float,
    seen: torch.Tensor,
) -> torch.Tensor:
    """Scores squashed to ``softcap * tanh(score / softcap)`` (Gemma 2, arXiv 2408.00118, 2).

    Args:
        seen: which keys each query sees: bool, or 0 and minus infinity to add to the scores.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = softcap * torch.tanh(query @ key.transpose(-1, -2) * scale / softcap)
    if seen.dtype == torch.bool:
        # Not minus infinity: a padded query sees nothing, and its NaN would reach all others.
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    else:
        scores = scores + seen
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    return F.dropout(weights, dropout) @ value


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
