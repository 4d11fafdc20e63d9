"""Tools that a model may call while it answers, in MOSS's form.

The model ends a command with ``<eoc>``, such as ``<|Commands|>: Calculate("1+1")<eoc>``; it is
answered with ``<|Results|>:`` ... ``<eor>``, and goes on. What it wrote is looked at and never run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inlay.chat.arithmetic import calculate
from inlay.chat.equations import solve
from inlay.chat.session import ChatSession
from inlay.chat.web_search import NOTHING, WebSearch

if TYPE_CHECKING:
    from PIL.Image import Image

COMMANDS = "<|Commands|>"
END_OF_COMMANDS = "<eoc>"
MAX_CALLS = 5  # of one answer
CAPABILITIES = {
    "thoughts": "- Inner thoughts: {}.",
    "search": "- Web search: {}.",
    "calculate": "- Calculator: {}.",
    "solve": "- Equation solver: {}.",
}
"""The lines of the system text ``moss_sft`` that say what the model may use."""

_CALL = re.compile(r'\b([Cc]alculat(?:e|or)|[Ss]olver?|Search)\("([^"]*)"\)')


class Plugins:
    """The tools that are switched on.

    Args:
        names: of ``calculate``, ``solve``, ``search``.

    Raises:
        ConfigError: ``search`` without its key.
    """

    def __init__(self, names: Collection[str]) -> None:
        self.names = frozenset(names)
        self._search = WebSearch() if "search" in self.names else None

    def results(self, commands: str) -> str:
        """Return what the calls in a text give, as the model reads it.

        A tool that is switched off gives ``None``.
        """
        lines = [self._result(*call) for call in _CALL.findall(commands)[:MAX_CALLS]]
        return f"<|Results|>:\n{''.join(lines)}<eor>\n"

    def _result(self, name: str, argument: str) -> str:
        if name == "Search":
            found = self._search(argument) if self._search else NOTHING
            return f'Search("{argument}") =>\n{found}'
        if name.lower().startswith("solve"):
            solution = solve(argument) if "solve" in self.names else None
            return f'Solve("{argument}") =>\n{solution}\n'
        value = calculate(argument) if "calculate" in self.names else None
        return f'Calculate("{argument}") => {value}\n'


def with_capabilities(system: str, names: Collection[str]) -> str:
    """Return the system text ``moss_sft`` with the tools that are off marked as disabled.

    Args:
        names: the tools that are on; without any, inner thoughts are off, too.
    """
    lines = []
    for line in system.splitlines(keepends=True):
        for name, form in CAPABILITIES.items():
            is_on = bool(names) if name == "thoughts" else name in names
            if line.startswith(form.format("enabled")) and not is_on:
                line = form.format("disabled") + "\n"
        lines.append(line)
    return "".join(lines)


class PluginSession(ChatSession):
    """A conversation in which the model may call tools, once in every answer.

    Args:
        plugins: the tools.
        command_stop_word: ends the commands; None: ``<eoc>``.
        model, tokenizer, template, system, stop_words, kwargs: see ``ChatSession``.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        template: str | Mapping[str, Any] | None = None,
        system: str | None = None,
        stop_words: Sequence[str] = (),
        *,
        plugins: Plugins,
        command_stop_word: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.plugins = plugins
        self.end_of_commands = command_stop_word or END_OF_COMMANDS
        stop_words = [*stop_words, self.end_of_commands]
        super().__init__(model, tokenizer, template, system, stop_words, **kwargs)

    def reply(
        self,
        text: str,
        on_text: Callable[[str], None] | None = None,
        images: Sequence[Image] = (),
        prefix: str = "",
    ) -> str:
        """Answer ``text``; commands and results are part of the answer. See ``ChatSession``."""
        said = super().reply(text, on_text, images, prefix)
        _, called, commands = said.partition(COMMANDS)
        if not called:
            return said
        results = f"{self.end_of_commands}\n{self.plugins.results(commands)}"
        if on_text is not None:
            on_text(results)
        if self.history and self.history[-1].role == "assistant":
            del self.history[-2:]  # the turn goes on: it is remembered as one
        begun = said + results
        return begun + super().reply(text, on_text, images, prefix + begun)
