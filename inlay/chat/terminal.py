"""The chat loop around a session: a terminal, or a pipe on standard input."""

from __future__ import annotations

import sys
from collections.abc import Callable

from inlay.chat.session import ChatSession
from inlay.core.errors import DataError, ModelError

PROMPT = "\ndouble enter to end input (EXIT: exit chat, RESET: reset history) >>> "
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def run_chat(
    session: ChatSession, stream: bool = True, after: Callable[[bool], None] | None = None
) -> int:
    """Read texts from standard input and write each answer to standard output, until EXIT or the
    end of the input.

    A blank line ends a text, so does the end of the input. ``RESET`` drops the history. Prompts
    and notices go to standard error unless both ends are a terminal. Ctrl-C ends an answer; once
    more, or at the prompt, it ends the chat.

    Args:
        session: answers.
        stream: write answers while they are generated.
        after: called when an answer is complete, with whether both ends are a terminal.

    Returns:
        The exit code: 0, or 130 after Ctrl-C.

    Raises:
        DataError: the input is not text in the terminal's encoding.
        ModelError: a text from a pipe does not fit the model's context.
    """
    interactive = sys.stdin.isatty() and sys.stdout.isatty()
    session.on_notice = note
    interrupted = False
    try:
        while (text := read_text(interactive)) is not None:
            if text.strip() == "EXIT":
                note("Log: Exit!")
                return 0
            if text.strip() == "RESET":
                session.reset()
                note("Log: History responses have been removed!")
                continue
            if not text.strip() and not session.completes:
                continue
            interrupted = interrupted and not interactive
            try:
                _answer(session, text, stream, interactive, after)
            except KeyboardInterrupt:
                if interrupted:
                    raise
                interrupted = True
                print(flush=True)
                note("Log: The answer was stopped. Ctrl-C once more ends the chat.")
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return INTERRUPTED
    return 0


def read_text(interactive: bool) -> str | None:
    """Read lines up to a blank one and return them joined; None at the end of the input."""
    read_line = input if interactive else _piped_line
    lines: list[str] = []
    prompt = PROMPT
    while True:
        try:
            line = read_line(prompt)
        except EOFError:
            return "\n".join(lines) if lines else None
        except UnicodeDecodeError as error:
            problem = f"the input is not {sys.stdin.encoding} text: {error.reason}"
            if not interactive:
                raise DataError(f"{problem} at byte {error.start}") from error
            note(f"Log: {problem}. Please enter it again.")
            lines, prompt = [], PROMPT
            continue
        if not line:
            return "\n".join(lines)
        lines.append(line)
        prompt = ""


def _piped_line(prompt: str) -> str:
    print(prompt, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\r\n")


def _answer(
    session: ChatSession,
    text: str,
    stream: bool,
    interactive: bool,
    after: Callable[[bool], None] | None,
) -> None:
    try:
        if stream:
            session.reply(text, lambda piece: print(piece, end="", flush=True))
            print(flush=True)
        else:
            print(session.reply(text), flush=True)
        if after is not None:
            after(interactive)
    except ModelError as error:
        if not interactive:
            raise
        note(f"Log: {error}")


def note(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
