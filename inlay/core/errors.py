"""Errors that a user can act on: what was expected, what was found, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InlayError(Exception):
    """A mistake in the input or the environment, not in Inlay.

    The command line prints the message alone, without a traceback, and exits with ``exit_code``.
    """

    exit_code = 1


class ConfigError(InlayError):
    """The config file, or an override of it, cannot describe a run."""


class DataError(InlayError):
    """A data source is missing, malformed, empty or exceeds its bad-row limit."""


class CheckpointError(InlayError):
    """A checkpoint is missing, damaged, foreign or refused because the run has changed."""


class ModelError(InlayError):
    """A model or an adapter cannot be loaded, or does not fit what is asked of it."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known name, or an empty string."""
    near = difflib.get_close_matches(name, [str(k) for k in known], n=1, cutoff=0.6)
    return f" Did you mean '{near[0]}'?" if near else ""
