"""MMBench: multiple choice, asked once in every order of its options."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlay.core.errors import DataError
from inlay.evaluation.ask import Question, Reply, Result, problems
from inlay.evaluation.choices import choice_prompt
from inlay.evaluation.metrics import COPY_STEP, circular, first_letters, mean_by
from inlay.evaluation.mmbench_table import Row, Table, read_table

if TYPE_CHECKING:
    from PIL.Image import Image

SHORT_NAMES = {
    "coarse_perception": "CP",
    "finegrained_perception (instance-level)": "FP-S",
    "finegrained_perception (cross-instance)": "FP-C",
    "logic_reasoning": "LR",
    "relation_reasoning": "RR",
    "attribute_reasoning": "AR",
}
"""Names of the abilities (``l2-category``) on MMBench's leaderboard."""


def load(path: Path, image_folder: Path | None = None, limit: int | None = None) -> MMBench:
    """Read a table of MMBench.

    Args:
        image_folder: not used: the table holds its pictures.
        limit: take the first questions only, with all their copies.

    Raises:
        DataError: the table is malformed.
    """
    return MMBench(read_table(path), limit)


class MMBench:
    """The task.

    A question counts as right only if it is answered rightly in every order of its options
    (circular); beside that stands the plain accuracy, over the questions in their first order. The
    answer is the first run of option letters in the model's text, no model judges it. A question
    that could not be asked is a wrong one, and is named.

    Args:
        limit: take the first questions only, with all their copies.

    Raises:
        DataError: a copy of a question that the table lacks.
    """

    max_new_tokens = 100

    def __init__(self, table: Table, limit: int | None = None) -> None:
        self.table = table
        mains = [row.index for row in table.rows if row.index < COPY_STEP]
        taken, known = set(mains[:limit]), set(mains)
        for row in table.rows:
            if row.index % COPY_STEP not in known:
                raise DataError(
                    f"{table.path}, line {row.line}: index {row.index} is a copy of question "
                    f"{row.index % COPY_STEP}, which the table lacks"
                )
        self.rows = [row for row in table.rows if row.index % COPY_STEP in taken]
        self.questions = [self._question(row) for row in self.rows]

    def score(self, replies: dict[str, Reply]) -> Result:
        """Score replies; without answers in the table there are rows, and no accuracy.

        Returns:
            ``scores`` has ``Average`` and one share for each ability at its top (circular), all
            shares under ``circular`` and ``plain``, counts, and ``not_asked`` (index -> reason).
        """
        unasked = problems(replies)
        mains = [row for row in self.rows if row.index < COPY_STEP]
        counts = {"num_questions": len(mains), "num_rows": len(self.rows), "not_asked": unasked}
        predictions = {row.index: replies[str(row.index)].text for row in self.rows}
        if not self.table.has_answers:
            return Result(counts, [self._shown(row, predictions[row.index]) for row in self.rows])
        letters = "".join(sorted({*"ABCD", *self.table.letters}))
        hits = {
            row.index: first_letters(predictions[row.index], letters) == row.answer
            for row in self.rows
        }
        kinds = {"circular": _accuracy(mains, circular(hits)), "plain": _accuracy(mains, hits)}
        top = kinds["circular"]["l2-category"] or kinds["circular"]["category"]
        scores = {"Average": kinds["circular"]["overall"], **top, **kinds, **counts}
        rows = [
            {**self._shown(row, predictions[row.index]), "score": float(hits[row.index])}
            for row in self.rows
        ]
        return Result(scores, rows, _tables(kinds))

    def _question(self, row: Row) -> Question:
        def pictures() -> list[Image]:
            from inlay.data.vision.files import open_image

            return [open_image(self.table.image(row))]

        text = choice_prompt(row.question, row.options, row.hint)
        return Question(str(row.index), text, pictures)

    def _shown(self, row: Row, prediction: str) -> dict[str, Any]:
        """The row as the submission file has it."""
        return {
            "question": row.question,
            **{letter: row.options.get(letter) for letter in self.table.letters},
            "prediction": prediction,
            "category": row.category,
            "l2-category": row.l2_category,
            "index": row.index,
            "split": row.split,
            "answer": row.answer,
        }


def _accuracy(mains: list[Row], hits: dict[int, bool]) -> dict[str, Any]:
    """Shares of right questions: overall, by ability and by category."""
    of_all = [hits[row.index] for row in mains]
    by_ability = [(row.l2_category, hits[row.index]) for row in mains if row.l2_category]
    by_category = [(row.category, hits[row.index]) for row in mains if row.category]
    return {
        "overall": sum(of_all) / len(of_all),
        "l2-category": mean_by((SHORT_NAMES.get(name, name), hit) for name, hit in by_ability),
        "category": mean_by(by_category),
    }


def _tables(kinds: dict[str, dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    tables = {"": {"overall": {kind: shares["overall"] for kind, shares in kinds.items()}}}
    for group in ("l2-category", "category"):
        names = kinds["plain"][group]
        tables[group] = {
            name: {kind: shares[group][name] for kind, shares in kinds.items()} for name in names
        }
    return {title: lines for title, lines in tables.items() if lines}
