"""A web search for the chat's plugin, by https://serper.dev with the user's own key."""

from __future__ import annotations

import json
import os
import urllib.request
from typing import Any

from inlay.core.errors import ConfigError

KEY = "SERPER_API_KEY"
URL = "https://google.serper.dev/search"
TIMEOUT = 5  # seconds
MAX_BYTES = 1 << 20
MAX_QUERY = 300  # characters
NUM_RESULTS = 10
NOTHING = "None\n"


class WebSearch:
    """Searches; nothing is sent anywhere unless the user has set a key.

    Raises:
        ConfigError: ``SERPER_API_KEY`` is not set.
    """

    def __init__(self) -> None:
        self._key = os.environ.get(KEY, "")
        if not self._key:
            raise ConfigError(
                f"the plugin search needs a key of https://serper.dev: export {KEY}=... first, or "
                "leave search out of --with-plugins"
            )
        # A redirect would carry the key to another address.
        self._opener = urllib.request.build_opener(_NoRedirect)

    def __call__(self, query: str) -> str:
        """Return numbered snippets, a line each; ``"None"`` where there are none or it fails."""
        request = urllib.request.Request(
            URL,
            json.dumps({"q": query[:MAX_QUERY]}).encode(),
            {"X-API-KEY": self._key, "Content-Type": "application/json"},
        )
        try:
            with self._opener.open(request, timeout=TIMEOUT) as response:
                found = json.loads(response.read(MAX_BYTES))
        except (OSError, ValueError):
            return NOTHING
        lines = [f"<|{i}|>: '{text}'\n" for i, text in enumerate(_snippets(found), 1)]
        return "".join(lines) or NOTHING


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def _snippets(found: Any) -> list[str]:
    results = found.get("organic") if isinstance(found, dict) else None
    snippets: list[str] = []
    for result in (results if isinstance(results, list) else [])[:NUM_RESULTS]:
        if not isinstance(result, dict):
            continue
        if isinstance(result.get("snippet"), str):
            snippets.append(_plain(result["snippet"]))
        attributes = result.get("attributes")
        for name, value in attributes.items() if isinstance(attributes, dict) else ():
            snippets.append(_plain(f"{name}: {value}."))
    return snippets


def _plain(text: str) -> str:
    """Text on one line, without control characters, which a terminal would obey."""
    return "".join(c if c.isprintable() else " " for c in text)
