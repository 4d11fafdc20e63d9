"""The closed sets of a run, as config files spell them. Every field says its unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inlay.core.errors import ConfigError


@dataclass
class OptimWrapper:
    """How gradients become updates (PART 4, ``optim_wrapper``).

    Attributes:
        optimizer: any torch or bitsandbytes optimizer, built over the trainable parameters.
        clip_grad: ``max_norm`` (L2 norm over all gradients) and ``norm_type``; None clips nothing.
        accumulative_counts: micro-batches of one update.
        loss_scale: fp16 only: ``"dynamic"`` or a fixed number.
        dtype: compute precision of forward and backward: ``"bfloat16"``, ``"float16"``,
            ``"float32"`` (or None). Weights keep the type they are loaded in.
        max_skipped_updates: non-finite updates in a row after which the run stops.
    """

    optimizer: Any
    clip_grad: dict[str, Any] | None = None
    accumulative_counts: int = 1
    loss_scale: str | float = "dynamic"
    dtype: str | None = None
    max_skipped_updates: int = 10

    def __post_init__(self) -> None:
        if self.accumulative_counts < 1:
            raise ConfigError(
                f"optim_wrapper.accumulative_counts must be at least 1, "
                f"got {self.accumulative_counts}"
            )
        if self.dtype not in (None, "float32", "bfloat16", "float16"):
            raise ConfigError(
                f"optim_wrapper.dtype must be 'bfloat16', 'float16' or 'float32', "
                f"got {self.dtype!r}"
            )

    @property
    def max_norm(self) -> float | None:
        """L2 norm that gradients are clipped to, or None."""
        return self.clip_grad.get("max_norm") if self.clip_grad else None


@dataclass
class TrainLoop:
    """How long to train and how often to validate (PART 4, ``train_cfg``).

    Attributes:
        max_epochs, max_iters: length of the run; give one of the two.
        val_interval: validate every so many epochs or iterations; by default every epoch, or every
            1000 iterations.
        by_epoch: unit of ``val_interval``; by default epochs when ``max_epochs`` is given.
        val_begin: first epoch or iteration that may be validated; 0 also judges the model before
            it is trained.
    """

    max_epochs: int | None = None
    max_iters: int | None = None
    val_interval: int | None = None
    by_epoch: bool | None = None
    val_begin: int = 1

    def __post_init__(self) -> None:
        if (self.max_epochs is None) == (self.max_iters is None):
            raise ConfigError(
                "train_cfg needs either max_epochs or max_iters, "
                f"got max_epochs={self.max_epochs} and max_iters={self.max_iters}"
            )
        if self.by_epoch is None:
            self.by_epoch = self.max_epochs is not None
        if self.val_interval is None:
            self.val_interval = 1 if self.by_epoch else 1000
