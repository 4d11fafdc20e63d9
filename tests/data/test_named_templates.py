from __future__ import annotations

import pytest

from inlay.core.errors import ConfigError, DataError
from inlay.core.types import Conversation, Message
from inlay.data.chat import ChatEncoder
from inlay.data.templates import PROMPT_TEMPLATE, SYSTEM_TEMPLATE, check_template, fill

VICUNA = (
    "<s>A chat between a curious user and an artificial intelligence assistant. The assistant "
    "gives helpful, detailed, and polite answers to the user's questions. S{\n "
    "USER: U1 ASSISTANT:«A1</s>»\n<s>USER: U2 ASSISTANT:A2</s>\n<s>USER: U3 ASSISTANT:«A3</s>»\n"
)
DEEPSEEK_CODER = (
    "<s>You are an AI programming assistant, utilizing the DeepSeek Coder model, developed by "
    "DeepSeekCompany, and you only answer questions related to computer science. For politically "
    "sensitive questions, security and privacy issues, and other non-computer science questions, "
    "you will refuse to answer. S{\n### Instruction:\nU1\n### Response:\n«A1</s>»\n"
    "<s>### Instruction:\nU2\n### Response:\nA2</s>\n"
    "<s>### Instruction:\nU3\n### Response:\n«A3</s>»\n"
)
CHATML = (
    "<s><|im_start|>system\nS{<|im_end|>\n"
    "<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\n«A1<|im_end|>»\n"
    "<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\nA2<|im_end|>\n"
    "<|im_start|>user\nU3<|im_end|>\n<|im_start|>assistant\n«A3<|im_end|>»\n"
)
INST = (
    "<s>[INST] S{ [/INST]\n[INST] U1 [/INST]«A1</s>»\n"
    "<s>[INST] U2 [/INST]A2</s>\n<s>[INST] U3 [/INST]«A3</s>»\n"
)
HEADER = "<|start_header_id|>"
TURN = "<|START_OF_TURN_TOKEN|>"

