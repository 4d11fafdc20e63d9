"""Pictures in chats: their tokens, in their place, without loss."""

from __future__ import annotations

import pytest

from inlay.core.errors import DataError
from inlay.core.types import IMAGE_MARK, Conversation, ImageRef, Message
from inlay.data.chat import ChatEncoder

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Contents are lists of parts, as SmolVLM's: no blank behind the colon where a picture comes first.
PARTS = (
    "{{ bos_token }}{% for m in messages %}{{ m.role | capitalize }}"
    "{% if m.content[0].type == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text | trim }}"
    "{% elif part.type == 'image' %}{{ '<PIC>' }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
# Marks answers itself, and does not know generation prompts.
GENERATION = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% for part in m.content %}"
    "{% if part.type == 'image' %}{{ '<PIC>' }}{% elif m.role == 'assistant' %}"
    "{% generation %}{{ part.text + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ part.text + '<|im_end|>' }}{% endif %}{% endfor %}{{ '\n' }}{% endfor %}"
)
SPECIAL = ("<|im_start|>", "<|im_end|>")
ONE = "<image><image><image><image></image>"
TWO = "<image><image><image><image><image><image><image><image></image>"


def chat(*texts: str, system: str | None = None) -> list[Message]:
    """User and assistant in turn; ``@`` stands for a picture."""
    start = [Message("system", system)] if system else []
    return start + [
        Message(("user", "assistant")[i % 2], t.replace("@", IMAGE_MARK), bool(i % 2))
        for i, t in enumerate(texts)
    ]


def encoded(encoder, messages, *widths):
    """Encode with pictures of these widths."""
    plans = [encoder.image_processor.plan(w, 40, i, len(widths)) for i, w in enumerate(widths)]
    refs = [ImageRef(path=str(i)) for i in range(len(widths))]
    (sample,) = encoder.encode([Conversation(messages, images=refs)], [plans])
    return sample, plans


@pytest.fixture
def encoder(make_tokenizer, make_eyes):
    def make(template=None, own=CHATML, placeholder=None, sentencepiece=False):
        tokenizer = make_tokenizer(own, SPECIAL, sentencepiece=sentencepiece)
        return ChatEncoder(tokenizer, template, make_eyes(tokenizer, placeholder))

    return make


GOLDEN = [
    (
        "vicuna",
        chat("@\nWhat?", "A1", "And?", "A2"),
        (30,),
        f"<s>USER: {ONE}\nWhat? ASSISTANT:«A1</s>»\n<s>USER: And? ASSISTANT:«A2</s>»\n",
    ),
    (
        "qwen_chat",
        chat("@@ U1", "A1", "U2 @", "A2", system="S"),
        (30, 90, 30),
        f"<s><|im_start|>system\nS<|im_end|>\n<|im_start|>user\n<0>{ONE}<1>{TWO} U1<|im_end|>\n"
        "<|im_start|>assistant\n«A1<|im_end|>»\n"
        f"<|im_start|>user\nU2 <2>{ONE}<|im_end|>\n<|im_start|>assistant\n«A2<|im_end|>»\n",
    ),
    (
        "vicuna",
        chat("Draw", "Here: @ it is"),
        (30,),
        f"<s>USER: Draw ASSISTANT:«Here: »{ONE}« it is</s>»\n",
    ),
]


@pytest.mark.parametrize(("template", "messages", "widths", "expected"), GOLDEN)
def test_named_template(template, messages, widths, expected, encoder, marked):
    encoder = encoder(template)
    sample, _ = encoded(encoder, messages, *widths)
    assert marked(encoder.tokenizer, sample) == expected
    assert sample.tiles == sum(2 if w > 64 else 1 for w in widths)
    assert [ref.path for ref in sample.images] == [str(i) for i in range(len(widths))]


@pytest.mark.parametrize(
    ("own", "placeholder", "expected"),
    [
        (
            CHATML,
            None,
            f"<|im_start|>user\n<0>{ONE}\nWhat? <|im_end|>\n<|im_start|>assistant\n«A1<|im_end|>»\n"
            f"<|im_start|>user\nlike <1>{TWO}?<|im_end|>\n<|im_start|>assistant\n«A2<|im_end|>»\n",
        ),
        (
            PARTS,
            "<PIC>",
            f"<s>User:<0>{ONE}What?<|im_end|>\nAssistant:« A1<|im_end|>»\n"
            f"User: like<1>{TWO}?<|im_end|>\nAssistant:« A2<|im_end|>»\n",
        ),
        (
            GENERATION,
            "<PIC>",
            f"<|im_start|>user\n<0>{ONE}\nWhat? <|im_end|>\n<|im_start|>assistant\n«A1<|im_end|>»\n"
            f"<|im_start|>user\nlike <|im_end|><1>{TWO}?<|im_end|>\n"
            "<|im_start|>assistant\n«A2<|im_end|>»\n",
        ),
    ],
)
def test_own_template(own, placeholder, expected, encoder, marked):
    encoder = encoder(None, own, placeholder)
    messages = chat("@\nWhat? ", "A1", "like @?", "A2")
    sample, plans = encoded(encoder, messages, 30, 90)
    assert marked(encoder.tokenizer, sample) == expected
    prompt = encoder.prompt_ids(messages[:-1], plans)
    assert prompt == sample.ids[: len(prompt)].tolist()
    assert sample.mask[len(prompt)]
    assert encoder.prompt_ids(messages[:1], [encoder.image_processor.plan(30, 40, 0, 2)]) == (
        sample.ids[: int(sample.mask.argmax())].tolist()
    )


