"""Look at exports that Inlay alone can load: LLaVA parts, nanoVLM folders, InternLM2's layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inlay.convert.probe import environment, idle_adapters, read_texts, read_weights
from inlay.convert.see import Probe, llava_logits

OURS = ("parts", "nanovlm", "official")
MODEL_TYPES = ("internlm2",)
"""Models of ours that are written as transformers writes its own."""


def needs_inlay(record: dict[str, Any]) -> bool:
    """Whether plain transformers and peft do not load what was exported."""
    return record["kind"] in OURS or record.get("model_type") in MODEL_TYPES


def look_here(folder: Path, record: dict[str, Any], base: str | None) -> tuple[dict[str, Any], Any]:
    """Do in this process what the probe script does for others.

    Args:
        base: the language model under the parts, instead of the one that the record names.

    Returns:
        The answer of ``probe.look``, and logits float32 ``[N, V]``.
    """
    from inlay.models.load_vlm import load_parts, load_vlm

    weights, problems = read_weights(folder)
    bases = record["bases"]
    if record["kind"] == "parts":
        bits = _bits(record["quantization"])
        llm, encoder = base or bases["llm"] or str(folder), bases["visual_encoder"]
        dtype = record.get("llm_dtype") if bits else None
        model: Any = load_parts(llm, str(folder), encoder, bits=bits, llm_dtype=dtype, device="cpu")
    elif record["kind"] == "official":
        from inlay.convert.official import load_official

        model = load_official(folder, bases["visual_encoder"])
    else:
        model = load_vlm(str(folder), device="cpu")
    probe = Probe(record["probe_ids"], record["images"])
    answer = {
        "weights_sha256": weights,
        "tensors": problems,
        "misfits": [],  # loading refuses them
        "environment": environment(),
        "foreign": False,
        "idle": idle_adapters(folder),
        **read_texts(folder, {"conversations": [], **record}),
    }
    return answer, llava_logits(model, probe, record["image_token_id"])


def _bits(quantization: dict[str, Any] | None) -> int | None:
    if quantization is None:
        return None
    return 4 if quantization.get("load_in_4bit") else 8
