"""Tools of the chat: their form, what the model is told of them, and that its text is never run."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from inlay.chat import web_search
from inlay.chat.plugins import Plugins, PluginSession, with_capabilities
from inlay.cli import main
from inlay.core.errors import ConfigError
from inlay.data.templates import SYSTEM_TEMPLATE, fill


def hostile(canary: Path) -> list[str]:
    """Thirty texts that would do harm, and twenty that would take long, where they were run."""
    run = f"open({str(canary)!r}, chr(119))"
    system = f"__import__('os').system('touch {canary}')"
    reach = "().__class__.__base__.__subclasses__()"
    return [
        run,
        system,
        f"eval({system!r})",
        f"exec({run!r})",
        f"{reach}[104].load_module('os').system('touch {canary}')",
        f"[c for c in {reach} if c.__name__ == 'Popen']",
        f"(lambda: {run})()",
        f"[{run} for _ in [1]]",
        f"{{{run}: 1}}",
        f"1 if {run} else 2",
        f"x={run}",
        f"x={system}, x+1=2",
        f"x=1; {run}",
        f"(x:={run})",
        f"abs({run})",
        f"max(1, key=lambda _: {run})",
        f"sqrt(*[{run}])",
        f"f'{{{run}}}'",
        f"'{{0.__class__}}'.format({run})",
        f"globals()['__builtins__'].{run}",
        f"getattr(__builtins__, 'open')({str(canary)!r}, 'w')",
        f"math.__loader__.load_module('os').system('touch {canary}')",
        f"abs.__self__.{run}",
        f"breakpoint() or {run}",
        f"compile({run!r}, '', 'eval')",
        f"sin.__globals__ or {run}",
        f"__import__('subprocess').run(['touch', {str(canary)!r}])",
        f"import os; os.system('touch {canary}')",
        f"assert {run}",
        f"\\n{run}",
        "9**9**9**9",
        "9**(9**9)",
        "(9**999)**(9**999)",
        "factorial(9**9)",
        "factorial(factorial(20))",
        "factorial(inf)",
        "pow(9, 9**9)",
        "pow(9, 9, 9**9**9)",
        "round(5, -10**9)",
        "gcd(9**9**9, 3)",
        "1<<9**9",
        "'a'*9**9",
        "[0]*9**9",
        "(" * 150 + "1" + ")" * 150,
        "-" * 299 + "1",
        "((((x+1)^8)^8)^8)^8=1",
        "(a+b+c+d)^8*(a+b+c+d)^8=(a-b-c-d)^8",
        "x^8+y^8=1, y^8+z^8=2, z^8+x^8=3",
        "x=" + "*".join(["(x+y+z+1)"] * 25),
        "x^99999999999=" + "9" * 200,
    ]


def test_hostile_texts_do_nothing_and_take_no_time(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    plugins = Plugins(["calculate", "solve"])
    plugins.results('Calculate("1") Solve("x=1")')  # imports
    texts = hostile(canary)
    assert len(texts) == 50
    for text in texts:
        for name in ("Calculate", "Solve"):
            began = time.perf_counter()
            quoted = text.replace('"', "'")
            result = plugins.results(f'{name}("{quoted}")')
            assert time.perf_counter() - began < 1, text
            assert not canary.exists(), text
            assert "No result." in result or text not in texts[:30], text


def test_results_have_the_form_of_moss() -> None:
    plugins = Plugins(["calculate"])
    commands = ': calculator("2*3"), Solve("x=1"), Search("who?"), Nothing("1")'
    assert plugins.results(commands) == (
        '<|Results|>:\nCalculate("2*3") => 6.00\nSolve("x=1") =>\nNone\nSearch("who?") =>\nNone\n'
        "<eor>\n"
    )
    assert Plugins(["solve"]).results('Solver("2x=4")') == (
        '<|Results|>:\nSolve("2x=4") =>\nx_0 = 2\n<eor>\n'
    )
    assert Plugins([]).results("None") == "<|Results|>:\n<eor>\n"
    many = Plugins(["calculate"]).results('Calculate("1")' * 9)
    assert many.count("=>") == 5


def test_the_system_text_names_only_what_is_on() -> None:
    text = fill(SYSTEM_TEMPLATE.moss_sft, bot_name="Bo")
    told = with_capabilities(text, ["calculate"])
    assert "- Inner thoughts: enabled.\n" in told
    assert "- Calculator: enabled. API: Calculate(expression)\n" in told
    assert "- Web search: disabled.\n- Calculator" in told
    assert "- Equation solver: disabled.\n" in told
    off = with_capabilities(text, ())
    assert "enabled" not in off and off.count("disabled") == 7
    assert with_capabilities(text, ["calculate", "solve", "search"]) == text


@pytest.fixture
def scripted(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model that says given texts, one after the other; ``prompts`` is what it was asked."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    model.tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model.prompts = []

    def say(*texts: str) -> None:
        rest = [model.tokenizer(text).input_ids for text in texts]

        def generate(input_ids: torch.Tensor, stopping_criteria: Any, **kwargs: Any) -> None:
            model.prompts.append(model.tokenizer.decode(input_ids[0]))
            for token in rest.pop(0):
                input_ids = torch.cat([input_ids, torch.tensor([[token]])], 1)
                if bool(stopping_criteria(input_ids, None)):
                    return

        monkeypatch.setattr(model, "generate", generate)

    model.say = say
    return model


def test_a_session_calls_a_tool_and_goes_on(scripted: Any) -> None:
    thoughts = '<|Inner Thoughts|>: sum<eot>\n<|Commands|>: Calculate("12*12")'
    scripted.say(f"{thoughts}<eoc>never", "<|MOSS|>: It is 144.<eom>never", "Bye.<eom>")
    pieces: list[str] = []
    session = PluginSession(
        scripted,
        scripted.tokenizer,
        "moss_sft",
        "You are Bo.",
        plugins=Plugins(["calculate"]),
    )
    answer = session.reply("12*12?", pieces.append)
    results = '<eoc>\n<|Results|>:\nCalculate("12*12") => 144.00\n<eor>\n'
    assert answer == f"{thoughts}{results}<|MOSS|>: It is 144." == "".join(pieces)
    question = "You are Bo.\n<|Human|>: 12*12?<eoh>\n"
    assert scripted.prompts == [question, f"{question}{thoughts}{results}"]
    assert [m.role for m in session.history] == ["system", "user", "assistant"]
    assert session.history[-1].content == answer
    # Without a command the answer is complete at once.
    assert session.reply("Thanks") == "Bye."
    assert scripted.prompts[2].startswith(f"{question}{answer}")


def test_another_stop_word_for_commands(scripted: Any) -> None:
    scripted.say('<|Commands|>: Solve("x=2")[END]x', "ok<eom>")
    session = PluginSession(
        scripted,
        scripted.tokenizer,
        "moss_sft",
        plugins=Plugins(["solve"]),
        command_stop_word="[END]",
    )
    assert session.reply("?").endswith('[END]\n<|Results|>:\nSolve("x=2") =>\nx_0 = 2\n<eor>\nok')


class Serper(BaseHTTPRequestHandler):
    """Answers searches as the service does; ``answers`` and ``asked`` are the test's."""

    answers: list[tuple[int, bytes]] = []
    asked: list[tuple[str | None, Any]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        type(self).asked.append((self.headers["X-API-KEY"], json.loads(body)))
        status, answer = self.answers.pop(0)
        self.send_response(status)
        if status == 302:
            self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_GET(self) -> None:
        type(self).asked.append((self.headers["X-API-KEY"], self.path))
        self.send_error(404)

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def serper(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Serper]]:
    server = HTTPServer(("127.0.0.1", 0), Serper)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(web_search, "URL", f"http://127.0.0.1:{server.server_port}/search")
    monkeypatch.setenv("SERPER_API_KEY", "secret")
    Serper.asked, Serper.answers = [], []
    yield Serper
    server.shutdown()
    server.server_close()
    thread.join()


