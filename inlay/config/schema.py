"""The closed sets of a config: the names that the runtime knows, and the dicts without ``type``.

The fields are what a config may write; the classes that use the values live on other floors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


class Node:
    """Hint of a field that takes a ``dict(type=...)``."""


@dataclass
class Dataloader:
    """``train_dataloader``, ``val_dataloader`` and ``test_dataloader``.

    Attributes:
        dataset: a data set node.
        batch_size: samples (or packs) of one micro-batch, per device.
        num_workers: loader processes per device; 0 loads in the training process.
        shuffle: a new seeded order every epoch; by default for training only.
        pin_memory: copy batches to page-locked memory; by default where a GPU is used.
        persistent_workers: keep the workers between epochs.
        prefetch_factor: batches that a worker prepares ahead.
        timeout: seconds to wait for a batch before the run stops; 0 waits for ever.
        sampler: a ``LengthGroupedSampler`` node. Another one, from files of other tools, is
            accepted and left out: the loader orders every epoch itself.
        collate_fn: a function of samples, in place of the data set's own.
    """

    dataset: Node
    batch_size: int = 1
    num_workers: int = 0
    shuffle: bool | None = None
    pin_memory: bool | None = None
    persistent_workers: bool | None = None
    prefetch_factor: int | None = None
    timeout: float = 0
    sampler: Any = None
    collate_fn: Any = None


@dataclass
class Loop:
    """``train_cfg`` without a ``type``: fields of ``inlay.engine.TrainLoop``."""

    max_epochs: int | None = None
    max_iters: int | None = None
    val_interval: int | None = None
    by_epoch: bool | None = None
    val_begin: int = 1


@dataclass
class DistCfg:
    """``env_cfg.dist_cfg``: a run on several devices.

    Attributes:
        backend: of the process group; without a GPU it is gloo.
        timeout: seconds that a rank waits for the others in one exchange; None is torch's own.
        heartbeat_timeout: seconds after which a rank whose process does not answer is taken for
            frozen, and all are ended; 0 looks after none.
    """

    backend: Literal["nccl", "gloo"] = "nccl"
    timeout: float | None = None
    heartbeat_timeout: float = 30


@dataclass
class EnvCfg:
    """``env_cfg``; ``compile`` runs transformer blocks through ``torch.compile``."""

    cudnn_benchmark: bool = False
    dist_cfg: DistCfg | None = None
    compile: bool = False


@dataclass
class Randomness:
    """``randomness``: ``seed=None`` draws one and logs it."""

    seed: int | None = 0
    deterministic: bool = False


@dataclass
class LogProcessor:
    """``log_processor``: means over ``window_size`` iterations, counted by epoch or iteration."""

    by_epoch: bool = False
    window_size: int = 10


@dataclass
class Run:
    """Every top-level name that the runtime reads. Those without a default are required.

    ``run_name`` is a text with fields: ``{name}`` of any setting, ``{num_gpus}``,
    ``{global_batch}``, ``{date}``. ``strategy`` says how several devices share a run.
    """

    model: Node
    train_dataloader: Dataloader
    optim_wrapper: Node
    train_cfg: Node | Loop
    tokenizer: Node | None = None
    image_processor: Node | None = None
    val_dataloader: Dataloader | None = None
    test_dataloader: Dataloader | None = None
    param_scheduler: list[Node] | Node | None = None
    custom_hooks: list[Node] | None = None
    default_hooks: dict[str, Node | None] | None = None
    strategy: Literal["ddp", "fsdp"] | Node | None = None
    env_cfg: EnvCfg | None = None
    visualizer: Node | None = None
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    load_from: str | None = None
    resume: bool | str = False
    randomness: Randomness | None = None
    log_processor: LogProcessor | None = None
    work_dir: str | None = None
    run_name: str | None = None
