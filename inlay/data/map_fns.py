"""XTuner's map functions by their names: row -> ``{"conversation": [turn, ...]}``.

A turn is a dict of ``input``, ``output`` and perhaps ``system``, ``output_with_loss`` and
``need_eos_token``. An empty list means that the row is dropped. Rows are never changed. Every
function raises ``DataError`` for a row that does not have its form.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from inlay.core.errors import DataError
from inlay.data.templates import SYSTEM_TEMPLATE
from inlay.data.turns import flag, kind, text_of
from inlay.data.vision.rows import IMAGE

Row = Mapping[str, Any]
Conversations = dict[str, list[dict[str, Any]]]


def _single(question: str, answer: str, system: str | None = None) -> Conversations:
    turn = {"input": question, "output": answer}
    return {"conversation": [turn if system is None else {"system": system, **turn}]}


def default_map_fn(example: Row) -> Conversations:
    """Columns ``input`` and ``output``."""
    return _single(text_of(example, "input"), text_of(example, "output"))


def alpaca_map_fn(example: Row) -> Conversations:
    """Columns ``instruction``, ``input``, ``output``; ``<nooutput>`` rows are dropped."""
    if example.get("output") == "<nooutput>":
        return {"conversation": []}
    question = f"{text_of(example, 'instruction')}\n{text_of(example, 'input', optional=True)}"
    return _single(question, text_of(example, "output"))


def alpaca_zh_map_fn(example: Row) -> Conversations:
    """Columns ``instruction_zh``, ``input_zh``, ``output_zh``."""
    question = f"{text_of(example, 'instruction_zh')}\n{text_of(example, 'input_zh', True)}"
    return _single(question, text_of(example, "output_zh"))


def arxiv_map_fn(example: Row) -> Conversations:
    """From an ``abstract`` to its ``title``."""
    system = SYSTEM_TEMPLATE.arxiv_gentile
    return _single(text_of(example, "abstract"), text_of(example, "title"), system)


def code_alpaca_map_fn(example: Row) -> Conversations:
    """From a ``prompt`` to its ``completion``."""
    system = SYSTEM_TEMPLATE.coder
    return _single(text_of(example, "prompt"), text_of(example, "completion"), system)


def colors_map_fn(example: Row) -> Conversations:
    """From what follows the first colon of ``description`` to a ``color``."""
    description = text_of(example, "description").partition(":")[2].strip()
    return _single(description, text_of(example, "color"), SYSTEM_TEMPLATE.colorist)


def crime_kg_assitant_map_fn(example: Row) -> Conversations:
    """Columns ``input`` and ``output``, answered by a lawyer."""
    system = SYSTEM_TEMPLATE.lawyer
    return _single(text_of(example, "input"), text_of(example, "output"), system)


def law_reference_map_fn(example: Row) -> Conversations:
    """Columns ``question`` and ``answer``, answered by a lawyer."""
    system = SYSTEM_TEMPLATE.lawyer
    return _single(text_of(example, "question"), text_of(example, "answer"), system)


def medical_map_fn(example: Row) -> Conversations:
    """Columns ``instruction``, ``input``, ``output``, answered by a doctor."""
    question = f"{text_of(example, 'instruction')}\n{text_of(example, 'input', optional=True)}"
    return _single(question, text_of(example, "output"), SYSTEM_TEMPLATE.medical)


def sql_map_fn(example: Row) -> Conversations:
    """From ``context`` (the tables) and ``question`` to an ``answer`` in SQL."""
    question = f"{text_of(example, 'context')}\n{text_of(example, 'question')}"
    return _single(question, text_of(example, "answer"), SYSTEM_TEMPLATE.sql)


def stack_exchange_map_fn(example: Row) -> Conversations:
    """Columns ``question`` and ``response``."""
    return _single(text_of(example, "question"), text_of(example, "response"))


def tiny_codes_map_fn(example: Row) -> Conversations:
    """Columns ``prompt`` and ``response``, answered by a programmer."""
    system = SYSTEM_TEMPLATE.coder
    return _single(text_of(example, "prompt"), text_of(example, "response"), system)


def openorca_map_fn(example: Row) -> Conversations:
    """Columns ``system_prompt``, ``question``, ``response``."""
    system = text_of(example, "system_prompt", optional=True)
    return _single(text_of(example, "question"), text_of(example, "response"), system)


def pretrain_map_fn(example: Row) -> Conversations:
    """A plain document in ``text``; every token of it is trained."""
    text = text_of(example, "text").strip()
    return {"conversation": [{"input": "", "output": text, "need_eos_token": False}]}


def oasst1_map_fn(example: Row) -> Conversations:
    """``### Human: ... ### Assistant: ...`` in one ``text``; a last question without an answer is
    left out."""
    spoken = []
    for part in text_of(example, "text").strip().split("###"):
        for mark in ("Human:", "Assistant:"):
            if part.strip().startswith(mark):
                spoken.append(part.strip().removeprefix(mark).strip())
    pairs = zip(spoken[::2], spoken[1::2], strict=False)
    return {"conversation": [{"input": q, "output": a} for q, a in pairs]}


def openai_map_fn(example: Row) -> Conversations:
    """``messages`` of system, user and assistant; an assistant message may carry ``loss``."""
    conversation: list[dict[str, Any]] = []
    system = question = ""
    for role, text, message in _spoken(example, "messages", "role", "content", "assistant"):
        if role == "system":
            system = text
        elif role == "user":
            question += text
        elif role == "assistant":
            trained = flag(message.get("loss"), "loss")
            turn = {"system": system, "input": question, "output": text}
            conversation.append({**turn, "output_with_loss": trained})
            system = question = ""
        else:
            raise DataError(f"the role '{role}' is not one of system, user, assistant")
    return {"conversation": conversation}


def wizardlm_map_fn(example: Row) -> Conversations:
    """``conversations`` of human and gpt."""
    return _human_gpt(example, lambda text: text)


def llava_map_fn(example: Row) -> Conversations:
    """As ``wizardlm_map_fn``; images of a turn move to its front, each on a line of its own."""

    def images_first(text: str) -> str:
        if IMAGE not in text:
            return text
        return (f"{IMAGE}\n" * text.count(IMAGE) + text.replace(IMAGE, "").strip()).strip()

    return _human_gpt(example, images_first)


def llava_image_only_map_fn(example: Row) -> Conversations:
    """As ``wizardlm_map_fn``; of the human's text only the images stay."""

    def images_only(text: str) -> str:
        if IMAGE not in text:
            raise DataError(f"a human turn has no {IMAGE}: {text[:80]!r}")
        return IMAGE * text.count(IMAGE)

    return _human_gpt(example, images_only)


