"""The command line's frame: finding commands, help, exit codes, and what reaches the user."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import inlay
from inlay import cli
from inlay.core.errors import DataError

PROBE = """
NAME = "probe-it"
ALIASES = ("poke",)
HELP = "a command for the tests"


def add_arguments(parser):
    parser.add_argument("what")
    parser.add_argument("--cfg-options", nargs="+", default=[])


def run(args):
    from inlay.core.errors import InlayError

    class Special(InlayError):
        exit_code = 7

    if args.what == "inlay-error":
        raise Special("expected 3 rows, found 2 in rows.json")
    if args.what == "interrupt":
        raise KeyboardInterrupt
    if args.what == "crash":
        raise RuntimeError("a fault of ours")
    if args.what == "pipe":
        raise BrokenPipeError("a worker's pipe")
    if args.what == "flood":
        while True:
            print("y" * 1000)
    if args.what == "exit":
        raise SystemExit(143)
    print(args.command, args.what, args.cfg_options)
    return 5 if args.what == "five" else None
"""


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of commands that holds ``probe-it`` and one command that must not be imported."""
    (tmp_path / "probe_it.py").write_text(PROBE)
    (tmp_path / "explosive.py").write_text("raise AssertionError('imported without need')\n")
    monkeypatch.setattr(cli, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "inlay.cli.probe_it", raising=False)
    yield tmp_path
    for name in ("probe_it", "explosive"):
        sys.modules.pop(f"inlay.cli.{name}", None)


def run_inlay(*words: str, code: str = "") -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-c", code] if code else [sys.executable, "-m", "inlay"]
    return subprocess.run([*start, *words], capture_output=True, text=True)


def test_only_the_named_command_is_imported(commands: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["probe-it", "x", "--cfg-options", "a=1", "b=2"]) == 0
    assert capsys.readouterr().out == "probe-it x ['a=1', 'b=2']\n"


def test_run_gives_the_exit_code(commands: Path) -> None:
    assert cli.main(["probe-it", "five"]) == 5


def test_alias_is_told_to_the_command(commands: Path, capsys: pytest.CaptureFixture) -> None:
    (commands / "explosive.py").unlink()
    assert cli.main(["poke", "x"]) == 0
    assert capsys.readouterr().out.startswith("poke x")


def test_help_lists_every_command(commands: Path, capsys: pytest.CaptureFixture) -> None:
    (commands / "explosive.py").unlink()
    texts = []
    for words in (["help"], ["-h"], ["--help"]):
        assert cli.main(words) == 0
        texts.append(capsys.readouterr().out)
    assert "probe-it, poke  a command for the tests" in texts[0]
    assert texts[0] == texts[1] == texts[2]


@pytest.mark.parametrize("words", [["help", "probe-it"], ["probe-it", "-h"]])
def test_help_of_one_command(
    words: list[str], commands: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 0
    assert "--cfg-options" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["version", "-v", "--version"])
def test_version(word: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main([word]) == 0
    assert capsys.readouterr().out == f"inlay {inlay.__version__}\n"


def test_no_command_is_a_usage_error(capsys: pytest.CaptureFixture) -> None:
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("usage: inlay COMMAND")


def test_unknown_command(commands: Path, capsys: pytest.CaptureFixture) -> None:
    (commands / "explosive.py").unlink()
    assert cli.main(["probe-itt", "x"]) == 2
    assert "unknown command 'probe-itt'. Did you mean 'probe-it'?" in capsys.readouterr().err
    assert cli.main(["--versoin"]) == 2
    assert "unknown option '--versoin'." in capsys.readouterr().err


def test_unknown_option(commands: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["probe-it", "x", "--cfg-option=a=1"])
    assert stop.value.code == 2
    assert "--cfg-option=a=1. Did you mean '--cfg-options'?" in capsys.readouterr().err


def test_inlay_error_is_one_plain_line(
    commands: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INLAY_DEBUG", raising=False)
    assert cli.main(["probe-it", "inlay-error"]) == 7
    assert capsys.readouterr() == ("", "error: expected 3 rows, found 2 in rows.json\n")
    monkeypatch.setenv("INLAY_DEBUG", "1")
    assert cli.main(["probe-it", "inlay-error"]) == 7
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("no_color", [True, False])
def test_colour_on_a_terminal_only_without_no_color(
    no_color: bool, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    cli._print_error("at [model.lora] " + "long " * 60)
    err = capsys.readouterr().err
    assert ("\x1b[1;31m" in err) is not no_color
    assert "at [model.lora] long long" in err and err.count("\n") == 1


def test_interrupt_crash_and_exit(commands: Path, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["probe-it", "interrupt"]) == 130
    assert "Traceback" not in capsys.readouterr().err
    assert cli.main(["probe-it", "crash"]) == 1
    assert "RuntimeError: a fault of ours" in capsys.readouterr().err
    assert cli.main(["probe-it", "pipe"]) == 1, "only a closed standard output ends quietly"
    assert "BrokenPipeError: a worker's pipe" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        cli.main(["probe-it", "exit"])
    assert stop.value.code == 143


def test_reader_that_leaves_early_is_no_error(commands: Path) -> None:
    code = (
        "import sys; from inlay import cli\n"
        f"cli.__path__ = [{str(commands)!r}]\n"
        "sys.exit(cli.main(['probe-it', 'flood']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline().startswith(b"yyy")
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(timeout=30) == 141


def test_help_of_the_real_program_imports_nothing_heavy() -> None:
    code = (
        "import sys; from inlay.cli import main; code = main(['--help'])\n"
        "heavy = {'torch', 'transformers', 'datasets', 'numpy', 'rich'} & set(sys.modules)\n"
        "sys.exit(code or f'imported {heavy}' if heavy else code)"
    )
    done = run_inlay(code=code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: inlay COMMAND")


def test_python_m_inlay_is_the_program() -> None:
    done = run_inlay("version")
    assert (done.returncode, done.stdout) == (0, f"inlay {inlay.__version__}\n")


def test_every_real_command_keeps_the_contract() -> None:
    for command in cli._load_all():
        stem = command.__name__.rpartition(".")[2]
        assert command.NAME.replace("-", "_") == stem
        assert command.HELP and "\n" not in command.HELP
        with pytest.raises(SystemExit) as stop:
            cli.main(["help", command.NAME])
        assert stop.value.code == 0 and callable(command.run)
    names = [n for c in cli._load_all() for n in cli._names(c)]
    assert len(names) == len(set(names)), "two commands share a name"


def test_errors_carry_code_one_by_default() -> None:
    assert DataError("x").exit_code == 1
