"""Checks between the fields of a config: each rule is one function that yields problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from inlay.config import run_name
from inlay.config.hints import parameters
from inlay.config.problems import Problem
from inlay.config.registry import resolve
from inlay.core.errors import ConfigError, did_you_mean

_TEMPLATE_KEYS = (
    "SYSTEM",
    "SYSTEM_INSIDE",
    "INSTRUCTION",
    "SUFFIX",
    "SUFFIX_AS_EOS",
    "SEP",
    "STOP_WORDS",
)
_AT_LEAST: dict[str, float] = {
    "batch_size": 1,
    "accumulative_counts": 1,
    "max_epochs": 1,
    "max_iters": 1,
    "max_length": 1,
    "val_interval": 1,
    "num_workers": 0,
    "lr": 0,
    "weight_decay": 0,
}


def cross_checks(cfg: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield what is wrong between fields that are each right alone."""
    rules = (_ranges, _length, _schedule, _intervals, _split, _pictures, _templates, _quantised)
    for rule in (*rules, _run_name):
        yield from rule(cfg)


def _ranges(cfg: Mapping[str, Any]) -> Iterator[Problem]:
    seen: set[int] = set()
    for path, node in _dicts(dict(cfg), ""):
        if not path or id(node) in seen:  # settings are judged where they are used
            continue
        seen.add(id(node))
        for key, least in _AT_LEAST.items():
            value = node.get(key)
            if _is_number(value) and value < least:
                yield Problem(f"{path}.{key}", f"at least {least}", str(value))


def _length(cfg: Mapping[str, Any]) -> Iterator[Problem]:
    loop = _dict(cfg, "train_cfg")
    given = [k for k in ("max_epochs", "max_iters") if loop.get(k) is not None]
    if loop and len(given) != 1:
        yield Problem(
            "train_cfg", "either max_epochs or max_iters", " and ".join(given) or "neither"
        )


def _schedule(cfg: Mapping[str, Any]) -> Iterator[Problem]:
    schedules = cfg.get("param_scheduler") or []
    for index, node in enumerate(schedules if isinstance(schedules, list) else [schedules]):
        if not isinstance(node, dict):
            continue
        path = f"param_scheduler.{index}" if isinstance(schedules, list) else "param_scheduler"
        unit = "epochs" if _argument(node, "by_epoch") else "iterations"
        run = _run_length(cfg, unit)
        begin, end = _argument(node, "begin"), _argument(node, "end")
        if _is_number(begin) and _is_number(end) and end < begin:
            yield Problem(f"{path}.end", f"at least begin ({begin} {unit})", str(end))
        if run is None:
            continue
        if _is_number(begin) and begin > run:
            yield Problem(f"{path}.begin", f"within the run of {run} {unit}", str(begin))
        if _is_warm_up(node) and _is_number(end) and end > run:
            yield Problem(
                f"{path}.end",
                f"a warm-up within the run of {run} {unit}",
                str(end),
                "Lower warmup_ratio.",
            )


def _intervals(cfg: Mapping[str, Any]) -> Iterator[Problem]:
    save = _dict(_dict(cfg, "default_hooks"), "checkpoint")
    if save:
        unit = "epochs" if _argument(save, "by_epoch") else "iterations"
        yield from _too_rare(
            cfg, _argument(save, "interval"), "default_hooks.checkpoint.interval", unit
        )
    loop = _dict(cfg, "train_cfg")
    if cfg.get("val_dataloader"):
        by_epoch = loop.get("by_epoch", loop.get("max_epochs") is not None)
        unit = "epochs" if by_epoch else "iterations"
        yield from _too_rare(cfg, loop.get("val_interval"), "train_cfg.val_interval", unit)
    elif (loop.get("val_begin") or 0) > 1:
        yield Problem("val_dataloader", "a data loader (train_cfg.val_begin is set)", "none")


def _too_rare(cfg: Mapping[str, Any], interval: Any, path: str, unit: str) -> Iterator[Problem]:
    run = _run_length(cfg, unit)
    if run is not None and _is_number(interval) and interval > run:
        yield Problem(path, f"at most the run's {run} {unit}", str(interval), severity="warning")


def _split(cfg: Mapping[str, Any]) -> Iterator[Problem]:
    """The two sides of a split must name the same share or number, or rows leak or vanish."""
    train = _dict(_dict(cfg, "train_dataloader"), "dataset")
    val = _dict(_dict(cfg, "val_dataloader"), "dataset")
    place = "val_dataloader.dataset.val_fraction"
    ours, theirs = _held_out(val), _held_out(train)
    side, other = _argument(val, "part"), _argument(train, "part")
    if side == "val" and not ours:
        yield Problem(place, "more than 0 (or a val_size), as part='val'", _show_split(val))
    if "sources" in train and train["sources"] == val.get("sources"):
        if ours != theirs or side == other:
            yield Problem(
                "val_dataloader.dataset",
                "the side of the split that training leaves out",
                f"part={side!r} of {_show_split(val)} beside training on part={other!r} of "
                f"{_show_split(train)}",
            )
    elif theirs and other == "train" and not val:
        yield Problem(
            "val_dataloader",
            f"a data loader of the rows that are held out ({_show_split(train)})",
            "none",
            severity="warning",
        )


