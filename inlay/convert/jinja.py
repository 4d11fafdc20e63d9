"""A prompt template dict as the Jinja chat template that other tools read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

_TURNS = """\
{%- set turn = namespace(number=0, system='', input='', open=false) -%}
{%- macro prompt() -%}
{{- OPENING -}}
{%- if turn.system -%}{{- SYSTEM -}}{%- endif -%}
{{- INSTRUCTION -}}
{%- endmacro -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{%- set turn.system = message['content'] -%}
{%- elif message['role'] == 'user' -%}
{%- set turn.input = turn.input + message['content'] -%}
{%- set turn.open = true -%}
{%- elif message['role'] == 'assistant' -%}
{%- set turn.number = turn.number + 1 -%}
{{- prompt() + message['content'] + CLOSING -}}
{%- set turn.system = '' -%}
{%- set turn.input = '' -%}
{%- set turn.open = false -%}
{%- else -%}
{{- raise_exception('this chat template has no turn for the role ' + message['role']) -}}
{%- endif -%}
{%- endfor -%}
{%- if turn.open -%}
{%- set turn.number = turn.number + 1 -%}
{{- prompt() -}}
{%- endif -%}
"""


_TEXT = """\
{%- macro text(content) -%}
{%- if content is string -%}{{- content -}}{%- else -%}
{%- for part in content -%}
{%- if part['type'] == 'image' -%}{{- PICTURE -}}{%- else -%}{{- part['text'] -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
"""


def chat_template(
    template: Mapping[str, Any], bos: str, eos: str, picture: str | None = None
) -> str:
    """Return Jinja source that renders a conversation as training saw it.

    Args:
        template: a prompt template, see ``inlay.data.templates``.
        bos: what training wrote before the first turn, empty for nothing.
        eos: the tokenizer's EOS token; it ends an answer unless SUFFIX_AS_EOS.
        picture: what ``{"type": "image"}`` becomes in a content that is a list of parts; None for
            a model that reads text only.
    """
    ends_with_eos = not template.get("SUFFIX_AS_EOS")
    closing = (template.get("SUFFIX") or "") + (eos if ends_with_eos else "")
    # A BOS opens the text, and again each turn that follows an EOS.
    opening = _literal(bos)
    if not ends_with_eos:
        opening = f"{opening} if turn.number == 1 else ''"
    system = _expression(template.get("SYSTEM") or "", system="turn.system")
    text = "turn.input"
    if template.get("SYSTEM_INSIDE"):
        text, system = f"(({system}) if turn.system else '') + turn.input", "''"
    parts = {
        "OPENING": opening,
        "SYSTEM": system,
        "INSTRUCTION": _expression(template["INSTRUCTION"], input=text, round="turn.number"),
        "CLOSING": _literal(closing + (template.get("SEP") or "")),
    }
    source = _TURNS
    if picture is not None:
        source = _TEXT + _TURNS.replace("message['content']", "text(message['content'])")
        parts["PICTURE"] = _literal(picture)
    return re.sub("|".join(parts), lambda found: parts[found[0]], source)


def with_parts(source: str, picture: str) -> str:
    """Return a chat template for plain contents as one that also takes lists of parts.

    Args:
        picture: what ``{"type": "image"}`` becomes.
    """
    return (
        _TEXT.replace("PICTURE", _literal(picture))
        + _EACH.replace("CONTENT", "text(message['content'])")
        + source
    )


def with_strings(source: str) -> str:
    """Return a chat template for lists of parts as one that also takes plain contents."""
    content = "[{'type': 'text', 'text': message['content']}]"
    return _EACH.replace("is not string", "is string").replace("CONTENT", content) + source


_EACH = """\
{%- set turns = namespace(all=[]) -%}
{%- for message in messages -%}
{%- if message['content'] is defined and message['content'] is not none
    and message['content'] is not string -%}
{%- set turns.all = turns.all + [dict(message, content=CONTENT)] -%}
{%- else -%}
{%- set turns.all = turns.all + [message] -%}
{%- endif -%}
{%- endfor -%}
{%- set messages = turns.all -%}
"""


def _expression(text: str, **values: str) -> str:
    """Jinja expression of ``text`` with its ``{name}`` fields replaced by expressions."""
    terms = []
    for part in re.split(r"(\{\w+\})", text):
        if part.startswith("{") and part[1:-1] in values:
            terms.append(f"({values[part[1:-1]]})|string")
        elif part:
            terms.append(_literal(part))
    return " + ".join(terms) or "''"


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
