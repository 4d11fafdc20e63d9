"""DeepSpeed's JSON files: the five that ship, a user's own, and the settings of the run in them.

What a file leaves out or calls ``"auto"`` is the run's. Where it says something else than the
config of the run, one of the two is wrong, and only the user knows which.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inlay.core.errors import ConfigError, did_you_mean

FOLDER = Path(__file__).parent
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("deepspeed_*.json")))
OURS = {
    "optimizer": "optim_wrapper.optimizer",
    "scheduler": "param_scheduler",
    "torch_autocast": "optim_wrapper.dtype",
}
"""Sections that the run's own config stands for, and where it does."""


@dataclass(frozen=True)
class DeepSpeed:
    """What a config's ``strategy`` says: ``dict(type=DeepSpeed, config="deepspeed_zero2")``.

    Attributes:
        config: a name of :data:`NAMES`, a JSON file, or what would stand in one.
    """

    config: str | dict[str, Any]


@dataclass(frozen=True)
class RunSettings:
    """What the config of the run says about the things that a DeepSpeed file can say, too.

    Attributes:
        batch_size: items of a micro-batch, per device. accumulate: micro-batches of an update.
        world_size: number of devices.
        max_norm: L2 norm that gradients are clipped to; None clips nothing.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``.
        loss_scale: of float16: ``"dynamic"`` or a fixed factor.
    """

    batch_size: int
    accumulate: int
    world_size: int
    max_norm: float | None = None
    dtype: str = "float32"
    loss_scale: str | float = "dynamic"

    def values(self) -> dict[tuple[str, ...], tuple[Any, str]]:
        """Path in the file -> its value, and the place in the config that it comes from."""
        scale = 0 if self.loss_scale == "dynamic" else float(self.loss_scale)
        batch = "train_dataloader.batch_size"
        every = "optim_wrapper.accumulative_counts"
        whole = self.batch_size * self.accumulate * self.world_size
        return {
            ("train_batch_size",): (whole, f"{batch} * {every} * devices"),
            ("train_micro_batch_size_per_gpu",): (self.batch_size, batch),
            ("gradient_accumulation_steps",): (self.accumulate, every),
            ("gradient_clipping",): (self.max_norm or 0.0, "optim_wrapper.clip_grad.max_norm"),
            ("fp16", "enabled"): (self.dtype == "float16", "optim_wrapper.dtype"),
            ("fp16", "loss_scale"): (scale, "optim_wrapper.loss_scale"),
            ("bf16", "enabled"): (self.dtype == "bfloat16", "optim_wrapper.dtype"),
        }


def locate(name: str) -> Path:
    """Find the file of a shipped name, or a user's own.

    Raises:
        ConfigError: there is none.
    """
    if name in NAMES:
        return FOLDER / f"{name}.json"
    if Path(name).is_file():
        return Path(name)
    raise ConfigError(
        f"--deepspeed {name}: neither a JSON file nor one of {', '.join(NAMES)}."
        f"{did_you_mean(name, NAMES)}"
    )


def read_config(name: str | dict[str, Any], run: RunSettings) -> dict[str, Any]:
    """Read a DeepSpeed config and fill in the settings of the run.

    Args:
        name: ``deepspeed_zero1``, ... or the path of a JSON file, or what would stand in one.

    Raises:
        ConfigError: it is no JSON object, or contradicts the config of the run: all places at once.
    """
    config = _read(locate(name)) if isinstance(name, str) else name
    source = name if isinstance(name, str) else "config"
    problems = [*_conflicts(config, run), *_unfit(config)]
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        raise ConfigError(
            f'--deepspeed {source} does not fit the config (write "auto" for the config\'s '
            f"value):\n{lines}"
        )
    return _filled(config, run)


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ConfigError(f"--deepspeed {path}: cannot be read as JSON ({error})") from None
    if not isinstance(config, dict):
        raise ConfigError(f"--deepspeed {path}: expected a JSON object, got {config!r:.40}")
    return config


def _conflicts(config: dict[str, Any], run: RunSettings) -> list[str]:
    """Values that differ from the config of the run."""
    found = []
    for keys, (wanted, place) in run.values().items():
        given = _get(config, keys)
        off = keys == ("fp16", "loss_scale") and run.dtype != "float16"
        if given not in (None, "auto", wanted) and not off:
            found.append(f"{'.'.join(keys)} is {given!r}, {place} says {wanted!r}")
    for key, place in OURS.items():
        if key in config:
            found.append(f"{key}: take it out, {place} of the config is what is used")
    return found


def _unfit(config: dict[str, Any]) -> list[str]:
    """What makes a run impossible."""
    zero = config.get("zero_optimization")
    zero = zero if isinstance(zero, dict) else {}
    found = []
    if zero.get("stage") not in (1, 2, 3):
        found.append(
            f"zero_optimization.stage is {zero.get('stage')!r}, expected 1, 2 or 3 (to shard "
            "nothing, leave --deepspeed out)"
        )
    for key in ("offload_optimizer", "offload_param"):
        if _get(zero, (key, "device")) == "nvme":
            found.append(
                f"zero_optimization.{key}.device is 'nvme', expected 'cpu' or 'none': checkpoints "
                "cannot hold what lies on NVMe"
            )
    return found


def _get(config: dict[str, Any], keys: tuple[str, ...]) -> Any:
    value: Any = config
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _filled(config: dict[str, Any], run: RunSettings) -> dict[str, Any]:
    """The config with the values of the run; any other ``"auto"`` is DeepSpeed's own default."""
    config = _without_auto(config)
    for keys, (value, _) in run.values().items():
        section = config
        for key in keys[:-1]:
            section = section.setdefault(key, {})
        section[keys[-1]] = value
    # Any optimizer of torch is welcome; DeepSpeed's own one for a CPU would be compiled first.
    config.setdefault("zero_allow_untested_optimizer", True)
    config.setdefault("zero_force_ds_cpu_optimizer", False)
    return config


def _without_auto(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_auto(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if value != "auto"
    }
