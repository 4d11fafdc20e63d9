"""Whether Python code in a model's folder may run."""

from __future__ import annotations

import os

VARIABLE = "INLAY_TRUST_REMOTE_CODE"

REFUSED = (
    "The config says trust_remote_code=True, which runs the Python code in the model's folder. "
    f"Inlay does not run it unless you set {VARIABLE}=1."
)


def is_allowed() -> bool:
    """Whether the user lets ``trust_remote_code=True`` of a config count.

    Configs are handed on, and many say it for models that need no code: so it takes the user's own
    word, ``INLAY_TRUST_REMOTE_CODE=1`` in the environment.
    """
    return os.environ.get(VARIABLE) == "1"
