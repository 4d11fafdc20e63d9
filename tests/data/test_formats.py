from __future__ import annotations

import copy
import json

import pytest

from inlay.core.errors import ConfigError, DataError
from inlay.core.types import Conversation, Message
from inlay.data.formats import FORMATS, detect_format, format_identity, resolve_format
from inlay.data.map_fns import MAP_FNS
from inlay.data.templates import SYSTEM_TEMPLATE

TOOL = {
    "name": "search",
    "description": "finds",
    "paths": [{"parameters": [{"name": "query", "description": "what"}]}],
}
AGENT = [
    {"from": "system", "value": f"Tools: 1. {json.dumps(TOOL)}"},
    {"from": "user", "value": "Find it"},
    {
        "from": "assistant",
        "value": 'I look. <|startofthink|>```JSON\n{"api_name": "search", '
        '"parameters": {"query": 1}}\n```<|endofthink|>\n\n'
        '<|startofexec|>```JSON\n{"found": 2}\n```<|endofexec|>\nIt is 2.',
    },
]
AGENT_SYSTEM = (
    "你是一个可以调用外部工具的助手，可以使用的工具包括：\n"
    "{'search': \"finds\\n输入参数: {'query': 'what'}\"}\n"
    "如果使用工具请遵循以下格式回复：\n```\nThought:思考你当前步骤需要解决什么问题，是否需要使用工具\n"
    "Action:工具名称，你的工具必须从 [['search']] 选择\nAction Input:工具输入参数\n```\n"
    "工具返回按照以下格式回复：\n```\nResponse:调用工具后的结果\n```\n"
    "如果你已经知道了答案，或者你不需要工具，请遵循以下格式回复\n```\n"
    "Thought:给出最终答案的思考过程\nFinal Answer:最终答案\n```\n开始!\n"
)


def one(question, answer, system=None):
    turn = {"input": question, "output": answer}
    return [turn if system is None else {"system": system, **turn}]


def said(*texts):
    return {
        "conversations": [
            {"from": ("human", "gpt")[i % 2], "value": t} for i, t in enumerate(texts) if t
        ]
    }


GOLDEN = [
    ("alpaca_map_fn", {"instruction": "I", "input": "X", "output": "O"}, one("I\nX", "O")),
    ("alpaca_map_fn", {"instruction": "I", "input": "", "output": "O"}, one("I\n", "O")),
    ("alpaca_map_fn", {"instruction": "I", "input": "", "output": "<nooutput>"}, []),
    (
        "alpaca_zh_map_fn",
        {"instruction_zh": "I", "input_zh": "X", "output_zh": "O"},
        one("I\nX", "O"),
    ),
    (
        "arxiv_map_fn",
        {"abstract": "A", "title": "T"},
        one("A", "T", SYSTEM_TEMPLATE.arxiv_gentile),
    ),
    (
        "code_alpaca_map_fn",
        {"prompt": "P", "completion": "C"},
        one("P", "C", SYSTEM_TEMPLATE.coder),
    ),
    (
        "colors_map_fn",
        {"description": "Blue: a: b ", "color": "#00f"},
        one("a: b", "#00f", SYSTEM_TEMPLATE.colorist),
    ),
    (
        "crime_kg_assitant_map_fn",
        {"input": "I", "output": "O"},
        one("I", "O", SYSTEM_TEMPLATE.lawyer),
    ),
    ("default_map_fn", {"input": "I", "output": "O"}, one("I", "O")),
    (
        "law_reference_map_fn",
        {"question": "Q", "answer": "A"},
        one("Q", "A", SYSTEM_TEMPLATE.lawyer),
    ),
    (
        "medical_map_fn",
        {"instruction": "I{", "input": "X", "output": "O"},
        one("I{\nX", "O", SYSTEM_TEMPLATE.medical),
    ),
    (
        "sql_map_fn",
        {"context": "C", "question": "Q", "answer": "A"},
        one("C\nQ", "A", SYSTEM_TEMPLATE.sql),
    ),
    ("stack_exchange_map_fn", {"question": "Q", "response": "R"}, one("Q", "R")),
    ("tiny_codes_map_fn", {"prompt": "P", "response": "R"}, one("P", "R", SYSTEM_TEMPLATE.coder)),
    (
        "openorca_map_fn",
        {"system_prompt": "S", "question": "Q", "response": "R"},
        one("Q", "R", "S"),
    ),
    (
        "pretrain_map_fn",
        {"text": " T \n"},
        [{"input": "", "output": "T", "need_eos_token": False}],
    ),
    (
        "oasst1_map_fn",
        {"text": "### Human: Q1### Assistant: A1 ### Human: Q2"},
        one("Q1", "A1"),
    ),
    (
        "openai_map_fn",
        {
            "messages": [
                {"role": "assistant", "content": "left out"},
                {"role": "system", "content": "S"},
                {"role": "user", "content": "Q1"},
                {"role": "assistant", "content": "A1", "loss": False},
                {"role": "user", "content": "Q2"},
                {"role": "assistant", "content": "A2", "loss": "True"},
            ]
        },
        [
            {"system": "S", "input": "Q1", "output": "A1", "output_with_loss": False},
            {"system": "", "input": "Q2", "output": "A2", "output_with_loss": True},
        ],
    ),
    ("wizardlm_map_fn", said("", "hello", "Q1", "A1"), one("Q1", "A1")),
    ("llava_map_fn", said("What? \n<image>", "A cat."), one("<image>\nWhat?", "A cat.")),
    (
        "llava_map_fn",
        said("<image> and <image>?", "Two."),
        one("<image>\n<image>\nand ?", "Two."),
    ),
    ("llava_image_only_map_fn", said("What?\n<image>", "A cat."), one("<image>", "A cat.")),
    (
        "msagent_react_map_fn",
        {"conversations": repr(AGENT)},
        [
            {
                "system": AGENT_SYSTEM,
                "input": "Find it\n",
                "output": "Thought:I look.\nAction:search\nAction Input:{'query': 1}\n\n\n\n",
            },
            {"system": "Response:{'found': 2}\n", "output": "Final Answer:It is 2.\n"},
        ],
    ),
    ("msagent_react_map_fn", {"conversations": AGENT[:1]}, []),
]


