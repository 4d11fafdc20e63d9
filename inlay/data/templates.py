"""Named prompt templates and system texts, as the models published them and XTuner users name them.

A template is a plain dict:

- ``SYSTEM``: the system text's frame, with ``{system}``; it stands before the turn's instruction.
- ``INSTRUCTION``: the user text's frame, with ``{input}`` and perhaps ``{round}`` (from 1).
- ``SUFFIX``: written after the answer, trained. ``SUFFIX_AS_EOS``: it takes the place of EOS.
- ``SEP``: written after the turn, not trained.
- ``STOP_WORDS``: texts that end generation, beside EOS.
- ``SYSTEM_INSIDE``: the system text stands inside the instruction, right before the input.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from inlay.core.errors import ConfigError, did_you_mean

TEMPLATE_KEYS = (
    "SYSTEM",
    "INSTRUCTION",
    "SUFFIX",
    "SUFFIX_AS_EOS",
    "SEP",
    "STOP_WORDS",
    "SYSTEM_INSIDE",
)


class NamedTexts(dict[str, Any]):
    """A dict whose values can also be read as attributes."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        hint = "" if name.startswith("__") else did_you_mean(name, self)
        raise AttributeError(f"there is no template '{name}'.{hint}")


_CHATML = {
    "SYSTEM": "<|im_start|>system\n{system}<|im_end|>\n",
    "INSTRUCTION": "<|im_start|>user\n{input}<|im_end|>\n<|im_start|>assistant\n",
    "SUFFIX": "<|im_end|>",
    "SUFFIX_AS_EOS": True,
    "SEP": "\n",
}
_VICUNA = {
    "SYSTEM": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant "
        "gives helpful, detailed, and polite answers to the user's questions. {system}\n "
    ),
    "INSTRUCTION": "USER: {input} ASSISTANT:",
    "SEP": "\n",
}
_MISTRAL = {
    "SYSTEM": "[INST] {system} [/INST]\n",
    "INSTRUCTION": "[INST] {input} [/INST]",
    "SEP": "\n",
}
_DEEPSEEK_CODER = {
    "SYSTEM": (
        "You are an AI programming assistant, utilizing the DeepSeek Coder model, developed by "
        "DeepSeekCompany, and you only answer questions related to computer science. For "
        "politically sensitive questions, security and privacy issues, and other non-computer "
        "science questions, you will refuse to answer. {system}\n"
    ),
    "INSTRUCTION": "### Instruction:\n{input}\n### Response:\n",
    "SEP": "\n",
}