def test_text_under_a_template_of_parts(encoder, marked):
    """System turns, too; with and without a picture, filled in or rendered."""
    encoder = encoder(None, PARTS, "<PIC>")
    for text in ("U1", "image", " <|im_end|> "):  # the second and third make the template look
        (sample,) = encoder.encode([Conversation(chat(text, "A1", "U2", "A2", system="S"))])
        assert marked(encoder.tokenizer, sample) == (
            f"<s>System: S<|im_end|>\nUser: {text.strip()}<|im_end|>\nAssistant:« A1<|im_end|>»\n"
            "User: U2<|im_end|>\nAssistant:« A2<|im_end|>»\n"
        )


def test_learned_forms_equal_rendered_ones(encoder, monkeypatch):
    tricky = ["@", "@@ a", "a @ b @", " padded @ \n", "@image", "plain", " ", "text@"]
    learned, rendered = encoder(None, PARTS, "<PIC>"), encoder(None, PARTS, "<PIC>")
    monkeypatch.setattr(rendered._layout, "_triggers", None)  # nothing is known: all is rendered
    for question in tricky:
        for second in tricky:
            messages = chat(question, "A1", second, "A2")
            count = (question + second).count("@")
            ours, _ = encoded(learned, messages, *[30] * count)
            other, _ = encoded(rendered, messages, *[30] * count)
            assert ours.ids.tolist() == other.ids.tolist(), (question, second)
            assert ours.mask.tolist() == other.mask.tolist()
    assert any(learned._layout._skeletons.values())
    assert not any(rendered._layout._skeletons.values())


@pytest.mark.parametrize("sentencepiece", [False, True])
def test_own_template_gives_the_tokens_of_the_whole_text(sentencepiece, encoder):
    """As a processor that writes a picture's tokens into the text and tokenises that."""
    encoder = encoder(sentencepiece=sentencepiece)
    texts = ("a@b c", "A1", "@\nd", "A2")
    sample, _ = encoded(encoder, chat(*texts), 30, 30)
    whole = [
        {"role": ("user", "assistant")[i % 2], "content": t.replace("@", f"<{i // 2}>{ONE}")}
        for i, t in enumerate(texts)
    ]
    assert sample.ids.tolist() == encoder.tokenizer.apply_chat_template(whole, return_dict=False)


def test_named_template_tokenises_apart(encoder):
    """As XTuner: the texts on both sides of a picture, each on its own."""
    encoder = encoder("vicuna", sentencepiece=True)
    tokenizer = encoder.tokenizer
    sample, (plan,) = encoded(encoder, chat("@\nb c", "A1"), 30)
    parts = ("USER: ", "\nb c ASSISTANT:", "A1")
    before, behind, answer = (tokenizer(p, add_special_tokens=False).input_ids for p in parts)
    bos, eos = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
    separator = tokenizer("\n", add_special_tokens=False).input_ids
    expected = [*bos, *before, *plan.ids, *behind, *answer, *eos, *separator]
    assert sample.ids.tolist() == expected


def test_literal_image_tokens_are_removed(encoder, marked):
    encoder = encoder("vicuna", placeholder="<PIC>")
    messages = chat("<image>a@<ima<image>ge>b<P<image>IC>", "A<image>1", system="S<PIC>")
    sample, _ = encoded(encoder, messages, 30)
    text = marked(encoder.tokenizer, sample)
    assert f"USER: a{ONE}b ASSISTANT:«A1</s>»" in text
    assert text.count("<image>") == 4
    (sample,) = encoder.encode([Conversation(text="a<image>b")])
    assert marked(encoder.tokenizer, sample) == "<s>«ab»"


def test_document_with_pictures(encoder, marked):
    encoder = encoder("vicuna")
    plans = [encoder.image_processor.plan(30, 30, i, 2) for i in range(2)]
    text = f"one {IMAGE_MARK} two{IMAGE_MARK}"
    refs = [ImageRef(path="x"), ImageRef(path="y")]
    (sample,) = encoder.encode([Conversation(text=text, images=refs)], [plans])
    assert marked(encoder.tokenizer, sample) == f"<s>«one <0>»{ONE}« two<1>»{ONE}"


def test_pictures_and_places_must_match(encoder):
    encoder = encoder("vicuna")
    plan = encoder.image_processor.plan(30, 30)
    for text, plans in (("U1", [plan]), ("@", []), ("@@", [plan])):
        with pytest.raises(DataError, match=rf"has {len(plans)} pictures.*{text.count('@')}"):
            encoder.encode([Conversation(chat(text, "A1"))], [plans])
        with pytest.raises(DataError, match="places"):
            encoder.prompt_ids(chat(text), plans)


def test_template_that_drops_pictures(encoder):
    without = PARTS.replace("part.type == 'image'", "part.type == 'image' and m.role == 'user'")
    encoder = encoder(None, without, "<PIC>")
    with pytest.raises(DataError, match=r"has 1 pictures.*places for 0"):
        encoded(encoder, chat("U1", "A1", system="@"), 30)


def test_identity_names_the_image_processor(encoder, make_tokenizer):
    found = encoder("vicuna").identity()
    assert found["image_processor"] == "eyes "
    assert set(ChatEncoder(make_tokenizer(), "vicuna").identity()) == {"template", "tokenizer"}