def test_every_map_function_has_a_golden_row():
    assert {name for name, _, _ in GOLDEN} == set(MAP_FNS)


@pytest.mark.parametrize(("name", "row", "expected"), GOLDEN)
def test_map_functions(name, row, expected):
    before = copy.deepcopy(row)
    assert MAP_FNS[name](row) == {"conversation": expected}
    assert row == before, "rows must not be changed"


def test_msagent_runs_nothing(tmp_path):
    target = tmp_path / "evil"
    row = {"conversations": f"__import__('pathlib').Path({str(target)!r}).touch() or []"}
    with pytest.raises(DataError, match="neither a literal nor JSON"):
        MAP_FNS["msagent_react_map_fn"](row)
    assert not target.exists()


def test_xtuner_missing_loss_flags_count_as_true():
    turns = [
        {"system": "S", "input": "Q1", "output": "A1", "output_with_loss": None},
        {"input": "Q2", "output": "A2", "output_with_loss": False},
        {"input": "Q3", "output": "A3"},
    ]
    assert FORMATS["xtuner"]({"conversation": turns}).messages == [
        Message("system", "S"),
        Message("user", "Q1"),
        Message("assistant", "A1", True),
        Message("user", "Q2"),
        Message("assistant", "A2", False),
        Message("user", "Q3"),
        Message("assistant", "A3", True),
    ]


def test_openai_bare_list_parts_and_loss():
    parts = [{"type": "text", "text": "Q"}, {"type": "text", "text": "1"}]
    row = [
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "A1", "loss": "false"},
    ]
    expected = [Message("user", "Q1"), Message("assistant", "A1", False)]
    assert FORMATS["openai"](row).messages == expected
    with pytest.raises(DataError, match=r"message 0 has a part .* nor picture: audio"):
        FORMATS["openai"]([{"role": "user", "content": [{"type": "audio"}]}])
    with pytest.raises(DataError, match="Did you mean 'user'"):
        FORMATS["openai"]([{"role": "uesr", "content": "Q"}])


def test_sharegpt_speakers_and_system_column():
    row = {**said("Q1", "A1"), "system": "S"}
    assert [m.role for m in FORMATS["sharegpt"](row).messages] == ["system", "user", "assistant"]


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"instruction": "I", "input": "", "output": "O", "text": "all"}, "alpaca"),
        ({"instruction_zh": "I", "input_zh": "", "output_zh": "O"}, "alpaca_zh"),
        ({"messages": [{"role": "user", "content": "Q"}]}, "openai"),
        ([{"role": "user", "content": "Q"}], "openai"),
        (said("Q", "A"), "sharegpt"),
        ({"conversation": [{"input": "Q", "output": "A"}]}, "xtuner"),
        ({"text": "T"}, "text"),
        ({"input": "I", "output": "O"}, "default"),
    ],
)
def test_detection(row, name):
    assert detect_format(row) == name
    assert isinstance(FORMATS[name](row), Conversation)


def test_unknown_columns_name_the_nearest_format():
    with pytest.raises(DataError, match=r"\['toy_input', 'toy_output'\].*nearest is 'default'"):
        detect_format({"toy_input": "I", "toy_output": "O"})


def test_own_function():
    convert = resolve_format(lambda row: {"conversation": one(row["q"], row["a"])})
    assert convert({"q": "Q", "a": "A"}).messages[1] == Message("assistant", "A", True)
    assert resolve_format(lambda row: Conversation(text=row))("T").text == "T"
    with pytest.raises(DataError, match="must return"):
        resolve_format(lambda row: 3)({})
    with pytest.raises(ConfigError, match="Did you mean 'alpaca'"):
        resolve_format("alpacca")
    assert format_identity(one) != format_identity(said)
