"""Resume: what may change between two starts of a run, what is shown, what is refused.

Free: anything that only affects logging, saving, workers, evaluation, the learning rate and the
length of the run. Shown, then continued: batch, accumulation and ranks at an equal product.
Refused unless allowed by name: whatever the identity of the run covers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inlay.core.errors import CheckpointError, did_you_mean

MEANINGS = {
    "effective_batch": "samples of one update (batch_size x devices x accumulative_counts)",
    "data": "the training data",
    "template": "the chat template",
    "tokenizer": "the tokenizer",
    "image_processor": "the image processor",
    "packing": "max_length, pack_to_max_length or what packing depends on",
    "optimizer": "the optimizer's type",
    "architecture": "the model's layers, or which of them are trained",
    "base_weights": "the frozen base weights",
    "seed": "the seed, and with it the order of the data",
}


@dataclass(frozen=True)
class Change:
    """One difference between the saved run and this one.

    Attributes:
        key: name in the plan or the identity. before, after: shown to the user.
        refused: True when the run must not continue without ``--allow-change key``.
    """

    key: str
    before: Any
    after: Any
    refused: bool


def compare(
    saved: dict[str, Any], plan: dict[str, Any], identity: dict[str, str], allow: list[str]
) -> list[Change]:
    """List what differs from the checkpoint's ``saved`` state.

    Args:
        plan, identity: of the run about to start.
        allow: identity keys that the user lets change.

    Raises:
        CheckpointError: ``allow`` names an unknown key.
    """
    for key in allow:
        if key not in MEANINGS:
            raise CheckpointError(
                f"--allow-change {key}: unknown.{did_you_mean(key, MEANINGS)} "
                f"Known: {', '.join(MEANINGS)}"
            )
    changes = [
        Change(key, before, plan[key], refused=False)
        for key, before in saved["plan"].items()
        if key in plan and plan[key] != before
    ]
    for key, before in saved["identity"].items():
        after = identity.get(key)
        if after != before:
            changes.append(Change(key, before, after, refused=key not in allow))
    return changes


def table(changes: list[Change], position: str) -> str:
    """The before/after table, one line a change, with where the run continues."""
    rows = [("", "before", "now", "")]
    rows += [
        (c.key, str(c.before), str(c.after), "refused" if c.refused else "continues")
        for c in changes
    ]
    widths = [max(len(r[i]) for r in rows) for i in range(4)]
    lines = ["  ".join(t.ljust(w) for t, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    return "\n".join([*lines, position])


def refuse(changes: list[Change], source: Any) -> None:
    """Stop when a change is not allowed.

    Raises:
        CheckpointError: names every refused key and what it stands for.
    """
    refused = [c for c in changes if c.refused]
    if not refused:
        return
    what = "; ".join(
        f"{c.key} ({MEANINGS.get(c.key, c.key)}): {c.before} -> {c.after}" for c in refused
    )
    flags = " ".join(c.key for c in refused)
    raise CheckpointError(
        f"not resumed from {source}: this is another run. Changed: {what}. Undo the change, start "
        f"anew in another --work-dir, or continue all the same with --allow-change {flags}"
    )
