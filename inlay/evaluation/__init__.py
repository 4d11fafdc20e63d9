"""Judging a model by its answers: each task is one file, which ``TASKS`` names.

A task knows its questions and how to score replies; what answers them is a function that is handed
in, ``answer(pictures, text, max_new_tokens) -> str``. Tasks in ``POINTING`` ask a model that also
points: ``segment(image, pieces) -> (masks, scores)``, see ``records.Pointer``.
"""

from __future__ import annotations

TASKS = {
    "mmbench": "inlay.evaluation.mmbench",
    "phrases": "inlay.evaluation.phrases",
    "png": "inlay.evaluation.png",
    "refcoco": "inlay.evaluation.refseg",
    "scenes": "inlay.evaluation.scenes",
    "viscot": "inlay.evaluation.viscot",
    "vqa": "inlay.evaluation.vqa",
}
"""Task name -> module with ``load(path, image_folder, limit) -> Task``."""

POINTING = frozenset({"phrases", "png", "refcoco", "viscot"})
"""Tasks for a model that points; their ``load`` returns a ``records.ItemTask``."""

HARNESSES = {
    "lm:": ("of lm-evaluation-harness, such as lm:hellaswag", "inlay.evaluation.lm_eval"),
    "lmms:": ("of lmms-eval, such as lmms:mmstar", "inlay.evaluation.lmms"),
}
"""What the names of others' tasks start with -> whose they are, and the module of the adapter."""