def test_search(serper: type[Serper]) -> None:
    organic = [
        {"snippet": "Oslo is\x1b[31m a city", "attributes": {"Area": "454 km2"}},
        "odd",
        {"title": "no snippet"},
    ]
    serper.answers = [
        (200, json.dumps({"organic": organic}).encode()),
        (403, b"{}"),
        (200, b"not json"),
        (302, b""),
        (200, b"[]"),
    ]
    plugins = Plugins(["search"])
    found = plugins.results('Search("Oslo?")')
    assert found == (
        "<|Results|>:\nSearch(\"Oslo?\") =>\n<|1|>: 'Oslo is [31m a city'\n"
        "<|2|>: 'Area: 454 km2.'\n<eor>\n"
    )
    for _ in range(4):
        assert plugins.results('Search("x")').splitlines()[2] == "None"
    assert serper.asked[0] == ("secret", {"q": "Oslo?"})
    assert len(serper.asked) == 5, "a redirect is not followed: it would carry the key away"


def test_search_without_a_key_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERPER_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="SERPER_API_KEY"):
        Plugins(["search"])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--lagent"], "--lagent was removed"),
        (["--with-plugins", "calculate", "--prompt-template", "vicuna"], "moss_sft"),
        (["--with-plugins", "calculate", "--system-template", "alpaca"], "moss_sft"),
        (["--with-plugins", "search"], "SERPER_API_KEY"),
        (["--with-plugins", "solve", "--ground", "x", "--image", "y"], "does not go with --ground"),
    ],
)
def test_refused_options(
    options: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SERPER_API_KEY", raising=False)
    assert main(["chat", "nowhere", *options]) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert expected in err
