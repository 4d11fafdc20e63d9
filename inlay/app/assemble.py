"""From a checked config to the parts of a run."""

from __future__ import annotations

import inspect
import logging
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

import inlay.models.internlm2  # noqa: F401 (makes transformers know it, whatever a config loads)
from inlay.app.respond import respond
from inlay.config.build import Builder, resolve
from inlay.core import dist
from inlay.core.errors import ConfigError
from inlay.engine.groups import freeze_parts
from inlay.engine.parallel.deepspeed_config import DeepSpeed

HOOK_ORDER = ("timer", "sampler_seed", "logger", "param_scheduler")


class Parts:
    """Builds the parts of one run, each on demand and once.

    Args:
        cfg: a checked config.
        seed: of data order; weights that are newly drawn use torch's own generator.
    """

    def __init__(self, cfg: Any, seed: int) -> None:
        self.cfg, self.seed = cfg, seed
        self.builder = Builder(cfg)

    def loader(self, mode: str) -> Any:
        """Build ``<mode>_dataloader`` (``train``, ``val`` or ``test``), or return None."""
        node = self.cfg.get(f"{mode}_dataloader")
        if node is None:
            return None
        settings = {k: v for k, v in node.items() if k not in ("dataset", "sampler", "collate_fn")}
        if is_length_grouped(node.get("sampler")):
            settings["sampler"] = self.builder.build(node["sampler"])
        settings.setdefault("shuffle", mode == "train")
        settings.setdefault("pin_memory", torch.cuda.is_available())
        loader = make_loader(self.builder.build(node["dataset"]), settings, self.seed)
        if loader.iters_per_epoch is None and mode == "train":
            self._check_stream()
        return loader

    def _check_stream(self) -> None:
        """A stream has no length: the run must say its own."""
        if self.train_loop().max_iters is None:
            raise ConfigError(
                "train_cfg: a streamed data set has no length, so max_epochs cannot be counted. "
                "Set train_cfg=dict(type=TrainLoop, max_iters=N)"
            )

    def model(self) -> Any:
        """Build ``model``: loads the weights, freezes the parts whose learning rate is 0 or less.

        Raises:
            ConfigError: a learning rate is for a part that the model does not have.
        """
        self.image_processor()
        model = self.builder.build(self.cfg["model"])
        freeze_parts(model, self._wrapper(self.cfg["optim_wrapper"]).rates)
        return model

    def tokenizer(self) -> Any:
        """The run's tokenizer, or None where the config names none."""
        self.image_processor()
        node = self.cfg.get("tokenizer")
        return None if node is None else self.builder.build(node)

    def image_processor(self) -> Any:
        """The run's image processor, or None. Building it adds its tokens to the tokenizer."""
        node = self.cfg.get("image_processor")
        if node is None:
            node = self.cfg["train_dataloader"]["dataset"].get("image_processor")
        return None if node is None else self.builder.build(node)

    def optim(self) -> tuple[Any, Any, dict[str, Any]]:
        """Return the ``optim_wrapper`` settings, the optimizer class and its arguments."""
        wrapper = self._wrapper(self.cfg["optim_wrapper"])
        settings = dict(wrapper.optimizer)
        make = resolve(settings.pop("type"))
        return wrapper, make, {k: self.builder.build(v) for k, v in settings.items()}

    def _wrapper(self, node: dict[str, Any]) -> Any:
        return self.builder.build(node, optimizer=node["optimizer"])

    def schedules(self) -> list[Any]:
        """Build ``param_scheduler``: one schedule or a list of them."""
        node = self.cfg.get("param_scheduler") or []
        return [self.builder.build(n) for n in ([node] if isinstance(node, dict) else node)]

    def train_loop(self) -> Any:
        """Build ``train_cfg``; a dict without a type is a ``TrainLoop``."""
        from inlay.engine.settings import TrainLoop

        return self.builder.build({"type": TrainLoop, **self.cfg["train_cfg"]})

    def hooks(self) -> list[Any]:
        """Build default and custom hooks, defaults first, the checkpoint hook last."""
        defaults = dict(self.cfg.get("default_hooks") or {})
        first = [defaults.pop(k) for k in HOOK_ORDER if k in defaults]
        custom = list(self.cfg.get("custom_hooks") or [])
        nodes = [*first, *custom, *defaults.values()]
        return [self._hook(n) for n in nodes if n is not None]

    def _hook(self, node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        # A hook that lets the model talk is handed the function that knows chat templates, one that
        # gives it away the function that knows its formats, one that shows masks what draws them.
        takes = inspect.signature(resolve(node["type"])).parameters
        tools = {"respond": respond, "export": self._export, "draw": self._draw}
        tools["open_jobs"] = _open_jobs
        return self.builder.build(node, **{k: tool for k, tool in tools.items() if k in takes})

    def _export(self, runner: Any, folder: Path) -> None:
        from inlay.app.export.run import export_model

        work_dir = Path(runner.work_dir)
        export_model(self, runner.model, folder, runner.experiment_name, folder=work_dir)

    def _draw(self, runner: Any, samples: int) -> list[tuple[str, Any]]:
        from inlay.app.pages.overlays import draw_samples

        return draw_samples(runner, samples)

    def visualizer(self) -> Any:
        """Build ``visualizer``, the trackers of the run; JSON lines and TensorBoard by default."""
        from inlay.engine.trackers import Visualizer

        node = self.cfg.get("visualizer")
        return Visualizer() if node is None else self.builder.build(node)


def _open_jobs(runner: Any, **settings: Any) -> Any:
    from inlay.app.evaluate.jobs import open_jobs

    return open_jobs(runner, **settings)


def make_loader(dataset: Any, settings: dict[str, Any], seed: int) -> Any:
    """Wrap a built data set in the loader of its kind, for this rank."""
    from inlay.data.loader import WindowLoader
    from inlay.data.stream import StreamDataset, StreamLoader

    place: dict[str, Any] = {"seed": seed, "rank": dist.rank(), "world_size": dist.world_size()}
    if isinstance(dataset, StreamDataset):
        known = inspect.signature(StreamLoader).parameters
        kept = {k: v for k, v in settings.items() if k in known}
        return StreamLoader(dataset, **kept, **place)
    return WindowLoader(dataset, **settings, **place)


def is_length_grouped(node: Any) -> bool:
    """Whether a ``sampler`` node orders samples by length; any other is left out."""
    if not isinstance(node, dict) or "type" not in node:
        return False
    from inlay.data import LengthGroupedSampler

    return resolve(node["type"]) is LengthGroupedSampler


STRATEGIES = {
    "ddp": "inlay.engine.parallel.ddp.DataParallel",
    "fsdp": "inlay.engine.parallel.fsdp.FullySharded",
}
"""Short names of ``strategy`` and ``--strategy``."""


def make_strategy(
    optim: Any,
    device: torch.device,
    logger: logging.Logger,
    timeout: timedelta | None = None,
    wanted: Any = None,
    batch_size: int = 1,
) -> Any:
    """Make the strategy that is wanted, with a precision that the device can run.

    Args:
        timeout: how long ranks wait for one another; None is torch's own.
        wanted: a short name, or a node; None is ``"ddp"``. One rank alone shares nothing, but
            under DeepSpeed.
        batch_size: items of a micro-batch, per device, which DeepSpeed wants to know.
    """
    precision = optim.dtype
    if precision == "float16" and device.type == "cpu":
        logger.warning("float16 does not train on a CPU: using bfloat16")
        precision = "bfloat16"
    if isinstance(wanted, dict) and resolve(wanted["type"]) is DeepSpeed:
        from inlay.app.deepspeed import deepspeed_strategy

        config = wanted["config"]
        return deepspeed_strategy(config, optim, batch_size, device, precision, timeout)
    if dist.world_size() == 1:
        from inlay.engine.parallel.single import SingleDevice

        return SingleDevice(device, precision, optim.loss_scale)
    node = dict(wanted) if isinstance(wanted, dict) else {"type": STRATEGIES[wanted or "ddp"]}
    make = resolve(node.pop("type"))
    return make(
        device=device, precision=precision, loss_scale=optim.loss_scale, timeout=timeout, **node
    )


def run_identity(loader: Any, model: Any, optim: Any, make: Any, seed: int) -> dict[str, str]:
    """Fingerprints that a resumed run must find unchanged."""
    from inlay.engine.identity import model_identity

    effective = loader.batch_size * dist.world_size() * optim.accumulative_counts
    return {
        **loader.dataset.identity(),
        **model_identity(model),
        "optimizer": f"{make.__module__}.{make.__qualname__}",
        "effective_batch": str(effective),
        "seed": str(seed),
    }


def check_context(model: Any, dataset: Any) -> None:
    """Make sure that a frozen model that is looked at can read every item of a data set.

    Raises:
        ConfigError: some are longer than its context.
    """
    if not hasattr(model, "lmm"):
        return
    most = getattr(model.lmm.decoder.config, "max_position_embeddings", None)
    allowed = dataset.builder.max_length
    if most is None or (allowed is not None and allowed <= most):
        return
    longest = int(dataset.lengths.max())
    if longest > most:
        count = int((dataset.lengths > most).sum())
        raise ConfigError(
            f"{count} of {len(dataset)} items have more tokens than the model can read: the "
            f"longest has {longest}, the model reads {most}. Set max_length={most}; max_bad_rows "
            "of the data set says how many items may be left out"
        )


def place_model(model: Any, strategy: Any) -> Any:
    """Bring a model to where ``strategy`` runs it; a quantised one is there already.

    Raises:
        ConfigError: it is dispatched to several devices.
    """
    llm = getattr(model, "llm", model)
    if getattr(llm, "hf_device_map", None) and len(set(llm.hf_device_map.values())) > 1:
        raise ConfigError(
            "model.llm.device_map spreads the model over several devices: it cannot be trained "
            "that way. Remove device_map"
        )
    return strategy.place(model)
