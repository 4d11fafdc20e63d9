"""Secrets never reach a log, a dump or a checkpoint: they are cut out of text before it is written.

What counts as one: values of environment variables with a telling name (``HF_TOKEN``,
``WANDB_API_KEY``, ...), tokens in the formats of well-known services, user names and passwords in
addresses, and whatever is assigned to a name that says so (``token=...``, ``"api_key": "..."``).
"""

from __future__ import annotations

import os
import re
from typing import Any

HIDDEN = "[redacted]"
_SHORTEST = 8
"""Characters; a shorter value of a variable is no secret, and would be found everywhere."""
_TELLING = {
    "TOKEN", "KEY", "APIKEY", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL",
    "CREDENTIALS", "PAT",
}  # fmt: skip

_FORMATS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9]{20,}|sk-(?:proj|ant|or)-[\w-]{16,}"
    r"|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}"
    r"|AKIA[0-9A-Z]{16}|AIza[\w-]{30,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,})"
)
_IN_ADDRESS = re.compile(r"(?<=://)[^/\s@'\"]+@")
_HEADER = re.compile(r"(?i)\b((?:bearer|basic)\s+)[\w.~+/=-]{8,}")
_NAME = (
    r"(?:[\w-]*(?:secret|passw(?:or)?d|passphrase|credential|(?:api|access|private)[_-]?key)[\w-]*"
    r"|(?:[\w-]*[_-])?(?:hf|hub|huggingface|face|auth|access|api|refresh|session|write|wandb|git"
    r"|github|gitlab|personal)[_-]?token|token)"
)
_IS_NAME = re.compile(rf"(?i){_NAME}")
_IN_QUERY = re.compile(rf"(?i)(?<=[?&])({_NAME}=)[^\s&#'\"]+")
_QUOTED = re.compile(rf"(?i)(?<![\w-])({_NAME}[\"']?\s*[:=]\s*[rbuf]?)([\"'])(?!\2)(?:(?!\2).)+\2")
_BARE = re.compile(rf"(?i)(?<![\w-])({_NAME}=)[^\s,;&'\")\]}}\[]{{{_SHORTEST},}}")


def redact(text: str, is_code: bool = False) -> str:
    """Return ``text`` with every secret in it replaced by ``[redacted]``.

    Args:
        is_code: ``text`` is Python: a name behind ``token=`` is left alone, only strings go.
    """
    for value in _known():
        text = text.replace(value, HIDDEN)
    text = _FORMATS.sub(HIDDEN, text)
    text = _IN_ADDRESS.sub(f"{HIDDEN}@", text)
    text = _IN_QUERY.sub(rf"\1{HIDDEN}", text)
    text = _HEADER.sub(rf"\1{HIDDEN}", text)
    text = _QUOTED.sub(rf"\1\2{HIDDEN}\2", text)
    return text if is_code else _BARE.sub(rf"\1{HIDDEN}", text)


def redact_tree(value: Any) -> Any:
    """Return JSON values without secrets: texts as ``redact``, and those whose key tells."""
    if isinstance(value, dict):
        return {
            key: HIDDEN if isinstance(item, str) and item and is_secret_name(key) else
            redact_tree(item)
            for key, item in value.items()
        }  # fmt: skip
    if isinstance(value, list | tuple):
        return [redact_tree(item) for item in value]
    return redact(value) if isinstance(value, str) else value


def is_secret_name(name: Any) -> bool:
    """Whether a setting of this name holds a secret."""
    return bool(_IS_NAME.fullmatch(str(name)))


def _known() -> list[str]:
    """Values of the environment that are secrets, longest first."""
    found = {
        value
        for name, value in os.environ.items()
        if len(value) >= _SHORTEST
        and not value.startswith("/")
        and _TELLING & set(name.upper().split("_"))
    }
    return sorted(found, key=len, reverse=True)
