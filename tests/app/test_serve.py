"""`inlay serve`: the process, the wall in front of the page, and many visitors at once."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from parrot import parrot_service
from visitors import load, parrot_page, resident_mb

from inlay.app import serve
from inlay.cli import main

DATA = Path(serve.__file__).parent / "demo_data"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    service = parrot_service(waiting=4)
    with (
        serve.page(service, serve.free_port(0)) as address,
        httpx.Client(base_url=address, timeout=60) as client,
    ):
        yield client


def test_many_visitors_are_kept_apart_and_refused_politely_when_there_are_too_many() -> None:
    with parrot_page(waiting=3) as (address, pid):
        asyncio.run(load(address, 1, 1, 0))
        before = resident_mb(pid)
        tally = asyncio.run(load(address, 12, 36, 12))
        growth = resident_mb(pid) - before
    assert tally.outcomes["answered"] == 24 and tally.outcomes["left"] == 12
    assert tally.outcomes["broken"] == 0 and set(tally.statuses) == {200}
    assert tally.outcomes["refused"] > 0
    assert tally.refusals == {"busy: 3 others are waiting. Please try again in a moment."}
    assert tally.foreign == []
    assert growth <= 50


def test_the_page_is_there_and_nothing_is_told_to_others(client: httpx.Client) -> None:
    assert client.get("/").status_code == 200
    config = client.get("/config").json()
    assert config["analytics_enabled"] is False
    assert not config.get("space_id")
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


def test_it_listens_on_loopback_only(client: httpx.Client) -> None:
    port = client.base_url.port
    state = Path("/proc/net/tcp").read_text().splitlines()[1:]
    listening = [line.split()[1] for line in state if line.split()[3] == "0A"]
    assert [at for at in listening if at.endswith(f":{port:04X}")] == [f"0100007F:{port:04X}"]


@pytest.mark.parametrize("path", ["/gradio_api/file=http://127.0.0.1:9/x.png", "/proxy=http://x"])
def test_addresses_are_not_fetched(client: httpx.Client, path: str) -> None:
    found = client.get(path)
    assert found.status_code == 403 and "not fetched" in found.text


def test_a_file_that_is_an_address_is_refused(client: httpx.Client) -> None:
    file = {"path": "http://127.0.0.1:9/x.png", "meta": {"_type": "gradio.FileData"}}
    body: dict[str, Any] = {"data": [[{"value": file}]], "fn_index": 0, "session_hash": "s"}
    assert client.post("/gradio_api/queue/join", json=body).status_code == 403
    assert client.post("/gradio_api/run/show", json=body).status_code == 403


def test_other_hosts_names_are_refused(client: httpx.Client) -> None:
    assert client.get("/", headers={"Host": "attacker.example"}).status_code == 403
    assert client.get("/", headers={"Host": "localhost:1"}).status_code == 200


def test_bodies_are_bounded(client: httpx.Client) -> None:
    join = "/gradio_api/queue/join"
    assert client.post(join, content=b"[" * ((1 << 20) + 1)).status_code == 413
    assert client.post(join, content=b"[" * 100_000).status_code == 400
    assert client.post(join, content=iter([b"{}"])).status_code == 411
    large = {"files": ("a.png", b"0" * ((16 << 20) + (1 << 17)))}
    assert client.post("/gradio_api/upload", files=large).status_code == 413
    assert client.post("/gradio_api/upload", files={"files": ("a.png", b"0")}).status_code == 200


def test_files_of_the_machine_are_not_given_out(client: httpx.Client) -> None:
    for path in ("/etc/hostname", str(DATA / "conversations.json"), "../../etc/hostname"):
        assert client.get(f"/gradio_api/file={path}").status_code in (403, 404)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_cleanly(number: int, code: int, tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "parrot.py"
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(script), "1"]
    child = subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    address = child.stdout.readline().split()[-3]
    with httpx.stream("GET", f"{address}/gradio_api/heartbeat/tab") as page_open:
        assert page_open.status_code == 200
        child.send_signal(number)
        _, errors = child.communicate(timeout=60)
    assert child.returncode == code
    assert "Traceback" not in errors
    assert list(tmp_path.glob("inlay-serve-*")) == []


def test_a_taken_port_is_told_before_the_model_loads(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind((serve.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "no/such/model", "--port", str(port)]) == 1
    error = capsys.readouterr().err
    assert f"port {port} of 127.0.0.1 cannot be used" in error and "--port 0" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--phrases", "nouns"], "--phrases needs --ground"),
        (["--ground", "x", "--bits", "4", "--adapter", "y"], "--adapter, --bits does not go with"),
        (["--top-p", "2"], "--top-p must be in (0, 1]"),
        (["--prompt-template", "qwen_chatt"], "Did you mean 'qwen_chat'"),
    ],
)
def test_wrong_options_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "model", *words]) == 1
    assert message in capsys.readouterr().err


def test_gradio_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve.importlib.util, "find_spec", lambda _: None)
    assert main(["serve", "model"]) == 1
    assert "pip install 'inlay[web]'" in capsys.readouterr().err
