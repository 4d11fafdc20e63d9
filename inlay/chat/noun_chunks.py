"""Noun phrases of an English text: what a grounded answer can point at.

spaCy and its English model are used where they are installed; otherwise the phrases are found by
rules: words are tagged by closed classes, endings and their neighbours, and a noun phrase is a
pattern of tags.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

from inlay.chat.english import (
    ADJECTIVE_NOUNS,
    ADJECTIVES,
    AUXILIARIES,
    CONJUNCTIONS,
    DETERMINERS,
    INTENSIFIERS,
    LINKS,
    LY_NOUNS,
    NOUN_VERBS,
    NUMBERS,
    PARTICIPLE_NOUNS,
    PICTURES,
    PLACES,
    PLURALS,
    PRONOUNS,
    VERBS,
)

_TOKEN = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]")
# One letter a token. D determiner, C number, A adjective, R intensifier, N noun, & and, `,` comma;
# V verb, L anything else that ends a phrase. Lower case: a participle, its place decides.
_ADJECTIVES = r"R*A(?:[,&]{0,2}R*A)*"
_PHRASE = re.compile(rf"D*C*(?:{_ADJECTIVES})?N+(?:{_ADJECTIVES}N+)*")
_LAST_ADJECTIVE = re.compile(r"(?<=[DACN])A(?![ANRC]|[,&]{1,2}R*[AN])")
_BEFORE_A_NOUN = "DCAR"
_NAMELESS = DETERMINERS | NUMBERS | INTENSIFIERS | PRONOUNS | PLACES
_SPACY_MODELS = ("en_core_web_sm", "en_core_web_md", "en_core_web_lg", "en_core_web_trf")


def noun_chunks(text: str) -> list[tuple[int, int]]:
    """Return the noun phrases of a text that name something a picture can show.

    Pronouns, places ("the left") and the picture itself ("this image") are left out.

    Returns:
        ``(start, end)`` in characters of ``text``, in order, apart from each other.
    """
    model = _spacy_model()
    if model is None:
        spans = rule_chunks(text)
    else:
        spans = [(chunk.start_char, chunk.end_char) for chunk in model(text).noun_chunks]
    return [(start, end) for start, end in spans if _can_be_shown(text[start:end])]


def rule_chunks(text: str) -> list[tuple[int, int]]:
    """Return all noun phrases that the rules find, as ``noun_chunks``."""
    tokens = list(_TOKEN.finditer(text))
    tags = _tags([token[0].lower().replace("’", "'") for token in tokens])
    return [
        (tokens[found.start()].start(), tokens[found.end() - 1].end())
        for found in _PHRASE.finditer(tags)
    ]


@lru_cache(maxsize=1)
def _spacy_model() -> Any:
    """spaCy's English pipeline, or None where it is not installed."""
    try:
        import spacy
    except ImportError:
        return None
    known = set(spacy.util.get_installed_models())
    name = next((name for name in _SPACY_MODELS if name in known), None)
    return None if name is None else spacy.load(name)


def _can_be_shown(phrase: str) -> bool:
    words = _TOKEN.findall(phrase.lower())
    names = [word for word in words if word not in _NAMELESS]
    if not names:
        return False
    if words[-1] in PLACES:  # "the left side", but "the counter top"
        return any(name not in ADJECTIVES for name in names)
    return not (words[0] in ("the", "this") and len(words) == 2 and words[1] in PICTURES)


def _tags(words: list[str]) -> str:
    """One letter a word, see ``_PHRASE``."""
    tags = ""
    for index, word in enumerate(words):
        following = words[index + 1] if index + 1 < len(words) else ""
        previous = words[index - 1] if index else ""
        tags += _tag(word, tags[-1:], previous, following)
    # "an orange", "a traffic light": adjectives that are nouns, since none follows
    for found in _LAST_ADJECTIVE.finditer(tags):
        place = found.start()
        if words[place] in ADJECTIVE_NOUNS or words[place - 1] in ("a", "an"):
            tags = f"{tags[:place]}N{tags[place + 1 :]}"
    return tags


def _tag(word: str, before: str, previous: str, following: str) -> str:
    wants_noun = bool(before) and before in _BEFORE_A_NOUN
    if word == "that":
        return "D" if before != "N" and _is_nominal(following) else "L"
    if word in ("left", "right") and (following == "of" or before == "N"):
        return "L"
    if word == "next" and following == "to":
        return "L"
    if word in ("one", "ones") and before and before in "DA":
        return "N"
    lexical = _lexical(word)
    if lexical == "L" and before == "D" and word in PLACES:
        return "N"  # "the back of a truck"
    if lexical == "v":
        return _participle(word, wants_noun, before, previous, following)
    if lexical in ("V", "x") and word not in AUXILIARIES:
        return _verb_or_noun(lexical, word, wants_noun, before, previous, following)
    return lexical


def _lexical(word: str) -> str:
    """What a word is by itself: a tag, ``v`` for a participle, ``x`` for a verb or a noun."""
    for tag, known in (
        ("D", DETERMINERS),
        ("C", NUMBERS),
        ("V", AUXILIARIES),
        ("R", INTENSIFIERS),
        ("L", PRONOUNS),
        ("L", LINKS),
        ("&", CONJUNCTIONS),
        ("A", ADJECTIVES),
        ("N", PARTICIPLE_NOUNS | LY_NOUNS),
    ):
        if word in known:
            return tag
    if word.isdigit():
        return "C"
    if not word[0].isalnum():
        return "," if word == "," else "L"
    if len(word) > 4 and word.endswith(("ing", "ed")):
        return "v"
    if word in VERBS:
        return "V"
    if word in NOUN_VERBS:
        return "x"
    if len(word) > 4 and word.endswith("ly"):
        return "R"
    return "A" if word.endswith(("less", "ous")) else "N"


def _participle(word: str, wants_noun: bool, before: str, previous: str, following: str) -> str:
    """ "a standing toilet", "with shredded chicken", "the seating"; a verb elsewhere."""
    if wants_noun:
        return "A" if _is_nominal(following) else "N" if before in "DA" else "V"
    is_passive = word.endswith("ed") and previous not in AUXILIARIES
    return "A" if is_passive and before in ("L", "") and _is_nominal(following) else "V"


def _verb_or_noun(
    lexical: str, word: str, wants_noun: bool, before: str, previous: str, following: str
) -> str:
    """ "a ride", "a show rack", "on display"; "children ride", "a man stands"; "bike rack"."""
    if wants_noun:
        return "N"
    if lexical == "V":
        return "V"
    if before == "N":
        is_plural = previous in PLURALS or _ends_in_s(previous)
        return "V" if is_plural != _ends_in_s(word) else "N"
    after_preposition = before == "L" and previous in LINKS and previous != "to"
    return "N" if after_preposition and previous != "that" else "V"


def _ends_in_s(word: str) -> bool:
    return word.endswith("s") and not word.endswith("ss")


def _is_nominal(word: str) -> bool:
    """Whether a word can go on with a phrase that has no noun yet."""
    return bool(word) and _lexical(word) in ("A", "N", "C", "x", "v")
