from __future__ import annotations

import json

import pytest

from inlay.core.errors import ConfigError, DataError
from inlay.core.types import Conversation, Message
from inlay.data.chat import ChatEncoder
from inlay.data.formats import FORMATS

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m['role'] + "
    "'<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{% set role = 'model' if m['role'] == 'assistant' else m['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
# Thoughts of earlier turns are dropped, the last turn gets an empty one where it has none.
QWEN3 = (
    "{% set ns = namespace(last=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}"
    "{% endfor %}{% for m in messages %}{% set content = m.content %}"
    "{% if m.role == 'assistant' %}{% set thought = '' %}{% if '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{% if loop.index0 > ns.last %}"
    "{% set content = '<think>\n' + thought + '\n</think>\n\n' + content %}{% endif %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# The system text goes into the last user turn, and generation prompts are not known.
MISTRAL = (
    "{% if messages[0].role == 'system' %}{% set sys = messages[0].content + '\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set sys = '' %}{% set rest = messages %}{% endif %}"
    "{{ bos_token }}{% for m in rest %}{% if m.role == 'user' %}"
    "{% set is_last = loop.index0 + 2 >= rest|length %}"
    "{{ '[INST] ' + (sys if is_last else '') + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
# The generation prompt opens a thought that finished answers do not have.
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}"
    "{% else %}{{ '<|Assistant|>' + m.content.split('</think>')[-1] + eos_token }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
# Marks answers itself, and does not know generation prompts.
GENERATION = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}"
    "{{ m.content + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
)
# The stop token comes once, behind the last answer.
ONE_STOP = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% else %}{{ eos_token }}{% endif %}"
)
SPECIAL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<|User|>",
    "<|Assistant|>",
)


def messages(*texts: str, system: str | None = None) -> list[Message]:
    """User and assistant in turn; an assistant text that starts with ~ is not trained."""
    start = [Message("system", system)] if system else []
    roles = ("user", "assistant")
    return start + [
        Message(roles[i % 2], t.removeprefix("~"), bool(i % 2) and t[0] != "~")
        for i, t in enumerate(texts)
    ]


GOLDEN = [
    (
        CHATML,
        messages("U1", "A1", "U2", "A2"),
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nU1<|im_end|>\n"
        "<|im_start|>assistant\n«A1<|im_end|>»\n<|im_start|>user\nU2<|im_end|>\n"
        "<|im_start|>assistant\n«A2<|im_end|>»\n",
    ),
    (
        CHATML,
        messages(" U1 ", "~A1", "U2", "\nA2 ", system="S"),
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\n U1 <|im_end|>\n"
        "<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nU2<|im_end|>\n"
        "<|im_start|>assistant\n«\nA2 <|im_end|>»\n",
    ),
    (
        LLAMA3,
        messages(" U1\n", " A1\n", "U2", "A2", system="S"),
        "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nU1<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«A1<|eot_id|>»"
        "<|start_header_id|>user<|end_header_id|>\n\nU2<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n«A2<|eot_id|>»",
    ),
    (
        GEMMA,
        messages("U1", "A1 "),
        "<s><start_of_turn>user\nU1<end_of_turn>\n<start_of_turn>model\n«A1<end_of_turn>»\n",
    ),
    (
        QWEN3,
        messages("U1", "A1", "U2", "A2"),
        "<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\n«A1<|im_end|>»\n"
        "<|im_start|>user\nU2<|im_end|>\n"
        "<|im_start|>assistant\n«<think>\n\n</think>\n\nA2<|im_end|>»\n",
    ),
    (
        QWEN3,
        messages("U1", "<think>\nT1\n</think>\n\nA1", "U2", "<think>\nT2\n</think>\n\nA2"),
        "<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\n«A1<|im_end|>»\n"
        "<|im_start|>user\nU2<|im_end|>\n"
        "<|im_start|>assistant\n«<think>\nT2\n</think>\n\nA2<|im_end|>»\n",
    ),
    (
        MISTRAL,
        messages("U1", "A1", "U2", "A2", system="S"),
        "<s>[INST] U1 [/INST] «A1</s>»[INST] S\n\nU2 [/INST]« A2</s>»",
    ),
    (
        DEEPSEEK,
        messages("U1", "A1", "U2", "A2"),
        "<s><|User|>U1<|Assistant|>«A1</s>»<|User|>U2<|Assistant|>«A2</s>»",
    ),
    (
        GENERATION,
        messages("U1", "A1", "U2", "~A2", "U3", "A3"),
        "<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\n«A1<|im_end|>»\n"
        "<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\nA2<|im_end|>\n"
        "<|im_start|>user\nU3<|im_end|>\n<|im_start|>assistant\n«A3<|im_end|>»\n",
    ),
    (
        ONE_STOP,
        messages("U1", "A1", "U2", "A2"),
        "user: U1\nassistant: «A1»\nuser: U2\nassistant: «A2\n</s>»",
    ),
]


@pytest.mark.parametrize(("template", "chat", "expected"), GOLDEN)
def test_tokens_and_loss(template, chat, expected, make_tokenizer, marked):
    tokenizer = make_tokenizer(template, SPECIAL)
    (sample,) = ChatEncoder(tokenizer).encode([Conversation(chat)])
    assert marked(tokenizer, sample) == expected
    plain = [{"role": m.role, "content": m.content} for m in chat]
    whole = tokenizer.apply_chat_template(plain, return_dict=False)
    assert sample.ids.tolist() == whole


