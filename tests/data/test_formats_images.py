"""Pictures in every row format: their marks, their order, and what does not match."""

from __future__ import annotations

import base64
import json

import pytest

from inlay.core.errors import DataError
from inlay.core.types import IMAGE_MARK, Conversation, ImageRef
from inlay.data import llava_map_fn
from inlay.data.formats import FORMATS, detect_format, resolve_format

M = IMAGE_MARK


def said(*texts, **columns):
    names = ("human", "gpt")
    spoken = [{"from": names[i % 2], "value": text} for i, text in enumerate(texts)]
    return {**columns, "conversations": spoken}


def asked(content, **columns):
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": "A"}]
    return {**columns, "messages": messages}


def contents(conversation):
    return [message.content for message in conversation.messages]


def sources(conversation):
    return [ref.path if ref.path is not None else ref.data for ref in conversation.images]


@pytest.mark.parametrize(
    ("row", "question", "pictures"),
    [
        (said("What?\n<image>", "A", image="a.jpg"), f"{M}\nWhat?", ["a.jpg"]),
        (said("<image> or <image>?", "A", image=["a", "b"]), f"{M}\n{M}\nor ?", ["a", "b"]),
        (said("What?", "A", image="a.jpg"), f"{M}\nWhat?", ["a.jpg"]),
        (said("What?", "A", image=["a", "b"]), f"{M}\n{M}\nWhat?", ["a", "b"]),
        (said("Type <image> ", "A"), "Type <image> ", []),
        (said("Type <image> ", "A", image=None), "Type <image> ", []),
    ],
)
def test_llava(row, question, pictures):
    before = json.dumps(row)
    for form in ("llava", "llava_map_fn", llava_map_fn):
        conversation = resolve_format(form)(row)
        assert contents(conversation) == [question, "A"]
        assert sources(conversation) == pictures
    assert json.dumps(row) == before, "rows must not be changed"


def test_llava_marks_stay_in_their_turns():
    row = said("Q1 <image>", "A1", "Q2\n<image>", "A2", image=["a", "b"])
    assert contents(FORMATS["llava"](row)) == [f"{M}\nQ1", "A1", f"{M}\nQ2", "A2"]


def test_llava_image_only():
    row = said("Anything <image> at all", "A caption.", image="a.jpg")
    assert contents(FORMATS["llava_image_only"](row)) == [M, "A caption."]
    with pytest.raises(DataError, match="no <image>"):
        FORMATS["llava_image_only"](said("Nothing", "A", image="a.jpg"))


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("sharegpt", said("<image>Q1", "A1", "Q2 <image>", "A2", images=["a", "b"])),
        ("xtuner", {"conversation": [{"input": "<image>Q1 <image>", "output": "A1"}]}),
        ("alpaca", {"instruction": "<image>", "input": "<image>", "output": "O"}),
        ("text", {"text": "One <image>, another <image>."}),
    ],
)
def test_marks_keep_their_place_and_need_a_column(name, row):
    row = {**row, "images": ["a", "b"]}
    conversation = FORMATS[name](row)
    joined = conversation.text or "".join(contents(conversation))
    assert (joined.count(M), joined.count("<image>")) == (2, 0)
    assert sources(conversation) == ["a", "b"]
    del row["images"]
    plain = FORMATS[name](row)
    joined = plain.text or "".join(contents(plain))
    assert (joined.count(M), joined.count("<image>")) == (0, 2)
    assert plain.images == []


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("llava", said("<image><image><image>", "A", image=["a", "b"]), "2 pictures but 3 <image>"),
        ("llava", said("<image>", "A", image=[]), "0 pictures but 1 <image>"),
        ("sharegpt", said("Q", "A", images=["a"]), "1 picture but 0 <image>"),
        ("openai", asked("<image>", images=["a", "b"]), "2 pictures but 1 <image>"),
        ("openai", asked([{"type": "image"}]), "0 pictures but 1 <image>"),
        ("openai", asked([{"type": "image", "path": "a"}], images=["b"]), "1 picture but 0"),
        ("openai", asked([{"type": "audio"}]), "message 0 has a part .*: audio"),
        ("llava", said("<image>", "A", image="https://x.org/a.jpg"), "not fetched.*image_folder"),
        ("llava", said("<image>", "A", image=3), "must be a path, bytes.*int 3"),
        ("llava", said("<image>", "A", image=[None]), "found null"),
        ("llava", said("<image>", "A", image=""), "must be a path"),
        ("llava", said("<image>", "A", image="data:image/png;base64,%%"), "cannot be read"),
        ("llava", said("<image>", "A", image="data:image/png,abc"), "not base64"),
        ("finevision", {"texts": "T"}, "'texts' must be a list"),
        ("finevision", {"texts": [{"user": "Q"}]}, "no 'assistant'"),
    ],
)
def test_rows_that_do_not_fit(name, row, message):
    with pytest.raises(DataError, match=message):
        FORMATS[name](row)


