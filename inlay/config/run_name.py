"""``run_name``: a text with fields that a run fills in when it starts."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from string import Formatter
from typing import Any

from inlay.core.errors import ConfigError, did_you_mean

OF_THE_RUN = ("num_gpus", "global_batch", "date")
"""Fields that no setting holds."""


def parse(template: str) -> Iterator[tuple[str, str | None, str]]:
    """Yield (text, field, format) pieces of a template; field is None in the last piece.

    Raises:
        ConfigError: a brace is not closed.
    """
    try:
        for text, field, form, _ in Formatter().parse(template):
            yield text, field, form or ""
    except ValueError as error:
        raise ConfigError(f"run_name: {error} in {template!r}") from error


def fields(cfg: Mapping[str, Any]) -> set[str]:
    """Return the names in braces of a config's ``run_name``; none for one that cannot be read."""
    template = cfg.get("run_name")
    try:
        pieces = list(parse(template)) if isinstance(template, str) else []
    except ConfigError:
        return set()
    return {field for _, field, _ in pieces if field is not None}


def resolve(cfg: Mapping[str, Any], num_gpus: int, global_batch: int) -> str | None:
    """Return the run's name with all fields filled in, or None where the config has none.

    Of a setting that is a path or a hub name the last part stands in the name, of a class its name.

    Args:
        global_batch: samples (or packs) of one update over all devices.

    Raises:
        ConfigError: a field is no setting, or its format does not fit its value.
    """
    template = cfg.get("run_name")
    if template is None:
        return None
    given = {
        "num_gpus": num_gpus,
        "global_batch": global_batch,
        "date": time.strftime("%m%d-%H%M%S"),
    }
    settings = usable(cfg)
    name = ""
    for text, field, form in parse(template):
        name += text
        if field is None:
            continue
        if field not in given and field not in settings:
            raise ConfigError(
                f"run_name: there is no '{field}'.{did_you_mean(field, [*given, *settings])}"
            )
        try:
            name += format(given.get(field, settings.get(field)), form)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"run_name: {{{field}:{form}}}: {error}") from error
    return name


def usable(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that can stand in a name, as they stand in it."""
    found: dict[str, Any] = {}
    for name, value in cfg.items():
        if isinstance(value, str) and name != "run_name":
            found[name] = value.rstrip("/").rpartition("/")[2]
        elif isinstance(value, int | float):
            found[name] = value
        elif isinstance(value, type):
            found[name] = value.__name__
    return found
