"""Prompt and caption as tokens."""

from __future__ import annotations

import numpy as np
import pytest

from inlay.core.errors import ConfigError, DataError
from inlay.data.grounding.sequence import PROMPT, SequenceBuilder

DEEPSEEK = {
    "SYSTEM": "",
    "INSTRUCTION": "User: {input}\n\nAssistant:",
    "SUFFIX": "</s>",
    "SUFFIX_AS_EOS": True,
    "SEP": "\n",
    "STOP_WORDS": ["</s>"],
}
PIECES = [("A", -1), (" dog", 0), (" and a", -1), (" cat", 1), ("", -1), (" dog", 0)]


def with_bos(tokenizer):
    from tokenizers.processors import TemplateProcessing

    special = [("<s>", tokenizer.bos_token_id)]
    post = TemplateProcessing(single="<s> $A", pair="<s> $A $B", special_tokens=special)
    tokenizer.backend_tokenizer.post_processor = post
    return tokenizer


def plain(seeing, tokenizer):
    """Eyes of four image tokens and nothing else, as F-LMM's."""

    class Plain(seeing):
        def plan(self, width, height, index=0, count=1):
            found = super().plan(width, height, index, count)
            return type(found)("", found.ids[:-1], found.tiles)

    return Plain(tokenizer)


@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("sentencepiece", [False, True])
def test_ids_are_those_of_the_original(make_tokenizer, seeing, bos, sentencepiece):
    tokenizer = make_tokenizer(sentencepiece=sentencepiece)
    eyes = plain(seeing, tokenizer)
    if bos:
        tokenizer = with_bos(tokenizer)
    prompt = "<image_placeholder>" * 4 + "Please give me a description of the image."
    builder = SequenceBuilder(tokenizer, eyes, template=DEEPSEEK, prompt=prompt)
    found = builder.build((30, 30), PIECES)
    text = DEEPSEEK["INSTRUCTION"].format(input=prompt)
    expected = tokenizer.encode(text, add_special_tokens=True)
    assert (expected[0] == tokenizer.bos_token_id) == bos
    names = []
    for piece, mask in PIECES:
        ids = tokenizer.encode(piece, add_special_tokens=False) if piece else []
        expected = expected + ids
        names += [mask] * len(ids)
    assert found.ids.tolist() == expected
    assert found.mask_ids.tolist() == names
    assert found.caption_rows.tolist() == list(range(len(expected) - len(names), len(expected)))
    assert found.ids.dtype == np.int32
    assert found.caption_rows.dtype == found.mask_ids.dtype == np.int64


@pytest.mark.parametrize("mark", ["<image>", "<image_placeholder>", "<image_placeholder>" * 576])
def test_pictures_in_prompts(tokenizer, seeing, mark):
    eyes = seeing(tokenizer)
    builder = SequenceBuilder(tokenizer, eyes, template="vicuna", prompt=f"{mark}\nLook.")
    assert builder.num_pictures == 1
    ids = builder.prompt_ids((30, 30)).tolist()
    text = tokenizer.decode(ids)
    assert text == "USER: " + "<image_placeholder>" * 4 + "</image>\nLook. ASSISTANT:"
    assert builder.prompt_ids([(90, 30)]).tolist().count(eyes.image_token_id) == 8


def test_several_pictures(tokenizer, seeing):
    builder = SequenceBuilder(
        tokenizer, seeing(tokenizer), template="vicuna", prompt="<image> and <image>: <image>"
    )
    sizes = [(30, 30), (90, 30), (10, 10)]
    assert builder.num_pictures == 3
    assert builder.first_tokens(sizes) == [0, 4, 12]
    picture = "<image_placeholder>" * 4
    assert tokenizer.decode(builder.build(sizes, [("x", 0)]).ids.tolist()) == (
        f"USER: <0>{picture}</image> and <1>{picture}{picture}</image>: <2>{picture}</image> "
        "ASSISTANT:x"
    )
    with pytest.raises(DataError, match="places for 3 pictures, there are 1"):
        builder.build((30, 30), [])