def _held_out(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """What a data set says about the size of its held-out side; empty where it holds none out."""
    given = {key: _argument(dataset, key) for key in ("val_fraction", "val_size")}
    return {key: value for key, value in given.items() if value}


def _show_split(dataset: Mapping[str, Any]) -> str:
    given = _held_out(dataset) or {"val_fraction": _argument(dataset, "val_fraction")}
    return ", ".join(f"{key}={value!r}" for key, value in given.items())


def _pictures(cfg: Mapping[str, Any]) -> Iterator[Problem]:
    """A sample must be able to hold a picture: its tokens are never cut."""
    for loader in ("train_dataloader", "val_dataloader"):
        dataset = _dict(_dict(cfg, loader), "dataset")
        tokens = _picture_tokens(_dict(dataset, "image_processor"))
        length = _argument(dataset, "max_length")
        if tokens is not None and _is_number(length) and length <= tokens:
            yield Problem(
                f"{loader}.dataset.max_length",
                f"more than {tokens}, the tokens of the smallest picture",
                str(length),
                "No sample with a picture would fit.",
            )


def _picture_tokens(processor: Mapping[str, Any]) -> int | None:
    """Image tokens of one tile; None where only the vision encoder's own files tell."""
    sizes = [_argument(processor, k) for k in ("tile_size", "patch_size", "pixel_shuffle_factor")]
    if not all(_is_number(size) and size > 0 for size in sizes):
        return None
    tile, patch, shuffle = sizes
    return int(tile // (patch * shuffle)) ** 2


def _templates(cfg: Mapping[str, Any]) -> Iterator[Problem]:
    seen: set[int] = set()
    for path, node in _dicts(dict(cfg), ""):
        if id(node) in seen or not {"INSTRUCTION", "SUFFIX_AS_EOS"} & node.keys() or not path:
            continue
        seen.add(id(node))
        for key in sorted(node.keys() - set(_TEMPLATE_KEYS)):
            hint = did_you_mean(str(key), _TEMPLATE_KEYS)
            yield Problem(f"{path}.{key}", "a template's key", "an unknown name", hint)
        if node.get("SUFFIX_AS_EOS") and not node.get("SUFFIX"):
            yield Problem(
                f"{path}.SUFFIX",
                "the text that ends an answer, as SUFFIX_AS_EOS is set",
                repr(node.get("SUFFIX")),
                "Without it the model never learns to stop.",
            )
        if "{input}" not in str(node.get("INSTRUCTION", "")):
            yield Problem(
                f"{path}.INSTRUCTION", "a text with {input}", repr(node.get("INSTRUCTION"))
            )
    yield from _chat_template(cfg)


def _chat_template(cfg: Mapping[str, Any]) -> Iterator[Problem]:
    dataset = _dict(_dict(cfg, "train_dataloader"), "dataset")
    hooks = cfg.get("custom_hooks") or []
    for index, hook in enumerate(hooks if isinstance(hooks, list) else []):
        if not isinstance(hook, dict) or "evaluation_inputs" not in hook:
            continue
        if "template" in dataset and hook.get("prompt_template") != dataset["template"]:
            yield Problem(
                f"custom_hooks.{index}.prompt_template",
                "the template of the training data",
                "another one",
                "The answers would be sampled in a format the model is not trained on.",
                "warning",
            )


_ADAPTERS = {
    "llm": ("lora", "llm_lora"),
    "vlm": ("lora",),
    "visual_encoder": ("visual_encoder_lora",),
}
"""By part of a model, the arguments that train an adapter on it."""


def _quantised(cfg: Mapping[str, Any]) -> Iterator[Problem]:
    model = _dict(cfg, "model")
    frozen = _frozen_parts(cfg)
    for part, adapters in _ADAPTERS.items():
        if not _dict(model, part).get("quantization_config") or part in frozen:
            continue
        if not any(model.get(adapter) for adapter in adapters):
            takes = [a for a in adapters if _takes(model, a)] or adapters
            yield Problem(
                f"model.{takes[0]}", "LoRA, as quantised weights cannot be trained", "none"
            )


def _frozen_parts(cfg: Mapping[str, Any]) -> set[str]:
    """Parts of the model that the config freezes as a whole."""
    model, rates = _dict(cfg, "model"), _dict(_dict(cfg, "optim_wrapper"), "lr_groups")
    frozen = {part for part in _ADAPTERS if model.get(f"freeze_{part}")}
    return frozen | {part for part, rate in rates.items() if _is_number(rate) and rate <= 0}


def _run_name(cfg: Mapping[str, Any]) -> Iterator[Problem]:
    if not isinstance(cfg.get("run_name"), str):
        return
    try:
        run_name.resolve(cfg, 1, 1)
    except ConfigError as error:
        yield Problem("run_name", "a text with the names of settings in braces", str(error))


def _dicts(value: Any, path: str) -> Iterator[tuple[str, dict[Any, Any]]]:
    """Yield every dict of a config with its path, the outer ones first."""
    if isinstance(value, dict):
        yield path, value
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, dict | list | tuple):
            yield from _dicts(item, f"{path}.{key}" if path else str(key))


def _dict(parent: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = parent.get(key)
    return value if isinstance(value, dict) else {}


def _run_length(cfg: Mapping[str, Any], unit: str) -> float | None:
    length = _dict(cfg, "train_cfg").get("max_epochs" if unit == "epochs" else "max_iters")
    return length if _is_number(length) else None


def _is_warm_up(node: Mapping[str, Any]) -> bool:
    start = _argument(node, "start_factor")
    end = _argument(node, "end_factor")
    return _is_number(start) and start < (end if _is_number(end) else 1.0)


def _argument(node: Mapping[str, Any], key: str) -> Any:
    """Return what a node gives for an argument, else its target's default, else None."""
    if key in node or "type" not in node:
        return node.get(key)
    try:
        return parameters(resolve(node["type"])).defaults.get(key)
    except ConfigError:
        return None


def _takes(node: Mapping[str, Any], key: str) -> bool:
    """Whether a node's target has an argument of this name."""
    try:
        return key in parameters(resolve(node["type"])).hints
    except (ConfigError, KeyError):
        return False


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
