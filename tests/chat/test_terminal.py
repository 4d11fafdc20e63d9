"""The chat loop: pipes, RESET, EXIT, Ctrl-C, and the command around it."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import inlay
from inlay.chat import terminal
from inlay.chat.session import ChatSession
from inlay.cli import main
from inlay.core.errors import DataError


class Parrot:
    """A session that repeats what it hears."""

    def __init__(self, completes: bool = False) -> None:
        self.completes = completes
        self.heard: list[str] = []
        self.interrupt = 0

    def reset(self) -> None:
        self.heard.append("<reset>")

    def reply(self, text: str, on_text: Callable[[str], None] | None = None) -> str:
        self.heard.append(text)
        if self.interrupt:
            self.interrupt -= 1
            raise KeyboardInterrupt
        answer = f"[{text}]"
        for piece in answer if on_text else "":
            on_text(piece)
        return answer


@pytest.fixture
def talk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    def run(session: Parrot, text: str, **kwargs: bool) -> tuple[int, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))
        code = terminal.run_chat(session, **kwargs)
        return code, capsys.readouterr().out

    return run


@pytest.mark.parametrize("stream", [True, False])
def test_a_pipe_gets_answers_only(talk: Callable[..., tuple[int, str]], stream: bool) -> None:
    session = Parrot()
    out = talk(session, "one\ntwo\n\nthree\r\n\r\n\n\nlast", stream=stream)
    assert out == (0, "[one\ntwo]\n[three]\n[last]\n")
    assert session.heard == ["one\ntwo", "three", "last"]


def test_reset_and_exit(talk: Callable[..., tuple[int, str]]) -> None:
    session = Parrot()
    assert talk(session, "a\n\nRESET\n\nb\n\nEXIT\n\nnever\n\n") == (0, "[a]\n[b]\n")
    assert session.heard == ["a", "<reset>", "b"]


def test_a_blank_line_completes_from_nothing_only_without_a_template(
    talk: Callable[..., tuple[int, str]],
) -> None:
    assert talk(Parrot(completes=True), "\n") == (0, "[]\n")
    assert talk(Parrot(completes=False), "\n") == (0, "")
    assert talk(Parrot(completes=True), "") == (0, "")


def test_ctrl_c_stops_the_answer_and_then_the_chat(talk: Callable[..., tuple[int, str]]) -> None:
    session = Parrot()
    session.interrupt = 1
    assert talk(session, "a\n\nb\n\n") == (0, "\n[b]\n")
    session.interrupt = 2
    assert talk(session, "a\n\nb\n\nc\n\n")[0] == 130


def test_input_that_is_not_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), "utf-8"))
    with pytest.raises(DataError, match="utf-8"):
        terminal.run_chat(Parrot())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--prompt-template", "qwen_chatt"], "'qwen_chat'"),
        (["--system-template", "alpacca"], "'alpaca'"),
        (["--top-p", "0"], "--top-p must be in (0, 1], got 0.0"),
    ],
)
def test_wrong_options(
    options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", "nowhere", *options]) == 1
    assert expected in capsys.readouterr().err


@pytest.mark.shared
def test_the_command_on_a_pipe(shared_data: Path) -> None:
    folder = shared_data / "models" / "stories260k"
    recorded = (folder / "greedy_from_bos.txt").read_text("utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "inlay", "chat", folder, "--temperature=0", "--max-new-tokens=200"],
        input="\nRESET\n\n\nEXIT",
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=Path(inlay.__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{recorded}\n{recorded}\n"
    assert "double enter" in done.stderr


def test_an_adapter_brings_its_tokenizer(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lora = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_model), lora).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant", "bot")
    tokenizer.save_pretrained(tmp_path)
    sessions: list[ChatSession] = []
    monkeypatch.setattr(terminal, "run_chat", lambda session, stream: sessions.append(session))
    for options in ([], ["--adapter", str(tmp_path)]):
        main(["chat", str(tiny_model), *options])
    plain, tuned = sessions
    assert tuned.tokenizer.chat_template == tokenizer.chat_template
    assert plain.tokenizer.chat_template != tokenizer.chat_template
    assert set(tuned.model.peft_config) == {"default"}


@pytest.mark.parametrize("option", [[], ["--no-streamer"]])
def test_the_command_on_a_chat_model(
    tiny_model: Path,
    option: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n"))
    words = ["chat", str(tiny_model), "--system", "S", "--max-new-tokens", "8", *option]
    assert main(words) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr(sys, "stdin", io.StringIO("hello\n\n"))
    assert main(words) == 0
    assert capsys.readouterr().out == first != ""