@pytest.mark.parametrize(("template", "chat", "expected"), GOLDEN)
@pytest.mark.parametrize("sentencepiece", [False, True])
def test_prompt_is_what_training_saw(template, chat, expected, sentencepiece, make_tokenizer):
    tokenizer = make_tokenizer(template, SPECIAL, sentencepiece=sentencepiece)
    encoder = ChatEncoder(tokenizer)
    (sample,) = encoder.encode([Conversation(chat)])
    prompt = encoder.prompt_ids(chat[:-1])
    assert sample.ids[: len(prompt)].tolist() == prompt
    assert sample.mask[len(prompt) :].any()
    assert sample.mask[len(prompt)]
    assert not sample.mask[len(prompt) - 1]
    last_trained = int(sample.mask.nonzero()[0][-1])
    assert sample.ids[last_trained] in encoder.stop_token_ids


@pytest.mark.parametrize("template", [CHATML, LLAMA3, MISTRAL])
def test_sentencepiece_gets_the_tokens_of_the_whole_text(template, make_tokenizer):
    tokenizer = make_tokenizer(template, SPECIAL, sentencepiece=True)
    chat = messages("Hi you", "Well, hello", "And now", "Good bye")
    (sample,) = ChatEncoder(tokenizer).encode([Conversation(chat)])
    plain = [{"role": m.role, "content": m.content} for m in chat]
    assert sample.ids.tolist() == tokenizer.apply_chat_template(plain, return_dict=False)


def test_learned_text_equals_rendered_text(make_tokenizer, marked):
    """Contents that the template looks into, or trims, take the slow way: with the same result."""
    tricky = ["plain", " padded\n", "a </think> b", "user", "x\n\ny", "<|im_end|>", "", "{{ 1 }}"]
    for template in (CHATML, LLAMA3, QWEN3, DEEPSEEK):
        tokenizer = make_tokenizer(template, SPECIAL)
        encoder = ChatEncoder(tokenizer)
        for question in tricky:
            for answer in tricky:
                chat = [Message("user", question), Message("assistant", answer, True)]
                (sample,) = encoder.encode([Conversation(chat)])
                plain = [{"role": m.role, "content": m.content} for m in chat]
                whole = tokenizer.apply_chat_template(plain, return_dict=False)
                assert sample.ids.tolist() == whole, (template, question, answer)
                assert sample.mask.any()


def test_what_follows_the_last_answer_is_left_out(make_tokenizer, marked):
    tokenizer = make_tokenizer(CHATML, SPECIAL)
    (sample,) = ChatEncoder(tokenizer).encode([Conversation(messages("U1", "A1", "U2"))])
    assert marked(tokenizer, sample).endswith("«A1<|im_end|>»\n")


def test_template_without_a_stop_token(make_tokenizer):
    template = ONE_STOP.replace("eos_token", "''")
    encoder = ChatEncoder(make_tokenizer(template))
    with pytest.raises(ConfigError, match="no stop token") as caught:
        encoder.check()
    assert "prompt_template" in str(caught.value)


def test_tokenizer_without_a_template(make_tokenizer):
    tokenizer = make_tokenizer()
    tokenizer.name_or_path = "somewhere/Qwen-7B"
    encoder = ChatEncoder(tokenizer)
    with pytest.raises(ConfigError, match="Perhaps 'qwen_chat'"):
        encoder.encode([Conversation(messages("U1", "A1"))])


def test_template_that_refuses(make_tokenizer):
    encoder = ChatEncoder(make_tokenizer(GEMMA, SPECIAL))
    with pytest.raises(DataError, match="System role not supported"):
        encoder.encode([Conversation(messages("U1", "A1", system="S"))])


def test_no_answer(make_tokenizer):
    encoder = ChatEncoder(make_tokenizer(CHATML, SPECIAL))
    with pytest.raises(DataError, match="no assistant turn"):
        encoder.encode([Conversation(messages("U1"))])
    with pytest.raises(DataError, match="user message"):
        encoder.prompt_ids(messages("U1", "A1"))


@pytest.mark.shared
def test_real_tokenizer_and_rows(shared_data):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(shared_data / "tokenizers" / "qwen2")
    rows = json.loads((shared_data / "text" / "psychology_multi_turn_zh.json").read_text())[:100]
    conversations = [FORMATS["xtuner"](row) for row in rows]
    encoder = ChatEncoder(tokenizer)
    for conversation, sample in zip(conversations, encoder.encode(conversations), strict=True):
        plain = [{"role": m.role, "content": m.content} for m in conversation.messages]
        assert sample.ids.tolist() == tokenizer.apply_chat_template(plain, return_dict=False)
        answers = [m.content + "<|im_end|>" for m in conversation.messages if m.trained]
        assert tokenizer.decode(sample.ids[sample.mask]) == "".join(answers)
        prompt = encoder.prompt_ids(conversation.messages[:-1])
        assert prompt == sample.ids[: len(prompt)].tolist()
