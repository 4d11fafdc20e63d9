"""Chats that point: rows of the decode steps, phrases, colours, files."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_grounder
import tiny_vlms
import torch
from PIL import Image

from inlay.chat import grounded, terminal
from inlay.chat.grounded import GroundedSession, Overlays, token_spans
from inlay.chat.grounder import Grounder
from inlay.chat.overlay import palette
from inlay.cli import main
from inlay.core.errors import ModelError
from inlay.models.grounding.capture import Grounded, merge_rows
from inlay.models.grounding.model import Sight

QUESTIONS = ("describe the picture.", "what is the leftmost object?")
COUNT = "how many circles are there?"


@pytest.fixture(scope="module")
def grounder() -> Grounder:
    return tiny_grounder.tiny_grounder(selector=True)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "scene.png"
    tiny_grounder.scene().resize((130, 90)).save(path)
    return path


def open_session(grounder: Grounder, picture: Path, **settings: Any) -> GroundedSession:
    settings = {"temperature": 0, "max_new_tokens": 40, "phrases": "nouns"} | settings
    return GroundedSession(grounder, Image.open(picture).convert("RGB"), **settings)


def attended(session: GroundedSession, ids: list[int], tokens: list[int]) -> Any:
    """What every answer token but the last looks at, in one forward of prompt and answer."""
    processor, lmm = session.grounder.image_processor, session.grounder.lmm
    row = torch.tensor([ids + tokens[:-1]])
    places = (row[0] == processor.image_token_id).nonzero()[:, 0]
    inputs = {
        "input_ids": row,
        "position_ids": torch.arange(row.shape[1])[None],
        "doc_starts": torch.tensor([0, row.shape[1]], dtype=torch.int32),
        "longest_document": row.shape[1],
        **session.pictures.inputs(row[0].tolist()),
    }
    number = torch.arange(len(tokens) - 1)
    columns = places.expand(len(number), -1)
    return lmm.look(inputs, Grounded(number * 0, len(ids) + number, number, columns))


def test_masks_come_from_the_decode_steps(
    grounder: Grounder, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = open_session(grounder, picture)
    prompts: list[list[int]] = []
    sights: list[Sight] = []
    generate, from_sights = session._generate, grounder.from_sights

    def spy_ids(ids: list[int], stream: Any) -> list[int]:
        prompts.append(ids)
        return generate(ids, stream)

    def spy_sights(image: Any, seen: list[Sight]) -> Any:
        sights.extend(seen)
        return from_sights(image, seen)

    monkeypatch.setattr(session, "_generate", spy_ids)
    monkeypatch.setattr(grounder, "from_sights", spy_sights)
    steps: list[int] = []
    hook = grounder.lmm.decoder.register_forward_pre_hook(lambda *_: steps.append(1))
    for turn, question in enumerate(QUESTIONS):
        steps.clear()
        answer = session.reply(question)
        pointed, tokens = session.pointed, session._tokens
        assert pointed is not None and pointed.text == answer
        assert len(steps) == len(tokens), "one forward for each token, none for the masks"
        words = [session.tokenizer.decode([token]) for token in tokens]

        seen = attended(session, prompts[turn], tokens)
        assert len(pointed.phrases) == 2 - turn, answer
        numbers, number = torch.full((len(tokens) - 1,), -1), 0
        for phrase in pointed.phrases:  # one token a word
            parts = phrase.split()
            at = next(n for n in range(number, len(words)) if words[n : n + len(parts)] == parts)
            number = at + len(parts)
            numbers[at:number] = pointed.phrases.index(phrase)
        expected = merge_rows(seen.maps, numbers)
        height, width = sights[turn].maps.shape[-2:]
        assert torch.allclose(
            sights[turn].maps, expected.unflatten(2, (height, width)), atol=1e-5, rtol=0
        )
        named = numbers >= 0
        assert torch.equal(sights[turn].masks, numbers[named])
        assert torch.allclose(sights[turn].hidden, seen.hidden[:, named], atol=1e-4)
        canvas = sights[turn].canvas
        again = Sight(
            expected.unflatten(2, (height, width)), canvas, seen.hidden[:, named], numbers[named]
        )
        masks, scores = from_sights(session.image, [again])
        assert pointed.masks.shape == (len(pointed.phrases), 90, 130)
        assert (pointed.masks != masks).mean() < 1e-3
        assert np.allclose(pointed.scores, scores, atol=1e-4)
    hook.remove()
    assert len(prompts[1]) > len(prompts[0]), "the second turn follows the first"


@pytest.mark.parametrize(("longest", "phrases"), [(1, []), (3, [True]), (4, [True])])
def test_an_answer_that_is_cut_off(
    grounder: Grounder, picture: Path, longest: int, phrases: list[bool]
) -> None:
    """The last token goes in no more: its phrase is shown by the tokens before it, if any."""
    session = open_session(grounder, picture, max_new_tokens=longest)
    words = session.reply(QUESTIONS[0]).split()
    assert session.pointed is not None and len(words) == longest
    assert session.pointed.phrases == [" ".join(words[:3]) for _ in phrases]


def test_token_spans_cover_characters_of_several_tokens() -> None:
    tokenizer = tiny_vlms.byte_tokenizer(merges=[("a", "b")])
    text = "ab é🐟."
    ids = tokenizer(text).input_ids
    assert len(ids) == 1 + 1 + 2 + 4 + 1
    expected = [(0, 2), (2, 3), *[(3, 4)] * 2, *[(4, 5)] * 4, (5, 6)]
    assert token_spans(tokenizer, ids) == expected
    assert token_spans(tokenizer, [*ids, tokenizer.eos_token_id]) == [*expected, (6, 6)]
    assert token_spans(tokenizer, []) == []


@pytest.mark.parametrize("bias", [10.0, -10.0])
def test_the_selector_chooses(grounder: Grounder, picture: Path, bias: float) -> None:
    assert grounder.model is not None and grounder.model.selector is not None
    linear = grounder.model.selector.linear
    torch.nn.init.zeros_(linear.weight)
    torch.nn.init.constant_(linear.bias, bias)
    session = open_session(grounder, picture, phrases="auto")
    answer = session.reply(QUESTIONS[0])
    assert session.pointed is not None
    assert session.pointed.phrases == ([answer] if bias > 0 else [])
    nouns = open_session(grounder, picture, phrases="nouns")
    nouns.reply(QUESTIONS[0])
    assert nouns.pointed is not None and answer not in nouns.pointed.phrases


def test_there_must_be_a_selector_to_choose(grounder: Grounder, picture: Path) -> None:
    alone = Grounder(grounder.lmm, grounder.builder)
    with pytest.raises(ModelError, match=r"no keyword selector.*--phrases nouns"):
        open_session(alone, picture, phrases="selector")
    session = open_session(alone, picture, phrases="auto")
    session.reply(QUESTIONS[0])
    assert session.pointed is not None, "training-free pointing"
    assert session.pointed.masks.shape == (len(session.pointed.spans), 90, 130)
    assert len(session.pointed.spans) > 0


def talk(
    session: GroundedSession,
    path: Path,
    picture: Path,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    is_terminal: bool = False,
) -> None:
    stdin = io.StringIO(text)
    if is_terminal:
        lines = iter(text.split("\n"))
        monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
        monkeypatch.setattr(stdin, "isatty", lambda: True)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdin", stdin)
    assert terminal.run_chat(session, after=Overlays(session, path, str(picture))) == 0


def test_a_pipe_gets_plain_text_and_paths(
    grounder: Grounder,
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    session = open_session(grounder, picture)
    text = f"{QUESTIONS[0]}\n\n{COUNT}\n\n{QUESTIONS[1]}\n"
    talk(session, tmp_path / "new" / "out.png", picture, text, monkeypatch)
    out, err = capsys.readouterr()
    answers = [m.content for m in session.history if m.role == "assistant"]
    first, third = (tmp_path / "new" / f"out_{turn}.png" for turn in (1, 3))
    assert out.splitlines() == [
        answers[0],
        f"overlay: {first}",
        answers[1],
        answers[2],
        f"overlay: {third}",
    ]
    assert err.count("names nothing") == 1
    assert sorted(first.parent.iterdir()) == [first, third], "one for each turn that points"


def test_words_have_the_colours_of_their_masks(
    grounder: Grounder,
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLORTERM", "truecolor")
    session = open_session(grounder, picture)
    talk(session, tmp_path / "out.png", picture, f"{QUESTIONS[0]}\n\nEXIT\n", monkeypatch, True)
    out = capsys.readouterr().out
    pointed = session.pointed
    assert pointed is not None
    plain, coloured, path = out.splitlines()
    assert plain == pointed.text and path == f"overlay: {tmp_path / 'out_1.png'}"
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == pointed.text
    found = re.findall(r"48;2;(\d+);(\d+);(\d+)m([^\x1b]*)", coloured)
    colours = palette(len(pointed.phrases))
    assert [(*map(int, c[:3]), c[3]) for c in found] == [
        (*colour, phrase) for colour, phrase in zip(colours, pointed.phrases, strict=True)
    ]
    drawn = np.asarray(Image.open(tmp_path / "out_1.png"))
    assert drawn.shape[0] > 90, "a legend under the picture"
    for colour in colours:
        assert (drawn[90:] == colour).all(-1).any(), "a swatch in the same colour"


def test_the_picture_is_never_overwritten(tmp_path: Path, grounder: Grounder) -> None:
    picture = tmp_path / "out_1.png"
    tiny_grounder.scene().save(picture)
    before = picture.read_bytes()
    session = open_session(grounder, picture)
    show = Overlays(session, tmp_path / "out.png", str(picture))
    session.reply(QUESTIONS[0])
    show(False)
    assert picture.read_bytes() == before
    assert sorted(tmp_path.iterdir()) == [picture, tmp_path / "out_2.png"]


def test_an_interrupted_answer_points_at_nothing(grounder: Grounder, picture: Path) -> None:
    session = open_session(grounder, picture)

    def press(piece: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.reply(QUESTIONS[0], press)
    assert session.pointed is None
    assert session.reply(QUESTIONS[0]) and session.pointed is not None


def test_the_command(
    grounder: Grounder,
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    weights, config = tiny_grounder.checkpoint(tmp_path, grounder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{QUESTIONS[0]}\n"))
    words = ["--image", str(picture), "--ground", weights, "--config", config, "--temperature", "0"]
    assert main(["chat", tiny_grounder.MODEL, *words]) == 0
    out = capsys.readouterr().out
    session = open_session(grounder, picture)
    assert out.splitlines() == [session.reply(QUESTIONS[0]), "overlay: scene_grounded_1.png"]
    assert session.pointed is not None
    grounded.write_overlay(
        tmp_path / "expected.png",
        session.image,
        session.pointed.masks,
        session.pointed.phrases,
        session.pointed.scores,
    )
    made, expected = (
        np.asarray(Image.open(tmp_path / name)) for name in ("scene_grounded_1.png", "expected.png")
    )
    assert np.array_equal(made, expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--ground", "x"], "--ground needs a picture"),
        (["--out", "a.png"], "--out needs --ground"),
        (["--phrases", "nouns"], "--phrases needs --ground"),
        (["--ground", "x", "--image", "a.png", "--bits", "4"], "--bits does not go with --ground"),
        (["--ground", "x", "--image", "a.png", "--out", "a.gif"], "ends in .png"),
        (["--ground", "x", "--image", "missing.png"], "missing.png"),
    ],
)
def test_wrong_options(
    options: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["chat", "nowhere", *options]) == 1
    assert expected in capsys.readouterr().err