def _human_gpt(example: Row, question_of: Callable[[str], str]) -> Conversations:
    conversation = []
    question = ""
    for role, text, _ in _spoken(example, "conversations", "from", "value", "gpt"):
        if role == "human":
            question += question_of(text)
        elif role == "gpt":
            conversation.append({"input": question, "output": text})
            question = ""
        else:
            raise DataError(f"the speaker '{role}' is not one of human, gpt")
    return {"conversation": conversation}


def _spoken(
    example: Row, column: str, role: str, text: str, answerer: str
) -> list[tuple[str, str, Row]]:
    """Return (role, text, message) of a list column, without answers that no question precedes."""
    messages = example.get(column)
    if not isinstance(messages, Sequence) or isinstance(messages, str):
        raise DataError(f"'{column}' must be a list of messages, found {kind(messages)}")
    spoken: list[tuple[str, str, Row]] = []
    for message in messages:
        if not isinstance(message, Mapping):
            raise DataError(f"a message of '{column}' must be an object, found {kind(message)}")
        if spoken or message.get(role) != answerer:
            spoken.append((text_of(message, role), text_of(message, text), message))
    return spoken


# MSAgent-Bench: tool calls between <|startofthink|> and <|endofthink|>, tool results between
# <|startofexec|> and <|endofexec|>, both as JSON, become ReAct text.
_THINK = re.compile(r"(.*?)<\|startofthink\|>(.*?)<\|endofthink\|>", re.DOTALL)
_EXEC = re.compile(r"<\|startofexec\|>(.*?)<\|endofexec\|>(.*?)$", re.DOTALL)
_REACT = (
    "你是一个可以调用外部工具的助手，可以使用的工具包括：\n{tools}\n"
    "如果使用工具请遵循以下格式回复：\n```\n"
    "Thought:思考你当前步骤需要解决什么问题，是否需要使用工具\n"
    "Action:工具名称，你的工具必须从 [{names}] 选择\n"
    "Action Input:工具输入参数\n```\n工具返回按照以下格式回复：\n```\n"
    "Response:调用工具后的结果\n```\n如果你已经知道了答案，或者你不需要工具，请遵循以下格式回复\n```\n"
    "Thought:给出最终答案的思考过程\nFinal Answer:最终答案\n```\n开始!\n"
)


