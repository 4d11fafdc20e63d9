"""A config as the originals read it, with their defaults where the file says nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["text", "pictures", "grounding"]
MAP_WORKERS = 32  # of `process_hf_dataset`
GROUNDING = ("PNGDataset", "RefCocoDataset", "GroundingDataset", "PNG", "RefCOCO", "PhraseSet")
REFCOCO = ("RefCocoDataset", "RefCOCO")
PNG = ("PNGDataset", "PNG")


@dataclass(frozen=True)
class Save:
    """The checkpoint hook: MMEngine's defaults where the node says nothing."""

    interval: int = -1
    by_epoch: bool = True
    keep: int = -1


@dataclass(frozen=True)
class Original:
    """What the original reads.

    Attributes:
        kind: of the training data.
        datasets: nodes of the training data sets, those of a concatenation one by one.
        packs: samples are concatenated to packs.
        varlen: samples of a pack are kept apart (needs flash attention).
        shuffles: in a new order before packing.
        workers: processes that map the rows.
        epoch_loop: MMEngine's loop over epochs; XTuner's counts iterations and reports one epoch.
        schedules: nodes of ``param_scheduler``.
        save: the checkpoint hook; None: no checkpoints.
        template: the prompt template, an empty dict where there is none.
        system: text of the system turn of the chat hook.
        map_fns: names of the map functions of the data sets.
    """

    kind: Kind
    datasets: list[dict[str, Any]]
    max_length: int
    packs: bool
    varlen: bool
    shuffles: bool
    workers: int
    batch_size: int
    accumulate: int
    lr: float | None
    epoch_loop: bool
    max_epochs: float | None
    max_iters: int | None
    val_interval: int | None
    has_val: bool
    schedules: list[dict[str, Any]]
    save: Save | None
    seed: int | None
    resume: bool
    dropout: float
    template: dict[str, Any]
    system: str
    map_fns: list[str] = field(default_factory=list)
    cfg: Mapping[str, Any] = field(default_factory=dict)


def read(cfg: Mapping[str, Any]) -> Original:
    """Read a config file's values; those of Inlay's own files as if they were the original's."""
    loader, loop = _dict(cfg, "train_dataloader"), _dict(cfg, "train_cfg")
    wrapper, model = _dict(cfg, "optim_wrapper"), _dict(cfg, "model")
    datasets = list(leaves(loader.get("dataset")))
    first = datasets[0] if datasets else {}
    kind = _kind(model, datasets)
    packs = kind == "text" and bool(first.get("pack_to_max_length", True))
    iters, epochs = loop.get("max_iters"), loop.get("max_epochs")
    return Original(
        kind=kind,
        datasets=datasets,
        max_length=first.get("max_length") or 2048,
        packs=packs,
        varlen=bool(first.get("use_varlen_attn", model.get("use_varlen_attn"))),
        shuffles=bool(first.get("shuffle_before_pack", True)),
        workers=first.get("map_num_proc", MAP_WORKERS) or 1,
        batch_size=loader.get("batch_size") or 1,
        accumulate=wrapper.get("accumulative_counts") or 1,
        lr=_dict(wrapper, "optimizer").get("lr"),
        epoch_loop=_is_epoch_loop(loop),
        max_epochs=epochs,
        max_iters=None if iters is None else int(iters),
        val_interval=loop.get("val_interval"),
        has_val=bool(cfg.get("val_dataloader")),
        schedules=_schedules(cfg.get("param_scheduler")),
        save=_save(cfg),
        seed=_dict(cfg, "randomness").get("seed"),
        resume=bool(cfg.get("resume")),
        dropout=max((_dict(model, key).get("lora_dropout", 0) for key in _LORA), default=0),
        template=_template(cfg, first),
        system=_system(cfg),
        map_fns=[target_name(d.get("dataset_map_fn")) for d in datasets],
        cfg=cfg,
    )


_LORA = ("lora", "llm_lora", "visual_encoder_lora")


def target_name(target: Any) -> str:
    """The last name of what a ``type`` stands for: ``LinearLR``, ``process_hf_dataset``.

    Of a class's ``from_pretrained`` it is the class's name.
    """
    if isinstance(target, str):
        return target.rpartition(".")[2]
    owner = getattr(target, "__self__", None)
    return str(getattr(owner if isinstance(owner, type) else target, "__name__", ""))


def node_name(node: Any) -> str:
    """The name of what a node builds, or an empty string."""
    return target_name(node.get("type")) if isinstance(node, dict) else ""


def leaves(node: Any) -> Iterator[dict[str, Any]]:
    """Yield the data set nodes inside a data set node: those of a concatenation, else itself."""
    if not isinstance(node, dict):
        return
    parts = node.get("datasets") or node.get("datasets_list")
    if parts is None and node_name(node) == "GroundingDataset":
        parts = node.get("sources")
    if parts is None:
        yield node
        return
    for part in parts if isinstance(parts, list | tuple) else [parts]:
        yield from leaves(part)


def _kind(model: Mapping[str, Any], datasets: list[dict[str, Any]]) -> Kind:
    names = [node_name(d) for d in datasets]
    if node_name(dict(model)).startswith("Frozen") or any(n in GROUNDING for n in names):
        return "grounding"
    if "LLaVADataset" in names or any(d.get("image_processor") for d in datasets):
        return "pictures"
    return "text"


def _is_epoch_loop(loop: Mapping[str, Any]) -> bool:
    if "type" in loop:
        return node_name(dict(loop)) == "EpochBasedTrainLoop"
    return bool(loop.get("by_epoch"))


def _schedules(value: Any) -> list[dict[str, Any]]:
    nodes = [value] if isinstance(value, dict) else value or []
    return [node for node in nodes if isinstance(node, dict)]


def _save(cfg: Mapping[str, Any]) -> Save | None:
    hooks = cfg.get("default_hooks")
    if hooks is None:
        return Save(interval=1)  # MMEngine's own default
    node = hooks.get("checkpoint", {"interval": 1})
    if node is None:
        return None
    return Save(
        node.get("interval", -1), node.get("by_epoch", True), node.get("max_keep_ckpts", -1)
    )


def _template(cfg: Mapping[str, Any], dataset: Mapping[str, Any]) -> dict[str, Any]:
    """The template of the training data; of a grounding config that of the prompt."""
    mapped = dataset.get("template_map_fn")
    found = mapped.get("template") if isinstance(mapped, dict) else None
    found = found or dataset.get("template") or dataset.get("prompt_template")
    found = found or cfg.get("prompt_template")
    return dict(found) if isinstance(found, Mapping) else {}


def _system(cfg: Mapping[str, Any]) -> str:
    for hook in cfg.get("custom_hooks") or []:
        if isinstance(hook, dict) and "evaluation_inputs" in hook:
            system = hook.get("system") or ""
            return system if isinstance(system, str) else "".join(system)
    return ""


def _dict(parent: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = parent.get(key)
    return value if isinstance(value, Mapping) else {}