# Three turns, the second untrained, a system text with a brace; « » surround what is trained.
GOLDEN = {
    "default": "<s><|System|>:S{\n<|User|>:U1\n<|Bot|>:«A1</s>»\n"
    "<s><|User|>:U2\n<|Bot|>:A2</s>\n<s><|User|>:U3\n<|Bot|>:«A3</s>»\n",
    "zephyr": "<s><|system|>\nS{\n<|user|>\nU1\n<|assistant|>\n«A1</s>»\n"
    "<s><|user|>\nU2\n<|assistant|>\nA2</s>\n<s><|user|>\nU3\n<|assistant|>\n«A3</s>»\n",
    "internlm_chat": "<s><|System|>:S{\n<|User|>:U1<eoh>\n<|Bot|>:«A1<eoa>»\n"
    "<|User|>:U2<eoh>\n<|Bot|>:A2<eoa>\n<|User|>:U3<eoh>\n<|Bot|>:«A3<eoa>»\n",
    "internlm2_chat": CHATML,
    "qwen_chat": CHATML,
    "moss_sft": "<s>S{\n<|Human|>: U1<eoh>\n«A1</s>»\n"
    "<s><|Human|>: U2<eoh>\nA2</s>\n<s><|Human|>: U3<eoh>\n«A3</s>»\n",
    "llama2_chat": "<s>[INST] <<SYS>>\nS{\n<</SYS>>\n\nU1 [/INST]«A1</s>»\n"
    "<s>[INST] U2 [/INST]A2</s>\n<s>[INST] U3 [/INST]«A3</s>»\n",
    "code_llama_chat": "<s>S{\n[INST] U1 [/INST]«A1</s>»<s>[INST] U2 [/INST]A2</s>"
    "<s>[INST] U3 [/INST]«A3</s>»",
    "chatglm2": "<s>S{\n[Round 1]\n\n问：U1\n\n答：«A1</s>»\n\n"
    "<s>[Round 2]\n\n问：U2\n\n答：A2</s>\n\n<s>[Round 3]\n\n问：U3\n\n答：«A3</s>»\n\n",
    "chatglm3": "<s><|system|>\nS{<|user|>\nU1<|assistant|>\n«A1</s>»\n"
    "<s><|user|>\nU2<|assistant|>\nA2</s>\n<s><|user|>\nU3<|assistant|>\n«A3</s>»\n",
    "baichuan_chat": "<s>S{\n<reserved_102>U1<reserved_103>«A1</s>»\n"
    "<s><reserved_102>U2<reserved_103>A2</s>\n<s><reserved_102>U3<reserved_103>«A3</s>»\n",
    "baichuan2_chat": "<s>S{\n<reserved_106>U1<reserved_107>«A1</s>»\n"
    "<s><reserved_106>U2<reserved_107>A2</s>\n<s><reserved_106>U3<reserved_107>«A3</s>»\n",
    "wizardlm": VICUNA,
    "vicuna": VICUNA,
    "wizardcoder": "<s>Below is an instruction that describes a task. Write a response that "
    "appropriately completes the request.\n\nS{\n "
    "### Instruction:\nU1\n\n### Response:«A1</s>»\n\n"
    "<s>### Instruction:\nU2\n\n### Response:A2</s>\n\n"
    "<s>### Instruction:\nU3\n\n### Response:«A3</s>»\n\n",
    "deepseek_coder": DEEPSEEK_CODER,
    "deepseekcoder": DEEPSEEK_CODER,
    "deepseek_moe": INST,
    "mistral": INST,
    "mixtral": INST,
    "deepseek_v2": "<s>S{\n\nUser: U1\n\nAssistant: «A1<｜end▁of▁sentence｜>»"
    "User: U2\n\nAssistant: A2<｜end▁of▁sentence｜>"
    "User: U3\n\nAssistant: «A3<｜end▁of▁sentence｜>»",
    "minicpm": "<s>S{<用户> U1 <AI>«A1</s>»\n<s><用户> U2 <AI>A2</s>\n<s><用户> U3 <AI>«A3</s>»\n",
    "gemma": "<s><start_of_turn>system\nS{<end_of_turn>\n<start_of_turn>user\nU1<end_of_turn>\n"
    "<start_of_turn>model\n«A1<end_of_turn></s>»\n"
    "<s><start_of_turn>user\nU2<end_of_turn>\n<start_of_turn>model\nA2<end_of_turn></s>\n"
    "<s><start_of_turn>user\nU3<end_of_turn>\n<start_of_turn>model\n«A3<end_of_turn></s>»\n",
    "cohere_chat": f"<s>{TURN}<|SYSTEM_TOKEN|>S{{<|END_OF_TURN_TOKEN|>"
    f"{TURN}<|USER_TOKEN|>U1<|END_OF_TURN_TOKEN|>{TURN}<|CHATBOT_TOKEN|>«A1<|END_OF_TURN_TOKEN|>»"
    f"{TURN}<|USER_TOKEN|>U2<|END_OF_TURN_TOKEN|>{TURN}<|CHATBOT_TOKEN|>A2<|END_OF_TURN_TOKEN|>"
    f"{TURN}<|USER_TOKEN|>U3<|END_OF_TURN_TOKEN|>{TURN}<|CHATBOT_TOKEN|>«A3<|END_OF_TURN_TOKEN|>»",
    "llama3_chat": f"<s>{HEADER}system<|end_header_id|>\n\nS{{<|eot_id|>"
    f"{HEADER}user<|end_header_id|>\n\nU1<|eot_id|>"
    f"{HEADER}assistant<|end_header_id|>\n\n«A1<|eot_id|>»"
    f"{HEADER}user<|end_header_id|>\n\nU2<|eot_id|>"
    f"{HEADER}assistant<|end_header_id|>\n\nA2<|eot_id|>"
    f"{HEADER}user<|end_header_id|>\n\nU3<|eot_id|>"
    f"{HEADER}assistant<|end_header_id|>\n\n«A3<|eot_id|>»",
    "phi3_chat": "<s><|system|>\nS{<|end|>\n<|user|>\nU1<|end|>\n<|assistant|>\n«A1<|end|>»\n"
    "<|user|>\nU2<|end|>\n<|assistant|>\nA2<|end|>\n"
    "<|user|>\nU3<|end|>\n<|assistant|>\n«A3<|end|>»\n",
}
MESSAGES = [
    Message("system", "S{"),
    Message("user", "U1"),
    Message("assistant", "A1", True),
    Message("user", "U2"),
    Message("assistant", "A2", False),
    Message("user", "U3"),
    Message("assistant", "A3", True),
]


def test_every_template_has_a_golden_row():
    assert set(GOLDEN) == set(PROMPT_TEMPLATE)


