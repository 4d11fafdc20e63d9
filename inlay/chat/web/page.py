"""The page of ``inlay serve``: a chat and, with grounding, the picture that it points at.

gradio carries texts, settings and uploads. What it has no part for (coloured phrases, masks over a
picture) is drawn by the scripts beside this file, from the values that ``messages`` makes. The page
keeps nothing of a visitor: that is the service's.
"""

from __future__ import annotations

import html
from importlib.resources import files
from typing import Any

import gradio as gr

from inlay.chat.web.handlers import Handlers
from inlay.chat.web.parts import ServiceInfo
from inlay.chat.web.service import ChatService

SCRIPTS = ("regions.js", "log.js", "pictures.js", "stage.js")
OWN_TEMPLATE = "as the server was started"
_KEEP_UPLOADS = (600, 1800)
"""Seconds between clearings of uploaded files, and their age then."""


def build_page(service: ChatService) -> gr.Blocks:
    """Return the page of a service; ``launch`` it with ``**page_look()``.

    Every tab of a browser has a session of the service, which ends with the tab.
    """
    info, handlers = service.info, Handlers(service)
    title = f"{info.name} · inlay"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=_KEEP_UPLOADS) as page:
        _part("header", value=html.escape(info.name))
        pictures = _pictures(info) if info.sees else None
        with gr.Row(elem_id="inlay-page"):
            with gr.Column(scale=3, min_width=320, elem_id="inlay-talk"):
                _conversation(info, handlers, pictures)
            if pictures is not None and info.points:
                with gr.Column(scale=2, min_width=320, elem_id="inlay-side"):
                    pictures.render()
                    _pointing(info, handlers, pictures)
        page.unload(handlers.leave)
    return page


def page_look() -> dict[str, Any]:
    """Return what ``launch`` takes for the look of the page; all of it comes from this server."""
    theme = gr.themes.Default(
        primary_hue="sky",
        neutral_hue="slate",
        radius_size="lg",
        font=("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"),
        font_mono=("ui-monospace", "Menlo", "Consolas", "monospace"),
    )
    return {"theme": theme, "css": _read("page.css"), "footer_links": []}


def _conversation(info: ServiceInfo, handlers: Handlers, pictures: gr.HTML | None) -> None:
    log = _part("log", f"window.inlay.log(element, props, watch, '{_hint(info)}')")
    if pictures is not None and not info.points:
        pictures.render()
        pictures.drop(handlers.drop, None, pictures, **_event("drop"))
    with gr.Row(elem_id="inlay-ask"):
        text = _line("Your message", _hint(info), info.limits.text, "inlay-text", max_lines=8)
        send = gr.Button("Send", variant="primary", scale=0, min_width=88, elem_id="inlay-send")
        stop = gr.Button("Stop", variant="stop", scale=0, min_width=88, elem_id="inlay-stop")
    with gr.Row(elem_id="inlay-tools"):
        if pictures is not None:
            _upload(handlers, pictures)
        new = gr.Button("New conversation", size="sm", scale=0, min_width=160, elem_id="inlay-new")
    asked = gr.on(
        [text.submit, send.click],
        handlers.ask,
        [text, *_settings(info)],
        log,
        js="(text, ...settings) => [window.inlay.take(text), ...settings]",
        trigger_mode="once",
        **_event("ask"),
    )
    asked.failure(None, js="() => window.inlay.failed()")
    stop.click(handlers.stop, **_event("stop"))
    new.click(handlers.new, None, log, **_event("new"))


def _hint(info: ServiceInfo) -> str:
    if info.completes:
        return "Write a text to continue"
    return "Add a picture, and ask about it" if info.sees else "Ask something"


def _upload(handlers: Handlers, pictures: gr.HTML) -> None:
    button = gr.UploadButton(
        "Add a picture",
        file_types=["image"],
        size="sm",
        scale=0,
        min_width=140,
        elem_id="inlay-upload",
    )
    button.upload(handlers.show, button, pictures, **_event("show"))


