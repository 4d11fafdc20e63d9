"""``inlay_export.json``: what an export must still be when it is read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inlay import __version__
from inlay.convert.folder import RECORD
from inlay.convert.probe import digest, environment, probe_ids, probe_logits, read_weights
from inlay.convert.see import Probe
from inlay.convert.speech import Speech
from inlay.core.errors import ModelError

SAMPLE_TEXT = "Hello, world!\n  1 + 1 = 2; 你好 世界 🙂"
NUM_COLUMNS = 64


def write_record(
    folder: Path,
    model: Any,
    tokenizer: Any,
    *,
    base: str | None,
    speech: Speech,
    probe: Probe | None = None,
    auto: str = "AutoModelForCausalLM",
) -> None:
    """Write the record of an export whose other files stand in ``folder``.

    Args:
        model: the in-memory model, cast as its weights were written.
        tokenizer: None for a model without text.
        base: where the base model of an adapter is loaded from; None for a full model.
        speech: how it was taught to speak.
        probe: what the model is shown; plain tokens by default.
        auto: class of transformers that loads it.
    """
    if probe is None:
        probe = Probe(probe_ids(model.config.get_text_config().vocab_size), {})
    logits = probe_logits(model, probe.ids, probe.images)
    facts = {
        "kind": "adapter" if base else "model",
        "auto": auto,
        "base": base,
        "model_type": model.config.model_type,
        "load_dtype": str(model.config.dtype).removeprefix("torch."),
        "quantization": quantization_of(model),
        "device": model.device.type,
    }
    write_facts(folder, facts, tokenizer, speech, probe, logits)


def write_facts(
    folder: Path,
    facts: dict[str, Any],
    tokenizer: Any,
    speech: Speech,
    probe: Probe,
    logits: Any,
) -> None:
    """Write what every record holds, after the ``facts`` of its kind.

    Args:
        logits: float32 ``[N, vocabulary]`` of ``probe``.
    """
    record = {
        "inlay": __version__,
        **facts,
        "weights_sha256": read_weights(folder)[0],
        "stop_token_ids": speech.stop_ids,
        "stop_words": speech.stop_words,
        "answer_ends": sorted(set(speech.ends)),
        "chat_template": bool(tokenizer and tokenizer.chat_template),
        "text": SAMPLE_TEXT,
        "tokens": tokenizer(SAMPLE_TEXT).input_ids if tokenizer else [],
        "conversations": speech.conversations,
        "environment": environment(),
        "probe_ids": probe.ids,
        "images": probe.images,
        "logits_sha256": digest(logits),
        "logits": logits[:, columns_of(logits.shape[1])].tolist(),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False), "utf-8")


def read_record(folder: Path) -> dict[str, Any]:
    """Read the record of an export.

    Raises:
        ModelError: ``folder`` is not an export, or its record is damaged.
    """
    path = folder / RECORD
    if not path.is_file():
        raise ModelError(
            f"'{folder}' holds no {RECORD}: it was not written by `inlay convert` and there is "
            "nothing to verify it against."
        )
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ModelError(f"'{path}' is damaged: {error}") from error


def columns_of(vocab_size: int) -> list[int]:
    """Vocabulary entries whose logits stand in the record, evenly spread."""
    num = min(NUM_COLUMNS, vocab_size)
    return [i * vocab_size // num for i in range(num)]


def quantization_of(model: Any) -> dict[str, Any] | None:
    """The settings by which a model's weights were quantised, as JSON values, or None."""
    quantization = getattr(model.config, "quantization_config", None)
    if not quantization:
        return None
    values = quantization if isinstance(quantization, dict) else quantization.to_dict()
    return {k: v for k, v in values.items() if not k.startswith("_")}
