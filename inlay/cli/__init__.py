"""The command line: every other file of this folder is one command.

A command file holds ``NAME``, ``HELP`` (one line), optionally ``ALIASES`` (a tuple of names),
``add_arguments(parser)`` and ``run(args) -> int | None``. Its name is ``NAME`` with underscores for
hyphens. It must import quickly: heavy imports belong inside ``run``. ``args.command`` is the name
that the user typed, which tells an alias from the command itself.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import logging
import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from inlay import __version__
from inlay.core.errors import InlayError, did_you_mean
from inlay.core.secrets import redact

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
BROKEN_PIPE = 141  # 128 + SIGPIPE
# Importing torch and transformers makes a million objects that stay: looking for garbage among them
# after every 700, as Python does, is a sixth of the start.
GC_THRESHOLD = 50_000
BUILT_IN = {"help": "show this text, or the help of COMMAND", "version": "show the version"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the process's exit code.

    Args:
        argv: the words after ``inlay``; those of the process when None.

    Raises:
        SystemExit: with code 2 for wrong arguments, with code 0 after ``COMMAND --help``.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    gc.set_threshold(GC_THRESHOLD)
    # bitsandbytes looks for an optional kernel package at import and warns that it has none.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        # Progress bars of the libraries are for terminals; in a log they are noise.
        os.environ.setdefault("TQDM_DISABLE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except InlayError as error:
        if os.environ.get("INLAY_DEBUG") == "1":
            _print_traceback()
        else:
            _print_error(redact(str(error)))
        return error.exit_code
    except KeyboardInterrupt:
        _print_error("interrupted")
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():
            return BROKEN_PIPE
        _print_failure(words[0], error)
        return 1


def _dispatch(words: list[str]) -> int:
    if not words:
        print(_help_text(), file=sys.stderr)
        return USAGE_ERROR
    name, rest = words[0].lower(), words[1:]
    if name in ("-v", "--version", "version"):
        print(f"inlay {__version__}")
        return 0
    if name in ("-h", "--help", "help"):
        if not rest:
            print(_help_text())
            return 0
        name, rest = rest[0].lower(), ["--help"]
    command = _find(name)
    if command is None:
        known = [*BUILT_IN, *(n for c in _load_all() for n in _names(c))]
        kind = "option" if name.startswith("-") else "command"
        hint = did_you_mean(name, known)
        _print_error(f"unknown {kind} '{name}'.{hint} `inlay help` lists the commands.")
        return USAGE_ERROR
    return command.run(_parse(command, name, rest)) or 0


def _parse(command: ModuleType, name: str, words: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=f"inlay {name}", description=command.HELP, allow_abbrev=False
    )
    command.add_arguments(parser)
    args, unknown = parser.parse_known_args(words)
    if unknown:
        known = [option for action in parser._actions for option in action.option_strings]
        hint = did_you_mean(unknown[0].partition("=")[0], known)
        parser.error(f"unrecognized arguments: {' '.join(unknown)}.{hint}")
    args.command = name
    return args


def _names(command: ModuleType) -> tuple[str, ...]:
    return (command.NAME, *getattr(command, "ALIASES", ()))


def _stems() -> list[str]:
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def _load(stem: str) -> ModuleType:
    return importlib.import_module(f"{__name__}.{stem}")


def _load_all() -> list[ModuleType]:
    return [_load(stem) for stem in _stems()]


def _find(name: str) -> ModuleType | None:
    """Return the command called ``name``, importing its file alone unless ``name`` is an alias.

    Hyphens and underscores are the same: XTuner's users know names of both kinds.
    """
    stem = name.replace("-", "_")
    if stem in _stems():
        return _load(stem)
    return next((c for c in _load_all() if name in _names(c)), None)


def _help_text() -> str:
    rows = {", ".join(_names(c)): c.HELP for c in _load_all()} | BUILT_IN
    width = max(map(len, rows))
    lines = [f"  {names:<{width}}  {text}" for names, text in rows.items()]
    return "\n".join(
        [
            "usage: inlay COMMAND [ARGUMENTS]",
            "",
            "Train, fine-tune and ground language and vision-language models.",
            "",
            "commands:",
            *lines,
            "",
            "`inlay help COMMAND` shows its arguments; INLAY_DEBUG=1 adds tracebacks to errors.",
        ]
    )


def _print_error(message: str) -> None:
    """Print to standard error: in colour on a terminal (NO_COLOR honoured), else plain text."""
    # bitsandbytes looks for an optional kernel package at import and warns that it has none.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        print(f"error: {message}", file=sys.stderr)
        return
    from rich.console import Console
    from rich.text import Text

    text = Text.assemble(("error: ", "bold red"), message)
    Console(stderr=True).print(text, soft_wrap=True)


def _print_failure(command: str, error: Exception) -> None:
    """Tell a shortage of memory in a line, whatever else went wrong with its traceback."""
    from inlay.app.memory.shortage import in_short

    told = in_short(command, error)
    if told is None or os.environ.get("INLAY_DEBUG") == "1":
        _print_traceback()
    else:
        _print_error(told)


def _print_traceback() -> None:
    """Print the exception that is handled, without secrets."""
    print(redact(traceback.format_exc()), end="", file=sys.stderr)


def _stdout_is_closed() -> bool:
    """Whether the reader of our standard output has gone, as in ``inlay list-cfg | head -1``."""
    try:
        sys.stdout.write("\n")  # what failed to be written is gone: only a new write can tell
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes once more at exit: give it somewhere to write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False
