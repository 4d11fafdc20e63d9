"""Judging a model by its answers: each task is one file, which ``TASKS`` names.

A task knows its questions and how to score replies; what answers them is a function that is handed
in, ``answer(pictures, text, max_new_tokens) -> str``.
"""

from __future__ import annotations

TASKS = {
    "mmbench": "inlay.evaluation.mmbench",
    "vqa": "inlay.evaluation.vqa",
}
"""Task name -> module with ``load(path, image_folder, limit) -> Task``."""