@pytest.mark.parametrize("name", GOLDEN)
def test_tokens_and_loss(name, make_tokenizer, marked):
    tokenizer = make_tokenizer(special=("<|im_end|>", "<|eot_id|>"))
    (sample,) = ChatEncoder(tokenizer, name).encode([Conversation(MESSAGES)])
    assert marked(tokenizer, sample) == GOLDEN[name]


@pytest.mark.parametrize("name", GOLDEN)
@pytest.mark.parametrize("sentencepiece", [False, True])
def test_prompt_is_what_training_saw(name, sentencepiece, make_tokenizer):
    encoder = ChatEncoder(make_tokenizer(sentencepiece=sentencepiece), name)
    (sample,) = encoder.encode([Conversation(MESSAGES)])
    first, last = int(sample.mask.argmax()), encoder.prompt_ids(MESSAGES[:-1])
    assert encoder.prompt_ids(MESSAGES[:2]) == sample.ids[:first].tolist()
    assert last == sample.ids[: len(last)].tolist()
    assert sample.mask[len(last)]
    assert not sample.mask[len(last) - 1]


def test_no_bos_for_a_tokenizer_without_one(make_tokenizer, marked):
    tokenizer = make_tokenizer(bos=None)
    (sample,) = ChatEncoder(tokenizer, "default").encode([Conversation(MESSAGES[:3])])
    assert marked(tokenizer, sample).startswith("<|System|>")


def test_text_is_all_trained_but_the_first_token(make_tokenizer, marked):
    texts = [Conversation(text="one"), Conversation(text="two")]
    tokenizer = make_tokenizer()
    samples = ChatEncoder(tokenizer).encode(texts)
    assert [marked(tokenizer, s) for s in samples] == ["<s>«one»", "<s>«two»"]
    tokenizer = make_tokenizer(bos=None)
    samples = ChatEncoder(tokenizer, "default").encode(texts)
    assert [marked(tokenizer, s) for s in samples] == ["o«ne»", "t«wo»"]


def test_stop_tokens_and_words(make_tokenizer):
    tokenizer = make_tokenizer(special=("<|im_end|>",))
    encoder = ChatEncoder(tokenizer, PROMPT_TEMPLATE.qwen_chat)
    ids = tokenizer.convert_tokens_to_ids(["</s>", "<|im_end|>"])
    assert encoder.stop_token_ids == ids
    assert encoder.stop_words == ["<|im_end|>", "<|endoftext|>"]


def test_attribute_and_item_access():
    assert PROMPT_TEMPLATE.qwen_chat is PROMPT_TEMPLATE["qwen_chat"]
    assert "SUFFIX" not in PROMPT_TEMPLATE.default
    assert type(PROMPT_TEMPLATE.default) is dict
    assert SYSTEM_TEMPLATE.get("none") is None
    assert fill(SYSTEM_TEMPLATE.moss_sft, bot_name="{x}").count("{x}") == 2
    with pytest.raises(AttributeError, match="'qwen_chat'"):
        _ = PROMPT_TEMPLATE.qwen_chta


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("qwen_cat", "Did you mean 'qwen_chat'"),
        ({"INSTRUCTION": "{input}", "SUFIX": ""}, "Did you mean 'SUFFIX'"),
        ({"INSTRUCTION": "hello"}, "must contain {input}"),
        ({"INSTRUCTION": "{input}", "SUFFIX_AS_EOS": True}, "no stop token"),
    ],
)
def test_bad_templates(template, message):
    with pytest.raises(ConfigError, match=message.replace("{", r"\{")):
        check_template(template)


def test_template_that_needs_an_eos(make_tokenizer):
    with pytest.raises(ConfigError, match="no stop token"):
        ChatEncoder(make_tokenizer(eos=None), "vicuna")


def test_system_text_without_a_place(make_tokenizer):
    encoder = ChatEncoder(make_tokenizer(), {"INSTRUCTION": "{input}"})
    with pytest.raises(DataError, match="no SYSTEM"):
        encoder.encode([Conversation(MESSAGES)])


def test_identity_follows_content_not_objects(make_tokenizer):
    one = ChatEncoder(make_tokenizer(), "vicuna").identity()
    assert one == ChatEncoder(make_tokenizer(), dict(PROMPT_TEMPLATE.vicuna)).identity()
    assert one["template"] != ChatEncoder(make_tokenizer(), "default").identity()["template"]
    other = ChatEncoder(make_tokenizer(special=("<x>",)), "vicuna").identity()
    assert one["tokenizer"] != other["tokenizer"]
