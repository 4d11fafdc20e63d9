"""Many visitors of one page at once, over HTTP, as browsers speak with gradio."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

ASK = "ask"
SETTINGS: list[Any] = [None, "", 0.0, 0, 1.0, 1.0, 2000, 0]
"""Of the page: template, system, temperature, top-k, top-p, repetition penalty, tokens, seed."""


@dataclass
class Tally:
    """What visitors saw.

    Attributes:
        statuses: of all HTTP answers.
        outcomes: "answered", "left" (in the middle) or "broken" of each request; "refused" counts
            the tries before.
        foreign: answers that hold another visitor's words, or miss own ones.
        refusals: sentences of refusals.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    foreign: list[str] = field(default_factory=list)
    refusals: set[str] = field(default_factory=set)

    @property
    def num_server_errors(self) -> int:
        return sum(count for status, count in self.statuses.items() if status >= 500)


@contextmanager
def parrot_page(waiting: int) -> Iterator[tuple[str, int]]:
    """Serve a parrot from a process of its own; yields its address and process id."""
    script = str(Path(__file__).with_name("parrot.py"))
    command = [sys.executable, script, str(waiting)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        address = next(word for word in child.stdout.readline().split() if "http" in word)
        yield address, child.pid
    finally:
        child.terminate()
        code = child.wait(60)
    assert code == 143, code


def resident_mb(pid: int) -> float:
    """Memory of a process that is in RAM."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise LookupError(pid)


class Visitor:
    """One browser tab, which asks one thing after the other."""

    def __init__(self, client: httpx.AsyncClient, number: int, tally: Tally) -> None:
        self.client, self.tally = client, tally
        self.name = f"v{number}"
        self.session = f"session{number}"
        self.draw = random.Random(number)
        self.asked: list[str] = []

    async def visit(self, calls: int, num_requests: int, num_left: int) -> None:
        """Ask ``num_requests`` times; leave ``num_left`` of the answers in the middle."""
        leaving = set(self.draw.sample(range(num_requests), num_left))
        for number in range(num_requests):
            outcome = "refused"
            while outcome == "refused":
                outcome = await self.ask(calls, number, number in leaving)
                self.tally.outcomes[outcome] += 1
                await asyncio.sleep(self.draw.uniform(0.2, 2.0))

    async def ask(self, calls: int, number: int, leave: bool) -> str:
        mark = f"{self.name}q{number}"
        text = f"repeat <<{mark}>>" + (" at length" if leave else "")
        body = {"data": [text, *SETTINGS], "fn_index": calls, "session_hash": self.session}
        joined = await self.client.post("/gradio_api/queue/join", json=body)
        self.tally.statuses[joined.status_code] += 1
        if joined.status_code != 200:
            return "broken"
        async for turn in self.turns():
            if turn is None:
                return "broken"
            if turn.get("state") == "refused":
                self.tally.refusals.add(turn["notice"])
                return "refused"
            if turn.get("state") == "done":
                self.check(turn["answer"], mark)
                return "answered"
            if leave and turn.get("answer"):
                return "left"
        return "broken"

    def check(self, answer: str, mark: str) -> None:
        """Own words only, those of every answer so far, the new one last."""
        words = answer.split()[1:]
        self.asked.append(mark)
        is_own = all(word.startswith(f"{self.name}q") for word in words)
        if not is_own or words[-1:] != [mark] or not set(self.asked) <= set(words):
            self.tally.foreign.append(f"{self.name} asked {self.asked}, read {answer[:200]}")

    async def turns(self) -> AsyncIterator[dict[str, Any] | None]:
        """Values of the page's log as they come; None for an error of the server."""
        query = {"session_hash": self.session}
        async with self.client.stream("GET", "/gradio_api/queue/data", params=query) as stream:
            self.tally.statuses[stream.status_code] += 1
            async for line in stream.aiter_lines():
                message = json.loads(line.removeprefix("data:")) if line.strip() else {}
                if message.get("msg") == "unexpected_error" or message.get("success") is False:
                    yield None
                yield _turn(message)


def _turn(message: dict[str, Any]) -> dict[str, Any]:
    """The turn of a message: whole at first and at last, and differences in between."""
    data = (message.get("output") or {}).get("data") or [{}]
    if isinstance(data[0], dict):
        return data[0]
    # [[operation, path, value], ...]: all that matters here is that text has come.
    grown = [value for _, path, value in data[0] if path == ["answer"] and value]
    return {"answer": grown[-1]} if grown else {}


async def load(address: str, num_visitors: int, num_requests: int, num_left: int) -> Tally:
    """Send visitors to a page, all at once.

    Args:
        num_requests, num_left: of all visitors together; multiples of their number.
    """
    tally = Tally()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=address, timeout=120, limits=limits) as client:
        config = (await client.get("/config")).json()
        calls = next(d["id"] for d in config["dependencies"] if d["api_name"] == ASK)
        visitors = [Visitor(client, number, tally) for number in range(num_visitors)]
        each = num_requests // num_visitors, num_left // num_visitors
        await asyncio.gather(*(visitor.visit(calls, *each) for visitor in visitors))
    return tally
