"""What a visitor asks for, held against what the server allows."""

from __future__ import annotations

from dataclasses import replace

from inlay.chat.web.parts import Refused, ServiceInfo, Settings

COLDEST = 0.01
"""Temperatures below are greedy."""


def checked(text: str, settings: Settings, info: ServiceInfo) -> Settings:
    """Return settings with no more new tokens than the server's, and with a safe temperature.

    Raises:
        Refused: a text that is missing or too long, or settings out of their ranges; all of it.
    """
    limits, system = info.limits, settings.system
    problems = [
        (len(text) > limits.text, f"the text is longer than {limits.text} characters"),
        (not text.strip() and not info.completes, "there is no text"),
        (len(system) > limits.system, f"the system text is longer than {limits.system} characters"),
        (settings.template not in (None, *info.templates), "there is no such template"),
        (not 0 <= settings.temperature <= 100, "the temperature must be 0 to 100"),
        (not 0 <= settings.top_k <= 1_000_000, "top_k must be 0 or more"),
        (not 0 < settings.top_p <= 1, "top_p must be more than 0, at most 1"),
        (not 0.1 <= settings.repetition_penalty <= 10, "the repetition penalty must be 0.1 to 10"),
        (settings.max_new_tokens < 1, "at least one new token is needed"),
        (not 0 <= settings.seed < 1 << 32, "the seed must be 0 to 4294967295"),
    ]
    found = [sentence for wrong, sentence in problems if wrong]
    if found:
        raise Refused(". ".join(found))
    most = min(settings.max_new_tokens, info.defaults.max_new_tokens)
    # Divided by less, logits overflow, which on a GPU ends the process for everybody.
    warmth = settings.temperature if settings.temperature >= COLDEST else 0.0
    return replace(settings, max_new_tokens=most, temperature=warmth)
