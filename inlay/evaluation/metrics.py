"""Numbers from answers: pure functions, without models or files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

COPY_STEP = 1_000_000
"""MMBench: copy ``n`` of question ``i``, its options reordered, has index ``i + n * 1e6``."""

_NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {"zero": "0"} | {word: str(number) for number, word in enumerate(_NUMBERS)}
_ARTICLES = {"a", "an", "the"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_CONTRACTED = {
    "n't": "ai are ca could did does do had has have is might must need ought sha should was were "
    "wo would",
    "'ve": "could might must not should they we what where who would you",
    "'ll": "how it somebody someone something they what who why you",
    "'d": "he how it someone something there they where who you",
    "'s": "he how somebody someone that there what when where who why",
    "'re": "there they what why you",
}
_CONTRACTIONS = {
    stem + end.replace("'", ""): stem + end
    for end, stems in _CONTRACTED.items()
    for stem in stems.split()
} | {"maam": "ma'am", "oclock": "o'clock", "twas": "'twas", "yall": "y'all"}


def normalise(text: str) -> str:
    """Return an answer as VQAv2 compares it.

    Lower case; punctuation, articles and full stops that no digit follows are dropped, number words
    are digits, contractions have their apostrophes (single ones: ``didnt``, not ``didnt've``).
    Source: the evaluation of VQA v2.0, https://visualqa.org/evaluation.html.
    """
    text = re.sub(r"[\n\t]", " ", text).strip()
    # The original looks at the whole text: a mark that touches a space anywhere, and every mark
    # of a text with a number such as 1,000, is dropped; another one becomes a space.
    has_thousands = re.search(r"\d,\d", text) is not None
    result = text
    for mark in _PUNCTUATION:
        touches_space = f"{mark} " in text or f" {mark}" in text
        result = result.replace(mark, "" if touches_space or has_thousands else " ")
    result = re.sub(r"\.(?!\d)", "", result)
    words = [_DIGITS.get(word, word) for word in result.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_score(prediction: str, references: Sequence[str]) -> float:
    """Return how right an answer is, in [0, 1].

    With ten references or more this is VQAv2's accuracy, ``min(n / 3, 1)`` for ``n`` people who
    gave the answer, averaged over all ways to leave one of them out: 0.3, 0.6, 0.9 and 1 for 1, 2,
    3 and more of ten. With fewer, 1 if any reference is the answer.
    """
    found = normalise(prediction)
    total = len(references)
    matches = Counter(map(normalise, references))[found]
    if total < 10:
        return float(matches > 0)
    without_a_match = matches * min((matches - 1) / 3, 1.0)
    without_another = (total - matches) * min(matches / 3, 1.0)
    return (without_a_match + without_another) / total


def first_letters(text: str, letters: str = "ABCD") -> str:
    """Return the first run of option letters in ``text``, or "": MMBench's rule without a judge."""
    match = re.search(f"[{letters}]+", text)
    return match[0] if match else ""


def chosen_option(text: str, options: Mapping[str, str]) -> str:
    """Return the letter of the option that ``text`` chooses, or "".

    The first of these decides: the whole text is an option's text; it starts with a letter that
    stands alone ("B", "(B)", "B. blue", "b"); it says "answer is B" or "Answer: (B)"; there is one
    letter, and no other, in brackets ("... (B)").

    Args:
        options: capital letter -> text.
    """
    letters = "".join(options)
    plain = normalise(text)
    same = [letter for letter, option in options.items() if normalise(option) == plain]
    if len(same) == 1:
        return same[0]
    stripped = text.strip()
    alone = re.fullmatch(rf"\W*([{letters}{letters.lower()}])\W*", stripped)
    first = alone or re.match(rf"\W*([{letters}])(?:[).:,]|\s*\n)", stripped)
    named = first or re.search(rf"\b[Aa]nswer(?:\s+is|:)+\s*\W?([{letters}])\b", stripped)
    if named:
        return named[1].upper()
    bracketed = set(re.findall(rf"\(([{letters}])\)", stripped))
    return bracketed.pop() if len(bracketed) == 1 else ""


def circular(hits: Mapping[int, bool]) -> dict[int, bool]:
    """Return for each question whether it was answered rightly in *every* order of its options.

    Args:
        hits: by index; the copies of question ``i`` are ``i + n * COPY_STEP``.
    """
    result: dict[int, bool] = {}
    for index, hit in hits.items():
        question = index % COPY_STEP
        result[question] = result.get(question, True) and hit
    return result


def mean_by(scores: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return the mean score of each group, groups in alphabetical order."""
    sums: dict[str, list[float]] = {}
    for group, score in scores:
        sums.setdefault(group, []).append(float(score))
    return {group: sum(values) / len(values) for group, values in sorted(sums.items())}
