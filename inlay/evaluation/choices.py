"""A question with lettered options, as models are asked it."""

from __future__ import annotations

import re
from collections.abc import Mapping

_ENGLISH = "Answer with the option's letter from the given choices directly."
_CHINESE = "请直接回答选项字母。"


def choice_prompt(question: str, options: Mapping[str, str], hint: str | None = None) -> str:
    """Return hint, question, one line an option, and the request for a letter.

    The request is Chinese where the text has a Chinese character. This is the prompt of LLaVA-1.5's
    and XTuner's runs of MMBench.

    Args:
        options: letter -> text.
    """
    lines = [*([hint] if hint else []), question]
    lines += [f"{letter}. {text}" for letter, text in options.items()]
    text = "\n".join(lines)
    is_chinese = re.search("[\u4e00-\u9fff]", text) is not None
    return f"{text}\n{_CHINESE if is_chinese else _ENGLISH}"