def test_openai_parts_carry_their_pictures():
    url = "data:image/png;base64," + base64.b64encode(b"pixels").decode()
    parts = [
        {"type": "text", "text": "Type <image>: ", "image": None},
        {"type": "image", "text": None, "image": None},
        {"type": "image_url", "image_url": {"url": url, "detail": "low"}},
        {"type": "input_image", "image_url": "b.png"},
        {"type": "input_text", "text": " or "},
        {"type": "image", "path": "c.png"},
        {"type": "image", "url": "file:///d.png"},
        {"type": "image", "image": {"bytes": b"more", "path": "e.png"}},
    ]
    conversation = FORMATS["openai"](asked(parts, images=["a.png"]))
    assert contents(conversation) == [f"Type <image>: {M}{M}{M} or {M}{M}{M}", "A"]
    assert sources(conversation) == ["a.png", b"pixels", "b.png", "c.png", "/d.png", b"more"]


def test_text_parts_may_say_image():
    row = asked([{"type": "text", "text": "<image>\nWhat?"}], images=[{"bytes": b"x"}])
    conversation = FORMATS["openai"](row)
    assert contents(conversation) == [f"{M}\nWhat?", "A"]
    assert sources(conversation) == [b"x"]


@pytest.mark.parametrize(
    ("images", "count"), [(None, 0), ([], 0), ({"bytes": b"x", "path": None}, 1), (["a", "b"], 2)]
)
def test_finevision_pictures_stand_first(images, count):
    texts = [{"user": f"Q{i} <image>", "assistant": f"A{i}"} for i in range(2)]
    conversation = FORMATS["finevision"]({"images": images, "texts": texts})
    assert contents(conversation) == [M * count + "Q0 <image>", "A0", "Q1 <image>", "A1"]
    assert [message.trained for message in conversation.messages] == [False, True] * 2
    assert len(conversation.images) == count
    assert FORMATS["finevision"]({"images": images, "texts": []}) is None


def test_no_text_can_hold_the_mark_itself():
    for name, row in [
        ("llava", said(f"<image>{M}", "A", image="a")),
        ("openai", asked(f"<image>{M}", images=["a"])),
        ("openai", asked([{"type": "image", "path": "a"}, {"type": "text", "text": M}])),
        ("finevision", {"images": "a", "texts": [{"user": M, "assistant": "A"}]}),
    ]:
        assert "".join(contents(FORMATS[name](row))).count(M) == 1
    assert M not in FORMATS["text"](M).text


@pytest.mark.parametrize(
    ("row", "name"),
    [
        (said("<image>", "A", image="a.jpg"), "llava"),
        (said("<image>", "A", images=["a.jpg"]), "sharegpt"),
        (said("Q", "A", image=None), "sharegpt"),
        (asked("<image>", images=["a.jpg"]), "openai"),
        ({"images": None, "texts": [{"user": "Q", "assistant": "A"}], "source": "x"}, "finevision"),
    ],
)
def test_detection(row, name):
    assert detect_format(row) == name


def test_texts_of_another_form_are_not_finevision():
    with pytest.raises(DataError, match=r"nearest is 'finevision'.*'user', 'assistant'"):
        detect_format({"texts": [{"question": "Q"}]})


def test_own_functions():
    def turns(row):
        return {"conversation": [{"input": row["q"], "output": "A"}]}

    convert = resolve_format(turns)
    assert sources(convert({"q": "<image>What?", "image": "a.jpg"})) == ["a.jpg"]
    assert convert({"q": "What?", "image": "a.jpg"}).images == []  # it wants no picture
    assert contents(convert({"q": f"<image>{M}"})) == ["<image>\ufffd", "A"]
    own = resolve_format(lambda row: Conversation(text=M, images=[ImageRef("a")] * row))
    assert len(own(1).images) == 1
    with pytest.raises(DataError, match="2 pictures but 1 <image>"):
        own(2)


@pytest.mark.shared
@pytest.mark.parametrize(
    ("file", "name", "rows", "pictures"),
    [
        ("llava_photos.json", "llava", 490, 490),
        ("mllm_demo.json", "openai", 6, 8),
        ("oph/unique_data.json", "llava", 6, 6),
    ],
)
def test_real_files(shared_data, file, name, rows, pictures):
    found = json.loads((shared_data / "images" / file).read_text())
    assert detect_format(found[0]) == name
    conversations = [FORMATS[name](row) for row in found]
    assert len(conversations) == rows
    marks = sum("".join(contents(c)).count(M) for c in conversations)
    assert marks == pictures == sum(len(c.images) for c in conversations)
