"""Serve a model as a page on this machine, for as long as the process is not told to end."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import logging
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from inlay.core.errors import ConfigError

if TYPE_CHECKING:
    import gradio as gr

    from inlay.chat.web.service import ChatService, Settings

HOST = "127.0.0.1"
PORT = 7860
_SPARE_THREADS = 32
"""For requests that do not wait for the model."""
_GC_THRESHOLD = 5000
_ARENA_MAX = -8  # of glibc's malloc.h
_OFF: dict[str, Any] = {
    "share": False,
    "ssr_mode": False,
    "run_history": False,
    "enable_monitoring": False,
    "mcp_server": False,
    "pwa": False,
    "quiet": True,
}
"""What gradio would do beside the page."""


def check_gradio() -> None:
    """Make sure that there is something to make pages with.

    Raises:
        ConfigError: there is not.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ConfigError("serving a page needs gradio: pip install 'inlay[web]'")


def free_port(port: int) -> int:
    """Return ``port`` if nobody listens there; for 0, any free one.

    Raises:
        ConfigError: it is taken, or may not be used.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except (OSError, OverflowError) as error:
            raise ConfigError(
                f"port {port} of {HOST} cannot be used: {error}. Name another one with --port, or "
                "--port 0 for any that is free"
            ) from error
        return int(probe.getsockname()[1])


def open_service(
    model: str,
    *,
    ground: str | None = None,
    config: str | None = None,
    template: dict[str, Any] | None = None,
    defaults: Settings | None = None,
    stop_words: Sequence[str] = (),
    phrases: str = "auto",
    dtype: str = "auto",
    **options: Any,
) -> ChatService:
    """Open a model and what is put on it.

    Args:
        ground: grounding checkpoint of the model; ``config`` of one that carries none.
        template, defaults, stop_words, phrases: as of ``ChatService``.
        dtype, options: as of ``open_model``; with ``ground``, only ``dtype``.

    Raises:
        InlayError: something cannot be opened.
    """
    from pathlib import Path

    from inlay.chat.open import Opened
    from inlay.chat.web.service import ChatService

    common: dict[str, Any] = {
        "name": Path(model).name or model,
        "template": template,
        "defaults": defaults,
        "stop_words": stop_words,
    }
    if ground is None:
        from inlay.app.open_model import open_model

        return ChatService(open_model(model, dtype=dtype, **options), **common)

    from inlay.app.grounder import open_grounder

    grounder = open_grounder(model, ground, config, dtype=dtype)
    talking = getattr(grounder.lmm, "model", grounder.lmm)
    processor = grounder.image_processor
    opened = Opened(talking, grounder.tokenizer, processor, grounder.builder.template)
    return ChatService(opened, grounder, phrases=phrases, **common)


def serve(service: ChatService, port: int) -> int:
    """Serve a page until Ctrl-C or SIGTERM; files of visitors are deleted then.

    Returns:
        The exit code: 0 after Ctrl-C, 143 after SIGTERM.

    Raises:
        ConfigError: the port was taken meanwhile.
    """
    with _ends() as (told, code), page(service, port) as address:
        _keep_memory_flat()
        print(f"{service.info.name} is served at {address}  (Ctrl-C ends)", flush=True)
        told.wait()
    return code[-1]


@contextmanager
def page(service: ChatService, port: int) -> Iterator[str]:
    """Serve a page on this machine while the block runs; yields its address.

    Raises:
        ConfigError: the port is taken.
    """
    with tempfile.TemporaryDirectory(prefix="inlay-serve-", ignore_cleanup_errors=True) as folder:
        _quieten(folder)
        from inlay.chat.web.page import build_page, page_look

        demo = build_page(service)
        try:
            try:
                demo.launch(
                    server_name=HOST,
                    server_port=port,
                    prevent_thread_lock=True,
                    max_threads=service.limits.waiting + _SPARE_THREADS,
                    max_file_size=service.limits.upload_bytes,
                    state_session_capacity=service.limits.sessions,
                    app_kwargs={"middleware": [_guard(service)]},
                    **_OFF,
                    **page_look(),
                )
            except OSError as error:
                raise ConfigError(f"the page cannot be served: {error}") from error
            yield f"http://{HOST}:{port}"
        finally:
            service.shutdown()
            _close(demo)


def _guard(service: ChatService) -> tuple[Any, ...]:
    """Middleware, its arguments and its keyword arguments, which is how starlette takes it."""
    from inlay.chat.web.guard import Guard

    return Guard, (), {"upload_bytes": service.limits.upload_bytes}


def _close(demo: gr.Blocks) -> None:
    """End the server; pages that are open are not waited for, and no loss to be logged."""
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    if getattr(demo, "server", None) is not None:
        demo.server.force_exit = True
    demo.close(verbose=False)


def _quieten(folder: str) -> None:
    """Tell gradio, before it is imported, to call nobody and to keep its files in ``folder``."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "1"  # records that it would keep for nobody
    os.environ["GRADIO_TEMP_DIR"] = folder
    here = [os.environ.get("no_proxy", ""), HOST, "localhost"]  # it asks itself whether it runs
    os.environ["no_proxy"] = ",".join(filter(None, here))


def _keep_memory_flat() -> None:
    """Find garbage soon, and return it.

    Python looks at old objects only once they have grown by a quarter, and a million of torch's and
    gradio's would count: they are left out. glibc would give each thread a heap that keeps what is
    freed: two are shared.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD)
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_ARENA_MAX, 2)


@contextmanager
def _ends() -> Iterator[tuple[threading.Event, list[int]]]:
    """While the block runs, Ctrl-C and SIGTERM set an event and append an exit code."""
    told, code = threading.Event(), [0]

    def end(number: int, _: Any) -> None:
        code.append(0 if number == signal.SIGINT else 128 + number)
        told.set()

    old = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield told, code
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
