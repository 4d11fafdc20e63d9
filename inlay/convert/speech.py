"""How a model was taught to speak: what training made of conversations, for an export's record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from inlay.core.errors import ConfigError, DataError
from inlay.core.types import IMAGE_MARK, Conversation, Message
from inlay.data.chat import ChatEncoder

_USER = ("What is 1 + 1?", "And in words, please:\n\n- once\n- twice", "Naïve 你好 🙂 «x» `y = 2`?")
_SAID = ("It is 2.", "two\n\ntwo, two.", "Да — ça marche: 好的 😊")
_SYSTEM = "You answer briefly. Ответ: 是."
_SHAPES = ("ua", "sua", "uaua", "uauaua", "suauaua")
_ROLES = {"s": "system", "u": "user", "a": "assistant"}


@dataclass(frozen=True)
class Speech:
    """What ends an answer, and conversations as training saw them.

    Attributes:
        stop_ids: tokens that end an answer.
        stop_words: texts that end it, where no token does.
        ends: the last token that training has the loss on, of every answer.
        conversations: ``messages`` as a chat template takes them, whether they ``ask`` for the next
            answer, and the ``text`` and ``ids`` of training (``ids`` None with a picture, whose
            tokens are another's affair).
    """

    stop_ids: list[int]
    stop_words: list[str] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    conversations: list[dict[str, Any]] = field(default_factory=list)


def speech(encoder: ChatEncoder, stop_ids: Sequence[int], picture: str | None = None) -> Speech:
    """Put conversations to the encoder of a training.

    One without a template, and conversations that its template refuses, leave no trace.

    Args:
        picture: the text that stands for a picture in front of a question, where a chat template is
            given a part for it.
    """
    found = Speech(list(stop_ids))
    for shape in _SHAPES:
        messages = _messages(shape)
        try:
            sample = encoder.encode([Conversation(messages)])[0]
            question = messages[:-1]
            prompt = {"text": encoder.text(question), "ids": encoder.prompt_ids(question)}
            whole = {"text": encoder.text(messages), "ids": sample.ids.tolist()}
        except (ConfigError, DataError):
            continue
        as_parts = encoder.takes_parts
        found.conversations.append(_entry(messages, False, as_parts) | whole)
        found.conversations.append(_entry(question, True, as_parts) | prompt)
        found.ends.append(int(sample.ids[sample.mask.nonzero()[0][-1]]))
    if found.conversations:
        found.stop_words.extend(encoder.stop_words)
        if picture is not None:
            found.conversations.append(_with_picture(encoder, picture))
    return found


def _messages(shape: str) -> list[Message]:
    """A conversation of s(ystem), u(ser) and a(ssistant) turns."""
    texts = {"s": iter([_SYSTEM]), "u": iter(_USER), "a": iter(_SAID)}
    return [Message(_ROLES[turn], next(texts[turn]), trained=turn == "a") for turn in shape]


def _entry(messages: Sequence[Message], ask: bool, as_parts: bool) -> dict[str, Any]:
    def content(text: str) -> Any:
        return [{"type": "text", "text": text}] if as_parts else text

    turns = [{"role": m.role, "content": content(m.content)} for m in messages]
    return {"messages": turns, "ask": ask}


def _with_picture(encoder: ChatEncoder, picture: str) -> dict[str, Any]:
    """A question about a picture. Rows have a line break behind one, if ``picture`` does."""
    tail = "\n" if picture.endswith("\n") else ""
    text = encoder.text([Message("user", f"{IMAGE_MARK}{tail}{_USER[0]}")])
    parts: list[Mapping[str, str]] = [{"type": "image"}, {"type": "text", "text": _USER[0]}]
    return {
        "messages": [{"role": "user", "content": parts}],
        "ask": True,
        "text": text.replace(IMAGE_MARK, picture.removesuffix(tail)),
        "ids": None,
    }


def template_check(
    recorded: Sequence[Mapping[str, Any]], rendered: Sequence[Mapping[str, Any]]
) -> tuple[bool, str]:
    """Compare what training saw with what an exported folder's ``apply_chat_template`` gives.

    Args:
        recorded: ``Speech.conversations``.
        rendered: ``text`` and ``ids`` of each, or an ``error``.

    Returns:
        Whether the texts are equal, and what to tell. Equal texts may still be cut into other
        tokens, where training tokenised its pieces apart (as XTuner does): that is told, too.
    """
    odd = []
    for seen, given in zip(recorded, rendered, strict=True):
        where = ", ".join(m["role"] for m in seen["messages"])
        if "error" in given:
            return False, f"refuses a conversation ({where}): {given['error']}"
        if seen["text"] != given["text"]:
            return False, f"differs ({where}): {_first_difference(seen['text'], given['text'])}"
        if seen["ids"] is not None and seen["ids"] != given["ids"]:
            at = next(
                (
                    n
                    for n, (a, b) in enumerate(zip(seen["ids"], given["ids"], strict=False))
                    if a != b
                ),
                min(len(seen["ids"]), len(given["ids"])),
            )
            odd.append(f"({where}) at token {at}")
    count = f"the text of training in {len(recorded)} conversations"
    if not odd:
        return True, f"{count}, token for token"
    why = f"the first {odd[0]}: training tokenised question and answer apart"
    return True, f"{count}; {len(odd)} are other tokens, {why}"


def _first_difference(seen: str, given: str) -> str:
    pairs = enumerate(zip(seen, given, strict=False))
    at = next((n for n, (a, b) in pairs if a != b), min(len(seen), len(given)))
    return (
        f"from character {at} on training saw {seen[at : at + 40]!r}, the folder gives "
        f"{given[at : at + 40]!r}, after {seen[max(0, at - 20) : at]!r}"
    )


def stop_check(record: Mapping[str, Any], eos: Sequence[int]) -> tuple[bool, str]:
    """Whether the tokens that end answers were trained, and end them in the exported folder.

    Args:
        record: of the export.
        eos: ``eos_token_id`` of its generation config.
    """
    stops, taught = set(record["stop_token_ids"]), set(record.get("answer_ends", ()))
    if not taught <= stops:
        if words := record["stop_words"]:
            text = ", ".join(map(repr, words))
            return True, f"answers end with the text {text}: give it to a server as its stop text"
        return False, f"not trained: answers end with {sorted(taught)}, not with {sorted(stops)}"
    if lost := sorted(stops - set(eos)):
        return False, f"{lost} not among eos_token_id {list(eos)}"
    return True, f"eos {list(eos)}" + (", trained" if taught else "")
