"""The page in a real browser: asking, streaming, phrases and their masks, files, refusals."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import tiny_grounder
from scripted_service import Scripted

from inlay.app import serve
from inlay.chat.web import handlers
from inlay.chat.web.parts import Region, Settings, overlay_picture
from inlay.chat.web.service import ChatService
from inlay.data.scenes.build import example
from inlay.data.scenes.draw import SIZE, draw

pytestmark = pytest.mark.browser

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
GROUNDER = str(Path(tiny_grounder.MODEL).parent / "tiny_grounder")
DONE = "[data-state=done]"
# Texts of an answer as the page shows them, each once.
WATCH = """() => {
    window.seen = [];
    const look = () => {
        const text = document.querySelector('.inlay-answer')?.textContent;
        if (text && text !== window.seen.at(-1)) window.seen.push(text);
    };
    const all = {childList: true, subtree: true, characterData: true};
    new MutationObserver(look).observe(document.querySelector('.inlay-log'), all);
}"""
# What is drawn, at the picture's own size.
CANVAS = """(size) => {
    const [width, height] = size;
    const small = Object.assign(document.createElement('canvas'), {width, height});
    const context = small.getContext('2d');
    context.imageSmoothingEnabled = false;
    context.drawImage(document.querySelector('.inlay-frame canvas'), 0, 0, width, height);
    return Array.from(context.getImageData(0, 0, width, height).data);
}"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=list(ARGS))
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service() -> ChatService:
    """The model and the grounder that ship with the package."""
    defaults = Settings(temperature=0.0, max_new_tokens=64)
    return serve.open_service(tiny_grounder.MODEL, ground=GROUNDER, defaults=defaults)


@pytest.fixture(scope="module")
def address(service: ChatService) -> Iterator[str]:
    with serve.page(service, serve.free_port(0)) as address:
        yield address


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.png"
    draw(example("pairs", 4, 1).scene).save(path)
    return path


@pytest.fixture
def tab(chromium: Any) -> Iterator[Any]:
    """A tab that may not talk to anybody but this machine, and whose scripts may not fail."""
    context = chromium.new_context(viewport={"width": 1280, "height": 860})
    tab = context.new_page()
    problems: list[str] = []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.on("request", lambda request: _note_foreign(request.url, problems))
    yield tab
    context.close()
    assert problems == []


def _note_foreign(url: str, problems: list[str]) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("data", "blob") and parts.hostname != serve.HOST:
        problems.append(url)


def open_page(tab: Any, address: str, picture: Path | None = None) -> None:
    tab.goto(address)
    tab.wait_for_selector(".inlay-log")
    if picture is not None:
        tab.set_input_files("input[type=file]", picture)
        tab.wait_for_selector(".inlay-frame:visible, .inlay-strip:visible, .inlay-problem:visible")


def ask(tab: Any, text: str, state: str = DONE) -> None:
    number = 1 + tab.locator(".inlay-turn").count()
    tab.fill("#inlay-text textarea", text)
    tab.press("#inlay-text textarea", "Enter")
    tab.wait_for_selector(f".inlay-turn:nth-child({number}){state}")


@contextmanager
def scripted(**settings: Any) -> Iterator[tuple[str, Scripted]]:
    """A page of a service without a model: its address, and the service."""
    service = Scripted(**settings)
    with serve.page(service, serve.free_port(0)) as address:
        yield address, service


@contextmanager
def slower(model: Any) -> Iterator[None]:
    """A model that takes a tenth of a second for a token, as those do that are worth a page."""
    handle = model.register_forward_pre_hook(lambda *_: time.sleep(0.1))
    yield
    handle.remove()


def drawn(tab: Any, size: tuple[int, int] = (SIZE, SIZE)) -> tuple[np.ndarray, np.ndarray]:
    """Colours and opacities of the masks on the picture, which is ``size`` wide and high."""
    pixels = np.array(tab.evaluate(CANVAS, size), np.uint8).reshape(size[1], size[0], 4)
    return pixels[..., :3], pixels[..., 3]


def regions(service: ChatService) -> tuple[Region, ...]:
    """Of the newest visitor."""
    return service.regions(next(reversed(service._visits._visits)))