def msagent_react_map_fn(example: Row) -> Conversations:
    """MSAgent-Bench ``conversations`` (a list, or a string holding a Python or JSON literal) as
    ReAct turns. Rows whose tool calls cannot be read are dropped, as in the original."""
    messages = _literal(example.get("conversations"))
    conversation: list[dict[str, Any]] = []
    system = question = ""
    if len(messages) < 2:
        return {"conversation": []}
    for message in messages:
        role, text = text_of(message, "from"), text_of(message, "value")
        if role == "system":
            tools = _tools(text)
            system += _REACT.replace("{names}", str(list(tools))).replace("{tools}", str(tools))
        elif role == "user":
            question += f"{text}\n"
        elif role == "assistant":
            turns = _react_turns(text, system, question)
            if not turns:
                return {"conversation": []}
            conversation += turns
            system = question = ""
    return {"conversation": conversation}


def _literal(value: Any) -> list[Row]:
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            try:
                value = json.loads(value)
            except json.JSONDecodeError as error:
                raise DataError(f"'conversations' is neither a literal nor JSON: {error}") from None
    if not isinstance(value, list) or not all(isinstance(m, Mapping) for m in value):
        raise DataError(f"'conversations' must be a list of messages, found {kind(value)}")
    return value


def _tools(text: str) -> dict[str, str]:
    """Return name -> description, with the parameters where they can be read."""
    tools: dict[str, str] = {}
    decoder = json.JSONDecoder()
    position = text.find("{")
    while position >= 0:
        try:
            tool, end = decoder.raw_decode(text, position)
        except ValueError:
            tool, end = {}, position + 1
        if "name" in tool and "description" in tool:
            tools[tool["name"]] = tool["description"] + _parameters(tool)
        else:
            end = position + 1
        position = text.find("{", end)
    return tools


def _parameters(tool: Row) -> str:
    try:
        listed = {p["name"]: p["description"] for p in tool["paths"][0]["parameters"]}
    except (KeyError, IndexError, TypeError):
        return ""
    return f"\n输入参数: {listed}"


def _react_turns(text: str, system: str, question: str) -> list[dict[str, Any]]:
    """One assistant message as one turn, or two where a tool's result is followed by an answer.

    Returns:
        The turns; an empty list when the tool call cannot be read.
    """
    if text.count("<|startofexec|>") > 1:
        return []
    text, mark, result = text.partition("<|startofexec|>")
    try:
        output, num_calls = _THINK.subn(_action, text)
    except (ValueError, KeyError, TypeError):
        return []
    output = f"{output}\n" if num_calls else f"Final Answer:{output}\n"
    turns = [{"system": system, "input": question, "output": output}]
    try:
        response = _EXEC.sub(_response, mark + result)
    except ValueError:
        return turns
    before, mark, answer = response.partition("Final Answer:")
    if mark and mark not in answer:
        turns.append({"system": before, "output": mark + answer})
    return turns


def _json_of(text: str) -> Any:
    return json.loads(text.replace("```JSON", "").replace("```", "").replace("\n", ""))


def _action(match: re.Match[str]) -> str:
    thought = match[1].strip()
    call = _json_of(match[2])
    first = f"Thought:{thought}\n" if thought else ""
    return f"{first}Action:{call['api_name']}\nAction Input:{call['parameters']}\n"


def _response(match: re.Match[str]) -> str:
    answer = match[2].strip()
    last = f"Final Answer:{answer}\n" if answer else ""
    return f"Response:{_json_of(match[1])}\n{last}"


MAP_FNS: dict[str, Callable[[Row], Conversations]] = {
    fn.__name__: fn
    for fn in (
        default_map_fn,
        alpaca_map_fn,
        alpaca_zh_map_fn,
        arxiv_map_fn,
        code_alpaca_map_fn,
        colors_map_fn,
        crime_kg_assitant_map_fn,
        law_reference_map_fn,
        medical_map_fn,
        sql_map_fn,
        stack_exchange_map_fn,
        tiny_codes_map_fn,
        openorca_map_fn,
        pretrain_map_fn,
        oasst1_map_fn,
        openai_map_fn,
        wizardlm_map_fn,
        llava_map_fn,
        llava_image_only_map_fn,
        msagent_react_map_fn,
    )
}