def _settings(info: ServiceInfo) -> list[Any]:
    """Template, system text and sampling, in the order of ``Handlers.ask``."""
    was, longest = info.defaults, info.defaults.max_new_tokens
    known = [(OWN_TEMPLATE, ""), *((name, name) for name in info.templates)]
    with gr.Accordion("Settings", open=False, elem_id="inlay-settings"):
        note = "Another template, system text or seed begins a new conversation."
        with gr.Row():
            template = gr.Dropdown(known, value=was.template or "", label="Template", info=note)
            system = gr.Textbox(was.system, label="System text", max_length=info.limits.system)
        with gr.Row():
            temperature = _slider(0, 2, was.temperature, "Temperature", "0 is greedy")
            top_k = _slider(0, 200, was.top_k, "Top-k", "0: all tokens", step=1)
            top_p = _slider(0.01, 1, was.top_p, "Top-p", "share of the likeliest")
        with gr.Row():
            penalty = _slider(0.5, 2, was.repetition_penalty, "Repetition penalty", "1: none")
            tokens = _slider(1, longest, longest, "Longest answer", "in tokens", step=1)
            seed = gr.Number(was.seed, label="Seed", info="the same: the same text", precision=0)
    return [template, system, temperature, top_k, top_p, penalty, tokens, seed]


def _slider(
    least: float, most: float, value: float, label: str, info: str, step: float = 0.01
) -> gr.Slider:
    top = max(most, value)
    return gr.Slider(least, top, value, label=label, info=info, step=step, min_width=140)


def _pictures(info: ServiceInfo) -> gr.HTML:
    """The picture with its masks, or, without grounding, those that go with the next text."""
    if info.points:
        call = (
            "window.inlay.stage(element, props, watch, "
            "(at) => trigger('point', { at }), (numbers) => trigger('overlay', { numbers }))"
        )
        return _part("stage", call, render=False)
    call = "window.inlay.strip(element, props, watch, () => trigger('drop'))"
    return _part("strip", call, render=False)


def _pointing(info: ServiceInfo, handlers: Handlers, stage: gr.HTML) -> None:
    news = _part("news", "window.inlay.news(element, props, watch)")
    with gr.Row(elem_id="inlay-find"):
        hint = "A phrase: the red circle"
        phrase = _line("Phrase to point at", hint, info.limits.phrase, "inlay-phrase")
        find = gr.Button("Point", scale=0, min_width=88, elem_id="inlay-point")
    gr.on(
        [phrase.submit, find.click],
        handlers.segment,
        phrase,
        news,
        js="(phrase) => [window.inlay.look(phrase)]",
        trigger_mode="once",
        **_event("segment"),
    )
    stage.point(handlers.point, None, news, trigger_mode="once", **_event("point"))
    stage.overlay(handlers.overlay, None, news, **_event("overlay"))


def _line(label: str, hint: str, longest: int, elem_id: str, max_lines: int = 1) -> gr.Textbox:
    return gr.Textbox(
        placeholder=hint,
        label=label,
        show_label=False,
        container=False,
        lines=1,
        max_lines=max_lines,
        max_length=longest,
        elem_id=elem_id,
    )


def _part(name: str, call: str | None = None, value: Any = None, render: bool = True) -> gr.HTML:
    """A part that the scripts draw; it stands in a file of its name."""
    scripts = "".join(f"<script>{_read(script)}</script>" for script in SCRIPTS)
    return gr.HTML(
        value,
        html_template=_read(f"{name}.html"),
        js_on_load=call,
        head=scripts if call else None,
        apply_default_css=False,
        elem_id=f"inlay-{name}",
        elem_classes="inlay-part",
        render=render,
    )


def _event(name: str) -> dict[str, Any]:
    """Settings of every event: the service is the queue, and the page shows the progress itself."""
    return {
        "show_progress": "hidden",
        "concurrency_limit": None,
        "api_name": name,
        "api_visibility": "undocumented",
    }


def _read(name: str) -> str:
    return (files("inlay.chat.web") / name).read_text(encoding="utf-8")
