"""A wall in front of the page: addresses are not fetched, bodies are bounded, hosts are this one.

The web framework behind it would fetch addresses that a visitor names, and reads a request's body
whole before anyone can look at its length.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

HOSTS = ("127.0.0.1", "localhost")
"""Names of this machine; a page of another site that points its name here is refused."""
MOST_JSON = 1 << 20
"""Bytes of a request that is no upload."""
_MULTIPART = 1 << 16  # bytes around the file of an upload
_FETCHING = ("/proxy=", "/file=http:", "/file=https:")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class Guard:
    """Middleware (ASGI) that answers 4xx to what must not get through.

    Args:
        app: what is behind the wall.
        upload_bytes: largest file.
    """

    def __init__(self, app: App, upload_bytes: int) -> None:
        self.app = app
        self.upload_bytes = upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if refusal is None and scope["method"] == "POST" and not _is_upload(scope):
            body = await _body(receive)
            refusal = _refused_body(body)
            receive = _again(body, receive)
        if refusal is None:
            await self.app(scope, receive, send)
        else:
            await _answer(send, *refusal)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """Status and reason, from method, path and headers alone."""
        headers = {bytes(name): bytes(value) for name, value in scope["headers"]}
        host = headers.get(b"host", b"").decode("latin-1").rsplit(":", 1)[0]
        if host not in HOSTS:
            return 403, f"this page is served to {' and '.join(HOSTS)} only"
        path = scope["path"].lower()
        if any(word in path for word in _FETCHING):
            return 403, "addresses are not fetched"
        if scope["method"] != "POST":
            return None
        length = headers.get(b"content-length", b"")
        if not length.isdigit():
            return 411, "the length of a request must be told"
        most = self.upload_bytes + _MULTIPART if _is_upload(scope) else MOST_JSON
        return (413, f"at most {most} bytes are taken") if int(length) > most else None


def _is_upload(scope: Scope) -> bool:
    return scope["path"].rstrip("/").endswith("/upload")


async def _body(receive: Receive) -> bytes:
    """The whole body, whose length was checked: a server cuts it at the length that was told."""
    parts = []
    while (message := await receive())["type"] == "http.request":
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            break
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives a body that was read already, then what comes after it."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _refused_body(body: bytes) -> tuple[int, str] | None:
    try:
        found = json.loads(body) if body else None
    except (ValueError, RecursionError):
        return 400, "the request is no JSON"
    return (403, "addresses are not fetched") if _names_address(found) else None


def _names_address(value: Any) -> bool:
    """Whether a file in a JSON value is an address."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and "://" in path:
                return True
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return False


async def _answer(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