PROMPT_TEMPLATE = NamedTexts(
    default={
        "SYSTEM": "<|System|>:{system}\n",
        "INSTRUCTION": "<|User|>:{input}\n<|Bot|>:",
        "SEP": "\n",
    },
    zephyr={
        "SYSTEM": "<|system|>\n{system}\n",
        "INSTRUCTION": "<|user|>\n{input}\n<|assistant|>\n",
        "SEP": "\n",
    },
    internlm_chat={
        "SYSTEM": "<|System|>:{system}\n",
        "INSTRUCTION": "<|User|>:{input}<eoh>\n<|Bot|>:",
        "SUFFIX": "<eoa>",
        "SUFFIX_AS_EOS": True,
        "SEP": "\n",
        "STOP_WORDS": ["<eoa>"],
    },
    internlm2_chat={**_CHATML, "STOP_WORDS": ["<|im_end|>"]},
    moss_sft={
        "SYSTEM": "{system}\n",
        "INSTRUCTION": "<|Human|>: {input}<eoh>\n",
        "SEP": "\n",
        "STOP_WORDS": ["<eoc>", "<eom>"],
    },
    # Meta's format: https://github.com/meta-llama/llama, example_chat_completion
    llama2_chat={
        "SYSTEM": "<<SYS>>\n{system}\n<</SYS>>\n\n",
        "SYSTEM_INSIDE": True,
        "INSTRUCTION": "[INST] {input} [/INST]",
        "SEP": "\n",
    },
    code_llama_chat={"SYSTEM": "{system}\n", "INSTRUCTION": "[INST] {input} [/INST]"},
    chatglm2={
        "SYSTEM": "{system}\n",
        "INSTRUCTION": "[Round {round}]\n\n问：{input}\n\n答：",
        "SEP": "\n\n",
    },
    chatglm3={
        "SYSTEM": "<|system|>\n{system}",
        "INSTRUCTION": "<|user|>\n{input}<|assistant|>\n",
        "SEP": "\n",
    },
    qwen_chat={**_CHATML, "STOP_WORDS": ["<|im_end|>", "<|endoftext|>"]},
    baichuan_chat={
        "SYSTEM": "{system}\n",
        "INSTRUCTION": "<reserved_102>{input}<reserved_103>",
        "SEP": "\n",
    },
    baichuan2_chat={
        "SYSTEM": "{system}\n",
        "INSTRUCTION": "<reserved_106>{input}<reserved_107>",
        "SEP": "\n",
    },
    wizardlm=dict(_VICUNA),
    wizardcoder={
        "SYSTEM": (
            "Below is an instruction that describes a task. Write a response that appropriately "
            "completes the request.\n\n{system}\n "
        ),
        "INSTRUCTION": "### Instruction:\n{input}\n\n### Response:",
        "SEP": "\n\n",
    },
    vicuna=dict(_VICUNA),
    deepseek_coder=dict(_DEEPSEEK_CODER),
    deepseekcoder=dict(_DEEPSEEK_CODER),  # the older name
    deepseek_moe=dict(_MISTRAL),
    deepseek_v2={
        "SYSTEM": "{system}\n\n",
        "INSTRUCTION": "User: {input}\n\nAssistant: ",
        "SUFFIX": "<｜end▁of▁sentence｜>",
        "SUFFIX_AS_EOS": True,
        "STOP_WORDS": ["<｜end▁of▁sentence｜>"],
    },
    mistral=dict(_MISTRAL),
    mixtral=dict(_MISTRAL),
    # MiniCPM's own chat template writes the system text bare, before the first user mark.
    minicpm={"SYSTEM": "{system}", "INSTRUCTION": "<用户> {input} <AI>", "SEP": "\n"},
    gemma={
        "SYSTEM": "<start_of_turn>system\n{system}<end_of_turn>\n",  # not Gemma's: it has none
        "INSTRUCTION": "<start_of_turn>user\n{input}<end_of_turn>\n<start_of_turn>model\n",
        "SUFFIX": "<end_of_turn>",
        "SUFFIX_AS_EOS": False,
        "SEP": "\n",
        "STOP_WORDS": ["<end_of_turn>"],
    },
    cohere_chat={
        "SYSTEM": "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{system}<|END_OF_TURN_TOKEN|>",
        "INSTRUCTION": (
            "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>{input}<|END_OF_TURN_TOKEN|>"
            "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>"
        ),
        "SUFFIX": "<|END_OF_TURN_TOKEN|>",
        "SUFFIX_AS_EOS": True,
        "STOP_WORDS": ["<|END_OF_TURN_TOKEN|>"],
    },
    llama3_chat={
        "SYSTEM": "<|start_header_id|>system<|end_header_id|>\n\n{system}<|eot_id|>",
        "INSTRUCTION": (
            "<|start_header_id|>user<|end_header_id|>\n\n{input}<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n"
        ),
        "SUFFIX": "<|eot_id|>",
        "SUFFIX_AS_EOS": True,
        "STOP_WORDS": ["<|eot_id|>"],
    },
    phi3_chat={
        "SYSTEM": "<|system|>\n{system}<|end|>\n",
        "INSTRUCTION": "<|user|>\n{input}<|end|>\n<|assistant|>\n",
        "SUFFIX": "<|end|>",
        "SUFFIX_AS_EOS": True,
        "SEP": "\n",
        "STOP_WORDS": ["<|end|>"],
    },
)
"""Prompt templates by name: ``PROMPT_TEMPLATE.qwen_chat`` or ``PROMPT_TEMPLATE["qwen_chat"]``."""

