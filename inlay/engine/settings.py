"""The closed sets of a run, as config files spell them. Every field says its unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from inlay.core.errors import ConfigError, did_you_mean
from inlay.engine.groups import PartRates

CUSTOM_KEY_FIELDS = ("lr_mult", "decay_mult")


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
        lr_groups: learning rate by part of the model, such as ``dict(projector=1e-3, llm=2e-5)``:
            the beginning of parameter names up to a dot. 0 or less freezes the part; what no entry
            names is trained at the optimizer's own rate. Schedules move every rate alike.
        paramwise_cfg: ``dict(custom_keys={piece of a name: dict(lr_mult=, decay_mult=)})``, factors
            on learning rate and weight decay, as in MMEngine.
    """

    optimizer: Any
    clip_grad: dict[str, Any] | None = None
    accumulative_counts: int = 1
    loss_scale: str | float = "dynamic"
    dtype: str | None = None
    max_skipped_updates: int = 10
    lr_groups: dict[str, float] | None = None
    paramwise_cfg: dict[str, Any] | None = None

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
        _check_paramwise(self.paramwise_cfg or {})

    @property
    def rates(self) -> PartRates:
        """Learning rates by part; false where there is one for all."""
        custom = (self.paramwise_cfg or {}).get("custom_keys", {})
        return PartRates(self.lr_groups or {}, custom)

    @property
    def max_norm(self) -> float | None:
        """L2 norm that gradients are clipped to, or None."""
        return self.clip_grad.get("max_norm") if self.clip_grad else None


def _check_paramwise(cfg: dict[str, Any]) -> None:
    for key in cfg.keys() - {"custom_keys"}:
        raise ConfigError(
            f"optim_wrapper.paramwise_cfg takes custom_keys, got '{key}'."
            f"{did_you_mean(key, ['custom_keys'])}"
        )
    for piece, factors in cfg.get("custom_keys", {}).items():
        for key in factors.keys() - set(CUSTOM_KEY_FIELDS):
            raise ConfigError(
                f"optim_wrapper.paramwise_cfg.custom_keys: '{piece}' takes lr_mult and decay_mult, "
                f"got '{key}'.{did_you_mean(key, CUSTOM_KEY_FIELDS)}"
            )


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