def test_own_template(tokenizer, seeing):
    builder = SequenceBuilder(tokenizer, seeing(tokenizer))
    found = builder.build((30, 30), PIECES)
    picture = "<image_placeholder>" * 4 + "</image>"
    prompt = PROMPT.replace("<image>", picture)
    expected = f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\nA dog and a cat dog"
    assert tokenizer.decode(found.ids.tolist()) == expected
    named = found.ids[found.caption_rows[found.mask_ids == 0]].tolist()
    assert tokenizer.decode(named) == " dog dog"


def test_stretches_of_one_text(make_tokenizer, seeing):
    """Cut or whole, a caption has the same tokens."""
    for sentencepiece in (False, True):
        tokenizer = make_tokenizer(sentencepiece=sentencepiece)
        builder = SequenceBuilder(tokenizer, seeing(tokenizer), template="vicuna")
        pieces = [("The", -1), (" old dog", 0), ("'s", -1), (" ear", 1), (".", -1)]
        cut = builder.build((30, 30), pieces, is_text=True)
        whole = builder.build((30, 30), [("The old dog's ear.", -1)], is_text=True)
        assert cut.ids.tolist() == whole.ids.tolist()
        if sentencepiece:  # as the original: a space of the tokenizer's own before every piece
            assert len(builder.build((30, 30), pieces).ids) > len(whole.ids)


def test_image_tokens_are_not_for_captions(tokenizer, seeing):
    builder = SequenceBuilder(tokenizer, seeing(tokenizer), template="vicuna")
    found = builder.build((30, 30), [("a<image_placeholder>b", 0)])
    assert tokenizer.decode(found.ids[found.caption_rows].tolist()) == "ab"
    with pytest.raises(DataError, match="'<image_placeholder>' of mask 2 has no tokens"):
        builder.build((30, 30), [("<image_placeholder>", 2)])


def test_too_long(tokenizer, seeing):
    length = len(SequenceBuilder(tokenizer, seeing(tokenizer)).prompt_ids((30, 30)))
    builder = SequenceBuilder(tokenizer, seeing(tokenizer), max_length=length + 5)
    assert len(builder.build((30, 30), [("ab", -1), ("cde", 0)]).ids) == length + 5
    message = rf"{length} \+ 6 tokens, max_length is {length + 5}; the longest piece has 4: 'cdef'"
    with pytest.raises(DataError, match=message):
        builder.build((30, 30), [("ab", -1), ("cdef", 0)])


def test_what_cannot_be_used(tokenizer, make_tokenizer, seeing):
    eyes = seeing(tokenizer)
    with pytest.raises(ConfigError, match="no place for a picture"):
        SequenceBuilder(tokenizer, eyes, prompt="Look.")
    with pytest.raises(ConfigError, match=r"no prompt template 'vicunia'.*vicuna"):
        SequenceBuilder(tokenizer, eyes, template="vicunia")
    with pytest.raises(ConfigError, match="chat template"):
        SequenceBuilder(make_tokenizer(None), eyes)
    strange = SequenceBuilder(make_tokenizer(), eyes, template="vicuna")
    with pytest.raises(ConfigError, match="does not know the image token"):
        strange.prompt_ids((30, 30))


def test_identity(tokenizer, seeing):
    def identity(**options):
        return SequenceBuilder(tokenizer, seeing(tokenizer), **options).identity()

    base = identity(template="vicuna")
    assert base == identity(template="vicuna", prompt=PROMPT)
    assert base["template"] != identity(template="vicuna", prompt="<image>?")["template"]
    assert base["template"] != identity(template="mistral")["template"]
    own = identity()
    assert own.keys() == base.keys()
    assert own["template"] != identity(prompt="<image>?")["template"]
