"""The service behind the page: conversations apart, a bounded queue, bounded uploads, regions."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parrot import Parrot, parrot_service
from PIL import Image
from tiny_grounder import scene, tiny_grounder

from inlay.chat.grounded import Pointed
from inlay.chat.open import Opened
from inlay.chat.web import service as service_module
from inlay.chat.web.checks import checked
from inlay.chat.web.parts import Place, overlay_picture
from inlay.chat.web.pointing import choose, inside
from inlay.chat.web.service import (
    Busy,
    ChatService,
    Done,
    Limits,
    Refused,
    Region,
    Said,
    Settings,
    Waiting,
)
from inlay.chat.web.uploads import read_upload
from inlay.core.rle import encode_mask

LONG = "<<a>> at length"


@pytest.fixture
def service() -> Iterator[ChatService]:
    service = parrot_service(delay=0.001, waiting=2, sessions=4)
    yield service
    service.shutdown()


@pytest.fixture(scope="module")
def pointing() -> Iterator[ChatService]:
    grounder = tiny_grounder()
    model = grounder.lmm.model
    opened = Opened(model, grounder.tokenizer, grounder.image_processor, grounder.builder.template)
    defaults = Settings(temperature=0.0, max_new_tokens=24)
    service = ChatService(opened, grounder, defaults=defaults, phrases="nouns")
    yield service
    service.shutdown()


def parrot(service: ChatService) -> Parrot:
    return service.opened.model


def answer(service: ChatService, key: str, text: str, settings: Settings | None = None) -> Done:
    *before, last = service.reply(key, text, settings)
    assert all(isinstance(event, Waiting | Said) for event in before)
    assert isinstance(last, Done)
    return last


def until(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def saved(image: Image.Image, path: Path, **how: Any) -> str:
    image.save(path, **how)
    return str(path)


def test_conversations_have_histories_of_their_own(service: ChatService) -> None:
    assert answer(service, "one", "<<apple>>").text == "heard apple"
    assert answer(service, "two", "<<pear>>").text == "heard pear"
    assert answer(service, "one", "<<plum>>").text == "heard apple plum"
    service.reset("one")
    assert answer(service, "one", "<<fig>>").text == "heard fig"
    changed = Settings(system="Be brief.")
    assert answer(service, "two", "<<nut>>", changed).text == "heard nut"


def test_text_streams(service: ChatService) -> None:
    settings = Settings(max_new_tokens=300)
    said = [event.text for event in service.reply("one", LONG, settings) if isinstance(event, Said)]
    assert len(said) > 2
    assert all(late.startswith(early) for early, late in pairwise(said))


def test_a_full_queue_refuses_politely_and_says_who_is_before(service: ChatService) -> None:
    follow = [service.reply(key, LONG) for key in "ab"]
    assert next(follow[0]) in (Waiting(0), Said(""))
    until(lambda: parrot(service).num_tokens)
    assert next(follow[1]) == Waiting(1)
    third = service.reply("c", "<<c>>")
    assert next(third) == Waiting(2)
    with pytest.raises(Busy, match=r"busy: 2 others are waiting\. Please try again"):
        next(service.reply("b2", "<<d>>"))
    for each in follow:
        each.close()
    assert list(third)[-1] == Done("heard c")


def test_closing_the_iterator_ends_the_answer_and_forgets_the_turn(service: ChatService) -> None:
    follow = service.reply("one", LONG)
    until(lambda: isinstance(next(follow), Said) and parrot(service).num_tokens > 5)
    follow.close()
    assert answer(service, "one", "<<b>>").text == "heard b"
    assert parrot(service).num_tokens < 1000


def test_stop_keeps_what_was_said(service: ChatService) -> None:
    follow = service.reply("one", LONG)
    until(lambda: getattr(next(follow), "text", "").startswith("heard a"))
    service.stop("one")
    done = list(follow)[-1]
    assert done.stopped and done.text.startswith("heard a") and len(done.text) < 1000
    assert answer(service, "one", "<<b>>").text == "heard a b"


def test_one_request_at_a_time_of_one_visitor(service: ChatService) -> None:
    follow = service.reply("one", LONG)
    next(follow)
    with pytest.raises(Refused, match="still being answered"):
        next(service.reply("one", "<<b>>"))
    follow.close()


def test_the_longest_idle_visitor_is_forgotten_and_told(service: ChatService) -> None:
    for key in "abcde":
        answer(service, key, f"<<{key}>>")
    assert answer(service, "e", "<<x>>").text == "heard e x"
    back = answer(service, "a", "<<f>>")
    assert back.text == "heard f"
    assert back.notice == "The conversation was idle for long and starts anew."
    assert answer(service, "a", "<<g>>").notice is None


def test_visitors_in_an_answer_are_never_forgotten() -> None:
    service = parrot_service(delay=0.001, sessions=1)
    follow = service.reply("a", LONG)
    next(follow)
    with pytest.raises(Busy, match="too many"):
        next(service.reply("b", "<<b>>"))
    service.shutdown()


def test_old_conversations_are_forgotten() -> None:
    service = parrot_service(idle_s=0.0)
    answer(service, "a", "<<a>>")
    answer(service, "b", "<<b>>")
    assert service._visits.known("a") is None
    service.shutdown()


@pytest.mark.parametrize(
    ("text", "settings", "message"),
    [
        ("x" * 8001, {}, "longer than 8000"),
        ("  ", {}, "no text"),
        ("a", {"system": "x" * 4001}, "system text is longer"),
        ("a", {"template": "nobody_chat"}, "no such template"),
        ("a", {"temperature": float("nan")}, "temperature"),
        ("a", {"top_k": -1, "top_p": 0.0}, "top_k .*top_p"),
        ("a", {"repetition_penalty": 0.0, "max_new_tokens": 0, "seed": -1}, "penalty.*new.*seed"),
    ],
)
def test_texts_and_settings_are_bounded(
    service: ChatService, text: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(Refused, match=message):
        next(service.reply("a", text, Settings(**settings)))


def test_nobody_gets_more_tokens_than_the_server_gives(service: ChatService) -> None:
    settings = Settings(max_new_tokens=1_000_000)
    most = service.defaults.max_new_tokens
    assert checked("a", settings, service.info).max_new_tokens == most


def test_a_temperature_that_overflows_is_greedy(service: ChatService) -> None:
    assert checked("a", Settings(temperature=1e-30), service.info).temperature == 0
    assert checked("a", Settings(temperature=0.5), service.info).temperature == 0.5


def test_a_failure_of_the_model_ends_one_answer_only(
    service: ChatService, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parrot(service), "generate", lambda **_: 1 / 0)
    with pytest.raises(Refused, match="the answer failed"):
        answer(service, "a", "<<a>>")
    assert "ZeroDivisionError" in capsys.readouterr().err
    monkeypatch.undo()
    assert answer(service, "a", "<<b>>").text == "heard b"


def test_a_model_without_eyes_takes_no_picture(service: ChatService, tmp_path: Path) -> None:
    with pytest.raises(Refused, match="reads text only"):
        service.show("a", saved(scene(), tmp_path / "a.png"))
    with pytest.raises(Refused, match="--ground"):
        service.segment("a", "a circle")


def test_closing_a_visitor_or_the_service_ends_answers(service: ChatService) -> None:
    follow, waiting = service.reply("a", LONG), service.reply("b", LONG)
    next(follow), next(waiting)
    service.close("a")
    with pytest.raises(Refused, match="given up"):
        list(follow)
    service.shutdown()
    with pytest.raises(Refused, match="given up"):
        list(waiting)
    with pytest.raises(Refused, match="shutting down"):
        next(service.reply("c", "<<c>>"))
    assert not [thread for thread in threading.enumerate() if thread is service._worker._thread]


def test_an_answer_points_and_its_regions_stay(pointing: ChatService, tmp_path: Path) -> None:
    assert pointing.show("a", saved(scene(), tmp_path / "a.png")) == scene().size
    done = answer(pointing, "a", "describe the picture.")
    assert done.regions
    for region in done.regions:
        start, end = region.span or (0, 0)
        assert done.text[start:end] == region.phrase
        assert region.size == scene().size and region.mask().shape == scene().size[::-1]
    typed = pointing.segment("a", " a  red circle ")
    assert (typed.phrase, typed.span, typed.source) == ("a red circle", None, "typed")
    assert pointing.regions("a") == (*done.regions, typed)
    assert len({region.colour for region in pointing.regions("a")}) == len(done.regions) + 1
    pointing.show("a", saved(scene(1), tmp_path / "b.png"))
    assert pointing.regions("a") == ()


def test_a_click_finds_what_the_model_names_there(
    pointing: ChatService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = np.zeros((2, *scene().size[::-1]), bool)
    masks[0, :50, :50] = True
    masks[1, 10:20, 10:20] = True
    ones = np.ones(1, np.float32)
    large = Pointed("the sky", [(0, 7)], masks[:1], ones)
    monkeypatch.setattr(service_module, "describe", lambda *_: large)
    monkeypatch.setattr(type(pointing.grounder), "phrases", lambda *_: (masks[1:], ones))
    pointing.show("c", saved(scene(), tmp_path / "c.png"))
    small = pointing.segment("c", "a red circle")
    assert pointing.mask_at("c", (12, 12)) == small
    found = pointing.mask_at("c", (40.5, 40.5))
    assert (found.phrase, found.source, found.span) == ("the sky", "description", None)
    assert pointing.mask_at("c", (48, 0, 0, 52)).source == "description"
    with pytest.raises(Refused, match="nothing that the model names"):
        pointing.mask_at("c", (60, 60))
    with pytest.raises(Refused, match="outside"):
        pointing.mask_at("c", (-1, 5))


def region(mask: np.ndarray, number: int = 0) -> Region:
    return Region(number, "it", None, (230, 159, 0), 0.5, encode_mask(mask), "typed")


@pytest.mark.parametrize("place", [(1,), (float("nan"), 2), (0, 0, 0, 9), (50, 50, 90, 90)])
def test_a_place_outside_of_the_picture_is_refused(place: Place) -> None:
    with pytest.raises(Refused):
        inside(place, (40, 30))


def test_an_empty_mask_is_never_chosen() -> None:
    empty = region(np.zeros((4, 5), bool))
    assert choose([empty], (1, 1)) is None and choose([empty], (0, 0, 5, 4)) is None


def test_an_overlay_is_clear_outside_of_the_mask_and_opaque_at_its_edge() -> None:
    mask = np.zeros((30, 40), bool)
    mask[10:20, 10:30] = True
    layer = np.asarray(Image.open(io.BytesIO(region(mask).overlay())).convert("RGBA"))
    assert layer.shape == (30, 40, 4)
    assert set(layer[~mask][:, 3]) == {0} and set(map(tuple, layer[mask][:, :3])) == {(230, 159, 0)}
    assert layer[10, 10, 3] == 255 and layer[15, 20, 3] == 128


def test_the_overlay_file_is_the_picture_with_its_masks() -> None:
    mask = np.zeros((500, 600), bool)
    mask[:100] = True
    picture = Image.new("RGB", (600, 500), "white")
    drawn = np.asarray(Image.open(io.BytesIO(overlay_picture(picture, [region(mask)]))))
    assert drawn.shape[0] > 500 and drawn.shape[1] == 600
    assert tuple(drawn[50, 300]) == (242, 207, 128) and tuple(drawn[300, 300]) == (255, 255, 255)


def test_uploads_are_pictures_upright_and_no_larger_than_is_kept(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    path = saved(Image.new("RGB", (80, 40)), tmp_path / "phone.jpg", exif=exif)
    assert read_upload(path, Limits()).size == (40, 80)
    small = read_upload(path, Limits(kept_pixels=800))
    assert small.size == (20, 40) and small.mode == "RGB" and not small.info


@pytest.mark.parametrize("case", ["large", "bomb", "text", "svg", "cut", "gone"])
def test_whatever_else_is_uploaded_is_refused(case: str, tmp_path: Path) -> None:
    path = tmp_path / "upload.png"
    image = Image.new("RGB", (300, 300))
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(
        buffer, "PNG"
    )
    data = {
        "large": buffer.getvalue(),
        "text": b"#!/bin/sh\nrm -rf /\n",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://x/y'/></svg>",
        "cut": buffer.getvalue()[:-200],
    }
    if case == "bomb":
        image.save(path)
    elif case != "gone":
        path.write_bytes(data[case])
    limits = Limits(upload_bytes=2000) if case == "large" else Limits(pixels=89_999)
    message = {"large": "larger than", "bomb": "300 x 300 pixels", "gone": "did not arrive"}
    with pytest.raises(Refused, match=message.get(case, "cannot be opened as a picture")):
        read_upload(str(path), limits)


def test_pictures_of_idle_visitors_give_way(pointing: ChatService, tmp_path: Path) -> None:
    path = saved(Image.new("RGB", (100, 100)), tmp_path / "a.png")
    opened = pointing.opened
    limits = Limits(picture_bytes=3 * 100 * 100 * 2)
    service = ChatService(opened, pointing.grounder, limits=limits)
    for key in "abc":
        service.show(key, path)
    assert service.picture("a") is None and service.picture("c") is not None
    service.shutdown()