def test_an_answer_grows_and_its_phrases_show_their_masks(
    tab: Any, address: str, service: ChatService, scene: Path, tmp_path: Path
) -> None:
    open_page(tab, address, scene)
    tab.evaluate(WATCH)
    with slower(service.opened.model.llm):
        ask(tab, "describe the picture.")
    seen = tab.evaluate("window.seen")
    assert len(seen) > 2 and all(b.startswith(a) for a, b in pairwise(seen))
    assert tab.input_value("#inlay-text textarea") == ""

    found = regions(service)
    phrases = tab.locator(".inlay-answer .inlay-phrase")
    assert phrases.all_inner_texts() == [region.phrase for region in found] and len(found) > 1
    assert not drawn(tab)[1].any(), "nothing is shown before it is asked for"
    phrases.first.click()
    tab.mouse.move(0, 0)
    colours, opacity = drawn(tab)
    assert np.array_equal(opacity > 0, found[0].mask()) and found[0].mask().any()
    assert np.abs(colours[found[0].mask()].astype(int) - found[0].colour).max() <= 2
    shown = phrases.first.evaluate("e => getComputedStyle(e).backgroundColor")
    assert shown == "rgb({}, {}, {})".format(*found[0].colour)
    assert tab.locator(".inlay-tag").inner_text() == f"{found[0].phrase} {found[0].score:.2f}"
    tab.screenshot(path=tmp_path / "phrase.png")

    phrases.nth(1).hover()
    both = found[0].mask() | found[1].mask()
    assert np.array_equal(drawn(tab)[1] > 0, both), "several at once"
    tab.mouse.move(0, 0)
    assert np.array_equal(drawn(tab)[1] > 0, found[0].mask()), "as long as the pointer is there"
    phrases.nth(1).focus()
    tab.keyboard.press("Enter")
    phrases.first.focus()
    tab.keyboard.press(" ")
    assert phrases.nth(1).get_attribute("aria-pressed") == "true"
    assert phrases.first.get_attribute("aria-pressed") == "false"
    assert np.array_equal(drawn(tab)[1] > 0, found[1].mask())


def test_a_typed_phrase_a_place_and_the_files(
    tab: Any, address: str, service: ChatService, scene: Path
) -> None:
    open_page(tab, address, scene)
    name = "the blue circle"
    tab.fill("#inlay-phrase input", name)
    tab.click("#inlay-point")
    tab.wait_for_selector(f".inlay-chip.is-shown:has-text('{name}')")
    [typed] = regions(service)
    assert np.array_equal(drawn(tab)[1] > 0, typed.mask())

    rows, columns = np.nonzero(typed.mask())
    box = tab.locator(".inlay-frame canvas").bounding_box()
    at = {
        "x": (columns.mean() + 0.5) / SIZE * box["width"],
        "y": (rows.mean() + 0.5) / SIZE * box["height"],
    }
    tab.locator(f".inlay-chip:has-text('{name}')").click()  # put away
    tab.click(".inlay-frame canvas", position=at)
    tab.wait_for_selector(".inlay-chip.is-shown")
    shown = {int(e.get_attribute("data-region")) for e in tab.locator(".is-shown").all()}
    hit = [region for region in regions(service) if region.number in shown]
    assert hit and all(region.mask()[int(rows.mean()), int(columns.mean())] for region in hit)

    with tab.expect_download() as saved:
        tab.click(".inlay-save-overlay")
    image = service.picture(next(reversed(service._visits._visits)))
    assert image is not None
    assert Path(saved.value.path()).read_bytes() == overlay_picture(image, hit)
    assert saved.value.suggested_filename == "overlay.png"
    with tab.expect_download() as saved:
        tab.click(".inlay-save-masks")
    records = json.loads(Path(saved.value.path()).read_text())
    assert records == json.loads(json.dumps([region.record() for region in hit]))


BAD = "<img src=x onerror='window.hacked=1'><b onmouseover=alert(1)>`${window.hacked=1}`{{x}}"


