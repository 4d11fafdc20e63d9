"""The kinds of grounding data, and sources from what a config says of them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from inlay.core.errors import ConfigError, did_you_mean
from inlay.data.grounding.phrases import PhraseSet
from inlay.data.grounding.png import PNG
from inlay.data.grounding.refcoco import RefCOCO
from inlay.data.grounding.source import GroundingSource

KINDS: dict[str, type[GroundingSource]] = {"PNG": PNG, "PhraseSet": PhraseSet, "RefCOCO": RefCOCO}


def as_sources(value: Any) -> list[GroundingSource]:
    """Return sources from a source, a dict of its arguments with its ``type`` (the class or its
    name), or a list of these.

    Raises:
        ConfigError: an unknown type or argument, no source, or weights on some of them only.
        DataError: a file is missing or malformed.
    """
    items: Sequence[Any] = value if isinstance(value, list | tuple) else [value]
    if not items:
        raise ConfigError("sources must name at least one source, got an empty list")
    sources = [_as_source(item) for item in items]
    if len({source.share.weight is None for source in sources}) > 1:
        raise ConfigError("either all sources have a weight or none has")
    return sources


def _as_source(item: Any) -> GroundingSource:
    if isinstance(item, GroundingSource):
        return item
    arguments = dict(item) if isinstance(item, Mapping) else {}
    kind = arguments.pop("type", None)
    if isinstance(kind, str) and kind in KINDS:
        kind = KINDS[kind]
    if not (isinstance(kind, type) and issubclass(kind, GroundingSource)):
        raise ConfigError(
            f"a source is one of {', '.join(KINDS)}, or a dict with its type, got {item!r}."
            f"{did_you_mean(str(kind), KINDS)}"
        )
    try:
        inspect.signature(kind).bind(**arguments)
    except TypeError as error:
        raise ConfigError(f"{kind.__name__}: {error}") from None
    return kind(**arguments)
