"""A tokenizer for the language of the scenes: every word one token, any other word its letters."""

from __future__ import annotations

import string
from typing import Any

from inlay.data.scenes.build import example
from inlay.data.scenes.language import CAPTION_REQUEST, LAYOUT_REQUESTS, NAMING_REQUEST, caption

USER, ASSISTANT, END, IMAGE = "<|user|>", "<|assistant|>", "<|end|>", "<image>"
PAD, UNKNOWN = "<pad>", "<unk>"
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] == 'assistant' %}" + ASSISTANT + "{{ m['content'] }}" + END + ""
    "{% elif m['role'] == 'user' %}" + USER + "{{ m['content'] }}"
    "{% else %}{{ m['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}" + ASSISTANT + "{% endif %}"
)
_EXAMPLES = 400


def words() -> list[str]:
    """Return every word that captions, questions and answers use, the twist's included, sorted."""
    texts = [CAPTION_REQUEST, NAMING_REQUEST, *LAYOUT_REQUESTS.values(), "empty"]
    for split in ("train", "twist"):
        for index in range(_EXAMPLES):
            made = example(split, 0, index)
            texts.append(caption(made.scene)[0])
            texts += [part for q in made.questions for part in (q.text, q.answer)]
    found = " ".join(texts)
    for mark in ",.?":
        found = found.replace(mark, " ")
    return sorted(set(found.split()))


def scene_tokenizer() -> Any:
    """Return a ``PreTrainedTokenizerFast`` of WordPiece with a chat template.

    Upper case is read as lower case. The stop token ``<|end|>`` is the EOS token.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = string.ascii_lowercase + string.digits
    special = [PAD, UNKNOWN, USER, ASSISTANT, END, IMAGE]
    pieces = [*string.punctuation, *letters, *(f"##{letter}" for letter in letters)]
    entries = dict.fromkeys([*special, *words(), *pieces])
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNKNOWN,
        additional_special_tokens=[USER, ASSISTANT, IMAGE],
        clean_up_tokenization_spaces=False,
        chat_template=TEMPLATE,
    )