def test_texts_are_never_html(tab: Any, scene: Path) -> None:
    with scripted(answer=BAD, name=BAD) as (address, _):
        open_page(tab, address, scene)
        ask(tab, BAD)
        assert tab.inner_text(".inlay-asked") == tab.inner_text(".inlay-answer") == BAD
        tab.locator(".inlay-phrase").click()
        assert tab.locator(".inlay-chip").inner_text() == f"{BAD} 0.50"
        assert tab.locator(".inlay-tag").inner_text() == f"{BAD} 0.50"
        assert tab.inner_text(".inlay-header span") == BAD
        ask(tab, f"busy {BAD}", "[data-state=refused]")
        assert BAD in tab.locator(".inlay-note").last.inner_text()
        tab.fill("#inlay-phrase input", BAD)
        tab.press("#inlay-phrase input", "Enter")
        tab.wait_for_selector("#inlay-news :text('nothing is called')")
        assert BAD in tab.inner_text("#inlay-news")
        ours = ".inlay-header, .inlay-log, .inlay-stage, #inlay-news"
        made = tab.evaluate("(s) => document.querySelectorAll(s).length", f":is({ours}) b")
        assert made == 0 and tab.locator(".inlay-log img").count() == 0
        assert tab.evaluate("window.hacked") is None


def test_stop_and_refusals(tab: Any, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture at all")
    with scripted() as (address, _):
        open_page(tab, address, tmp_path / "text.png")
        assert "cannot be opened as a picture" in tab.inner_text("#inlay-news")
        assert not tab.locator(".inlay-frame").is_visible()

        assert not tab.locator("#inlay-stop").is_visible()
        ask(tab, "slow", "[data-state=writing]")
        assert not tab.locator("#inlay-send").is_visible()
        tab.click("#inlay-stop")
        tab.wait_for_selector(DONE)
        assert tab.inner_text(".inlay-note") == "Stopped."
        assert tab.locator("#inlay-send").is_visible()

        ask(tab, "busy", "[data-state=refused]")
        assert tab.locator(".inlay-note").last.inner_text().startswith("busy: 16 others")
        assert tab.input_value("#inlay-text textarea") == "busy", "nothing has to be typed again"
        ask(tab, "broken", "[data-state=refused]")
        assert tab.locator(".inlay-note").last.inner_text() == handlers.FAILED
        assert "secret" not in tab.content()
        tab.click("#inlay-new")
        tab.wait_for_selector(".inlay-log:empty")

        tab.route("**/queue/join*", lambda route: route.fulfill(status=413, json={"detail": "!"}))
        tab.fill("#inlay-text textarea", "on its way")
        with tab.expect_response("**/queue/join*"):
            tab.press("#inlay-text textarea", "Enter")
        tab.wait_for_selector("#inlay-stop", state="hidden")
        kept = "document.querySelector('#inlay-text textarea').value === 'on its way'"
        tab.wait_for_function(kept)


def test_settings_reach_the_service(tab: Any) -> None:
    with scripted(sees=False, points=False) as (address, service):
        tab.set_viewport_size({"width": 390, "height": 844})
        open_page(tab, address)
        assert tab.locator("#inlay-upload, .inlay-stage, .inlay-strip").count() == 0
        tab.click("#inlay-settings button")
        tab.wait_for_timeout(2000)  # what opens is built then, and drops what is typed before
        tab.fill("[aria-label='number input for Temperature']", "0.5")
        tab.fill("#inlay-settings textarea, #inlay-settings input[type=text]", "Be short.")
        ask(tab, "hello")
        wide = tab.evaluate("document.documentElement.scrollWidth")
        assert wide <= 390, "nothing is wider than a phone"
    [settings] = service.asked
    assert settings == replace(Settings(), temperature=0.5, system="Be short.")


def test_without_grounding_a_picture_goes_with_its_text(tab: Any, scene: Path) -> None:
    with scripted(points=False) as (address, _):
        open_page(tab, address, scene)
        assert tab.locator(".inlay-stage").count() == 0
        tab.click(".inlay-strip button")
        tab.wait_for_selector(".inlay-strip", state="hidden")
        open_page(tab, address, scene)
        ask(tab, "what is this?")
        assert tab.locator(".inlay-turn .inlay-pictures img").count() == 1
        assert not tab.locator(".inlay-strip").is_visible()
        assert tab.locator(".inlay-answer .inlay-phrase").count() == 0
