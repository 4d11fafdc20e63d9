"""Checks between the fields of a config: each rule is one function that yields problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from inlay.config.hints import parameters
from inlay.config.problems import Problem
from inlay.config.registry import resolve
from inlay.core.errors import ConfigError, did_you_mean

_TEMPLATE_KEYS = ("SYSTEM", "INSTRUCTION", "SUFFIX", "SUFFIX_AS_EOS", "SEP", "STOP_WORDS")
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
    for rule in (_ranges, _length, _schedule, _intervals, _split, _templates, _quantised):
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
    """The two sides of a split by fraction must name the same fraction, or rows leak or vanish."""
    train = _dict(_dict(cfg, "train_dataloader"), "dataset")
    val = _dict(_dict(cfg, "val_dataloader"), "dataset")
    place = "val_dataloader.dataset.val_fraction"
    ours, theirs = _argument(val, "val_fraction"), _argument(train, "val_fraction")
    side, other = _argument(val, "part"), _argument(train, "part")
    if side == "val" and not ours:
        yield Problem(place, "more than 0, as part='val'", repr(ours))
    if "sources" in train and train["sources"] == val.get("sources"):
        if ours != theirs or side == other:
            yield Problem(
                "val_dataloader.dataset",
                "the side of the split that training leaves out",
                f"part={side!r} of val_fraction={ours!r} beside training on part={other!r} of "
                f"val_fraction={theirs!r}",
            )
    elif theirs and other == "train" and not val:
        yield Problem(
            "val_dataloader",
            f"a data loader of the share of rows that is held out ({theirs})",
            "none",
            severity="warning",
        )


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


def _quantised(cfg: Mapping[str, Any]) -> Iterator[Problem]:
    model = _dict(cfg, "model")
    if _dict(model, "llm").get("quantization_config") and not model.get("lora"):
        yield Problem("model.lora", "LoRA, as quantised weights cannot be trained", "none")


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


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
