"""How well a model sees drawn scenes: exact answers on combinations that training never showed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inlay.data.scenes.build import example
from inlay.data.scenes.draw import Scene, draw
from inlay.data.scenes.language import CAPTION_REQUEST, caption
from inlay.evaluation.ask import Question, Reply, Result
from inlay.evaluation.metrics import mean_by

if TYPE_CHECKING:
    from PIL.Image import Image

_TRAINING_EXAMPLES = 2000
_SCENES = 200


@dataclass(frozen=True, slots=True)
class _Asked:
    kind: str
    text: str
    answer: str
    scene: Scene


def load(path: Path, image_folder: Path | None = None, limit: int | None = None) -> SceneTask:
    """Return the task of a split of the scenes, drawn anew.

    Args:
        path: no file, but the split's name: seen, pairs, relations or twist.
        image_folder: not used: scenes are drawn.
        limit: scenes; 200 by default.

    Raises:
        ConfigError: there is no such split.
    """
    return SceneTask(str(path), limit or _SCENES)


class SceneTask:
    """Questions about the scenes of a split; a reply is right if it is the answer, word for word.

    Args:
        split: see ``inlay.data.scenes.build.SPLITS``.
        count: scenes.
        seed: of the scenes.
        swapped: show the picture of another scene of the split beside every question: what is
            still right then was not seen.
        captions: ask for the caption of every scene, too.
    """

    max_new_tokens = 40

    def __init__(
        self, split: str, count: int, seed: int = 0, swapped: bool = False, captions: bool = True
    ) -> None:
        self._asked: dict[str, _Asked] = {}
        self.questions: list[Question] = []
        scenes = [example(split, seed, index).scene for index in range(count)]
        for index, scene in enumerate(scenes):
            shown = scenes[(index + count // 2) % count] if swapped else scene
            for number, asked in enumerate(_about(split, seed, index, captions)):
                key = f"{split} {index} {number} {asked.kind}"
                self._asked[key] = asked
                self.questions.append(Question(key, asked.text, partial(_pictures, shown)))

    def score(self, replies: dict[str, Reply]) -> Result:
        """Return ``scores``: ``accuracy`` over all questions, one share a kind, and ``majority``,
        what the most frequent answer of each kind in training scores on all but captions."""
        rows: list[dict[str, Any]] = []
        for key, asked in self._asked.items():
            said = replies[key].text
            hit = said.strip().lower() == asked.answer
            rows.append(
                {
                    "key": key,
                    "kind": asked.kind,
                    "question": asked.text,
                    "answer": asked.answer,
                    "prediction": said,
                    "score": float(hit),
                }
            )
        kinds = mean_by((row["kind"], row["score"]) for row in rows)
        scores = {
            "accuracy": sum(row["score"] for row in rows) / len(rows),
            "majority": self.majority(),
            "kinds": kinds,
        }
        lines = {kind: {"exact": share} for kind, share in kinds.items()}
        return Result(scores, rows, {"answers": lines})

    def majority(self) -> float:
        """Share of the questions that the most frequent training answer to their kind answers."""
        seen: dict[str, Counter[str]] = {}
        for index in range(_TRAINING_EXAMPLES):
            for question in example("train", 0, index).questions:
                seen.setdefault(question.kind, Counter())[question.answer] += 1
        best = {kind: counts.most_common(1)[0][0] for kind, counts in seen.items()}
        asked = self._asked.values()
        return sum(best.get(a.kind) == a.answer for a in asked) / len(asked)


def _about(split: str, seed: int, index: int, captions: bool) -> list[_Asked]:
    made = example(split, seed, index)
    found = [_Asked(q.kind, q.text, q.answer, made.scene) for q in made.questions]
    if captions:
        found.append(_Asked("caption", CAPTION_REQUEST, caption(made.scene)[0], made.scene))
    return found


def _pictures(scene: Scene) -> list[Image]:
    return [draw(scene)]
