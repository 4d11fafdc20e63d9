"""What a tracker is, and which of them a run has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from inlay.core.errors import InlayError

Row = dict[str, str | int | float]
"""A row of a table, by column."""
Pictures = Sequence[tuple[str, Path]]
"""Caption and file of each."""


class TrackerError(InlayError):
    """A tracker refused or lost a record."""


@dataclass(frozen=True)
class RunInfo:
    """The run that a tracker records.

    Attributes:
        id: of the run over all its starts; letters, digits, ``-`` and ``_``.
        name: what people call it.
        resumed: an earlier start has recorded under this id already.
        names: what curves are called in place of our names, as ``{"loss": "batch_loss"}``.
        values: JSON values that are recorded once: ``config``, ``plan``, ``environment``.
    """

    id: str
    name: str
    resumed: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


class Tracker(Protocol):
    """Takes what a run records. It may be slow or fail: ``Guarded`` stands before it."""

    def open(self, folder: Path, info: RunInfo) -> str | None:
        """Start writing; ``folder`` is ``vis_data`` of this start. Returns a warning, if any."""
        ...

    def write(self, record: dict[str, Any]) -> None:
        """Take scalars by name, of iteration ``step``.

        A record of a checkpoint that was judged elsewhere has an ``axis`` (``"evaluation"``): its
        step is the checkpoint's, comes late, and has nothing to do with the step of training.
        """
        ...

    def write_table(self, name: str, rows: Sequence[Row], step: int) -> None: ...

    def write_images(self, name: str, images: Pictures, step: int) -> None: ...

    def close(self) -> None: ...


class Visualizer:
    """The trackers of a run.

    Args:
        vis_backends: trackers besides JSON lines and TensorBoard; a list that names
            ``LocalVisBackend`` is taken as it stands.
        names: what curves are called in TensorBoard, Weights & Biases and Trackio in place of our
            names, as ``{"loss": "batch_loss", "val/loss": "val_loss"}``.
    """

    def __init__(
        self,
        vis_backends: list[Any] | None = None,
        names: dict[str, str] | None = None,
    ) -> None:
        from inlay.engine.trackers.local import LocalVisBackend
        from inlay.engine.trackers.tensorboard import TensorboardVisBackend

        self.backends, self.names = list(vis_backends or []), names or {}
        if not self.has(LocalVisBackend):
            always = [t for t in (LocalVisBackend, TensorboardVisBackend) if not self.has(t)]
            self.backends[:0] = [kind() for kind in always]

    def has(self, kind: type) -> bool:
        """Whether a tracker of this kind is among them."""
        return any(isinstance(backend, kind) for backend in self.backends)


def curves(record: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    """Return the numbers of a record that make curves, by the names that these have.

    A name without a group is of training: ``loss`` is ``train/loss``.
    """
    return {
        names.get(key, key if "/" in key else f"train/{key}"): value
        for key, value in record.items()
        if key not in ("step", "iter") and isinstance(value, int | float)
    }