SYSTEM_TEMPLATE = NamedTexts(
    moss_sft=(
        "You are an AI assistant whose name is {bot_name}.\n"
        "Capabilities and tools that {bot_name} can possess.\n"
        "- Inner thoughts: enabled.\n"
        "- Web search: enabled. API: Search(query)\n"
        "- Calculator: enabled. API: Calculate(expression)\n"
        "- Equation solver: enabled. API: Solve(equation)\n"
        "- Text-to-image: disabled.\n"
        "- Image edition: disabled.\n"
        "- Text-to-speech: disabled.\n"
    ),
    alpaca=(
        "Below is an instruction that describes a task. "
        "Write a response that appropriately completes the request.\n"
    ),
    arxiv_gentile=(
        "If you are an expert in writing papers, please generate a good paper title for this paper "
        "based on other authors' descriptions of their abstracts.\n"
    ),
    colorist=(
        "You are a professional color designer. Please provide the corresponding colors based on "
        "the description of Human.\n"
    ),
    coder=(
        "You are a professional programer. Please provide the corresponding code based on the "
        "description of Human.\n"
    ),
    lawyer="你现在是一名专业的中国律师，请根据用户的问题给出准确、有理有据的回复。\n",
    medical="如果你是一名医生，请根据患者的描述回答医学问题。\n",
    sql=(
        "If you are an expert in SQL, please generate a good SQL Query for Question based on the "
        "CREATE TABLE statement.\n"
    ),
)
"""System texts by name. ``moss_sft`` holds ``{bot_name}``: fill it with ``fill``."""

_FIELD = re.compile(r"\{(system|input|round|bot_name)\}")


def fill(text: str, **values: str | int) -> str:
    """Replace ``{system}``, ``{input}``, ``{round}`` and ``{bot_name}`` where a value is given.

    Everything else, other braces included, stays as it is, and values are never looked into.
    """
    return _FIELD.sub(lambda m: str(values.get(m[1], m[0])), text)


def check_template(template: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return a template as a plain dict.

    Args:
        template: a name in ``PROMPT_TEMPLATE``, or a dict of the keys above.

    Raises:
        ConfigError: unknown name or key, no ``{input}`` in INSTRUCTION, no ``{system}`` in SYSTEM,
            or SUFFIX_AS_EOS without a SUFFIX: the answer would never end.
    """
    if isinstance(template, str):
        if template not in PROMPT_TEMPLATE:
            hint = did_you_mean(template, PROMPT_TEMPLATE)
            raise ConfigError(f"there is no prompt template '{template}'.{hint} {known_names()}")
        return dict(PROMPT_TEMPLATE[template])
    result: dict[str, Any] = {**template}
    for key in result:
        if key not in TEMPLATE_KEYS:
            hint = did_you_mean(key, TEMPLATE_KEYS)
            raise ConfigError(
                f"a prompt template has no key '{key}'.{hint} Keys: {', '.join(TEMPLATE_KEYS)}."
            )
    for key, field in (("INSTRUCTION", "{input}"), ("SYSTEM", "{system}")):
        if field not in result.get(key, "" if key == "INSTRUCTION" else field):
            raise ConfigError(
                f"the prompt template's {key} must contain {field}, got {result.get(key)!r}"
            )
    if result.get("SUFFIX_AS_EOS") and not result.get("SUFFIX"):
        raise ConfigError(
            "the prompt template has no stop token: SUFFIX_AS_EOS=True takes the SUFFIX for the "
            "end of the answer, and there is no SUFFIX. Add one, or leave SUFFIX_AS_EOS out: then "
            "the tokenizer's EOS ends the answer."
        )
    return result


def known_names() -> str:
    """Return the names of all templates in a sentence."""
    return f"Known names: {', '.join(PROMPT_TEMPLATE)}."
