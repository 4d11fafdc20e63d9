"""MMEngine 0.10 in Inlay's terms: loops, hooks, optimizers, schedules, environment.

``TOP`` has the settings that a run reads at the top level of a config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from inlay.config.compat_names import At, Name, Node, converted, left_out, same, words

_LOADER = ("sampler", "batch_sampler", "collate_fn", "multiprocessing_context", "worker_init_fn")
_GREATER = ("acc", "top", "AR@", "auc", "precision", "mAP", "mDice", "mIoU", "iou", "score")
_LOOP_HINT = "The loop validates at fixed intervals."


def dataloader(node: Node, at: At) -> Node:
    """Order and batches are the loader's own work; a sampler by length is kept."""
    new = {k: v for k, v in node.items() if k not in (*_LOADER, "drop_last")}
    sampler = node.get("sampler")
    if at.name(sampler) == "LengthGroupedSampler":
        new["sampler"] = sampler
    elif isinstance(sampler, dict) and isinstance(sampler.get("shuffle"), bool):
        new.setdefault("shuffle", sampler["shuffle"])
    if node.get("drop_last"):
        at.note("drop_last", "the last, short batch of an epoch is trained on, too")
    collate = node.get("collate_fn")
    if callable(collate) and at.name({"type": collate}) not in _COLLATE:
        new["collate_fn"] = collate
    return new


_COLLATE = ("default_collate_fn", "custom_collate_fn", "default_collate", "pseudo_collate")


def optim_wrapper(node: Node, at: At) -> Node:
    """Loss scale, precision and clipping; ``Amp`` without a dtype means float16."""
    new: Node = {**node, "type": "inlay.engine.OptimWrapper"}
    clip = dict(node.get("clip_grad") or {})
    clip.pop("error_if_nonfinite", None)
    if clip.pop("type", "norm") != "norm":
        at.refuse("clip_grad.type", "'norm'", repr(node["clip_grad"]["type"]))
    new["clip_grad"] = clip or None
    if at.name(node) == "AmpOptimWrapper":
        new["dtype"] = str(node.get("dtype") or "float16").removeprefix("torch.")
    else:
        new.pop("dtype", None)
        new.pop("loss_scale", None)
    new.pop("use_fsdp", None)
    if isinstance(node.get("loss_scale"), dict):
        new["loss_scale"] = "dynamic"
        at.note("loss_scale", "the settings of the dynamic scale are PyTorch's own")
    return new


def train_cfg(node: Node, at: At) -> Node:
    """A loop by class, by name, or without a type."""
    new = {k: v for k, v in node.items() if k != "dynamic_intervals"}
    if node.get("dynamic_intervals"):
        at.refuse("dynamic_intervals", "nothing", repr(node["dynamic_intervals"]), _LOOP_HINT)
    return {**new, "type": "inlay.engine.TrainLoop"} if "type" in node else new


def env_cfg(node: Node, at: At) -> Node:
    new = {k: v for k, v in node.items() if k not in ("mp_cfg", "resource_limit")}
    if isinstance(node.get("dist_cfg"), dict):
        known = ("backend", "timeout")
        new["dist_cfg"] = {k: v for k, v in node["dist_cfg"].items() if k in known}
    return new


def log_processor(node: Node, at: At) -> Node:
    known = ("by_epoch", "window_size")
    for key in node.keys() - {*known, "type", "num_digits", "mean_pattern"}:
        at.note(key, "every scalar is logged by its mean over window_size iterations")
    return {k: v for k, v in node.items() if k in known}


def randomness(node: Node, at: At) -> Node:
    return {k: v for k, v in node.items() if k != "diff_rank_seed"}


def default_hooks(node: Node | None, at: At) -> Node:
    """Those that MMEngine adds by itself are spelled out; lines count as ``log_processor`` says."""
    own: Node = {
        "timer": {"type": "inlay.engine.hooks.IterTimerHook"},
        "logger": {"type": "inlay.engine.hooks.LoggerHook"},
        "checkpoint": {
            "type": "inlay.engine.hooks.CheckpointHook",
            "interval": 1,
            "save_best": None,
        },
    }
    new = {**own, **(node or {})}
    if isinstance(new["logger"], dict):
        by_epoch = (at.values.get("log_processor") or {}).get("by_epoch", True)
        new["logger"] = {**new["logger"], "log_metric_by_epoch": bool(by_epoch)}
    return new


def strategy(values: Mapping[str, Any], at: At) -> Any:
    """How ranks share a run: ``strategy`` of the flexible runner, or ``model_wrapper_cfg``."""
    wrapper, node = values.get("model_wrapper_cfg"), values.get("strategy")
    if isinstance(node, dict) and at.name(node) == "DeepSpeedStrategy":
        own = {k: v for k, v in node.items() if k not in _STRATEGY}
        return {"type": "inlay.engine.DeepSpeed", "config": node.get("config") or own}
    if isinstance(wrapper, dict) and wrapper.get("find_unused_parameters"):
        return {"type": "inlay.engine.DataParallel", "find_unused_parameters": True}
    return node


_STRATEGY = words("type config exclude_frozen_parameters sequence_parallel_size inputs_to_half")


TOP: dict[str, Callable[[Any, At], Any]] = {
    "train_dataloader": dataloader,
    "val_dataloader": dataloader,
    "test_dataloader": dataloader,
    "train_cfg": train_cfg,
    "env_cfg": env_cfg,
    "log_processor": log_processor,
    "randomness": randomness,
}
"""How settings at the top level are written anew."""

IGNORED: dict[str, str] = {
    "val_cfg": "",
    "test_cfg": "",
    "default_scope": "",
    "launcher": "",
    "custom_imports": "",
    "runner_type": "",
    "auto_scale_lr": "the learning rate is as it is written",
    "val_evaluator": "validation measures the loss",
    "test_evaluator": "a test measures the loss",
    "model_wrapper_cfg": "",
    "experiment_name": "run_name names a run's records",
    "compile": "env_cfg.compile switches it on",
    "find_unused_parameters": "",
}
"""Settings at the top level that nothing here reads, and why."""


_CHECKPOINT = words(
    "out_dir filename_tmpl published_keys save_param_scheduler file_client_args backend_args "
    "save_begin save_optimizer greater_keys less_keys"
)
"""Arguments of MMEngine's hook that ours does not have."""


def checkpoint_hook(node: Node, at: At) -> Node:
    """MMEngine saves no best checkpoint unless it is told to, and guesses the rule by the name."""
    new = {k: v for k, v in node.items() if k not in _CHECKPOINT}
    if not node.get("save_optimizer", True):
        at.note("save_optimizer", "checkpoints hold the optimizer: every one can be resumed")
    if node.get("out_dir"):
        at.note("out_dir", "checkpoints lie in the work dir")
    best = node.get("save_best")
    if isinstance(best, list | tuple):
        best = best[0] if best else None
        at.note("save_best", "one metric decides, the first one")
    new["save_best"] = best
    if node.get("rule") is None:
        greater = isinstance(best, str) and any(key in best for key in _GREATER)
        new["rule"] = "greater" if greater else "less"
    return new


def visualizer(node: Node, at: At) -> Node:
    backends = node.get("vis_backends")
    one = [backends] if isinstance(backends, dict) else backends
    return {"type": "inlay.engine.Visualizer", "vis_backends": one}


def _schedule(name: str) -> Name:
    return same(f"inlay.engine.{name}", verbose="", last_step="", param_name="")


_NO_ARGUMENTS = {"save_dir": "", "img_save_dir": "", "config_save_file": "", "scalar_save_file": ""}
_REGISTRIES = (
    "DATASETS", "DATA_SAMPLERS", "EVALUATOR", "FUNCTIONS", "HOOKS", "LOOPS", "METRICS", "MODELS",
    "OPTIMIZERS", "OPTIM_WRAPPERS", "PARAM_SCHEDULERS", "RUNNERS", "TASK_UTILS", "TRANSFORMS",
    "VISBACKENDS", "VISUALIZERS",
)  # fmt: skip

NAMES: dict[str, Name] = {
    # hooks
    "mmengine.Hook": same("inlay.engine.hooks.StageHook"),
    "mmengine.CheckpointHook": same("inlay.engine.hooks.CheckpointHook", checkpoint_hook),
    "mmengine.LoggerHook": same(
        "inlay.engine.hooks.LoggerHook",
        ignore_last="",
        interval_exp_name="",
        out_dir="",
        out_suffix="",
        keep_local="",
        file_client_args="",
        backend_args="",
    ),
    "mmengine.IterTimerHook": same("inlay.engine.hooks.IterTimerHook"),
    "mmengine.ParamSchedulerHook": same("inlay.engine.hooks.ParamSchedulerHook"),
    "mmengine.DistSamplerSeedHook": same("inlay.engine.hooks.DistSamplerSeedHook"),
    "mmengine.RuntimeInfoHook": left_out(),
    "mmengine.SyncBuffersHook": left_out(),
    "mmengine.NaiveVisualizationHook": left_out(),
    "mmengine.EmptyCacheHook": left_out("memory is not given back between iterations"),
    # optimizers and schedules
    "mmengine.OptimWrapper": converted(optim_wrapper),
    "mmengine.AmpOptimWrapper": converted(optim_wrapper),
    "mmengine.DeepSpeedOptimWrapper": converted(optim_wrapper),
    "mmengine.LinearLR": _schedule("LinearLR"),
    "mmengine.CosineAnnealingLR": _schedule("CosineAnnealingLR"),
    "mmengine.ConstantLR": _schedule("ConstantLR"),
    "mmengine.ExponentialLR": _schedule("ExponentialLR"),
    "mmengine.MultiStepLR": _schedule("MultiStepLR"),
    "mmengine.PolyLR": _schedule("PolyLR"),
    "mmengine.StepLR": _schedule("StepLR"),
    # loops, data
    "mmengine.EpochBasedTrainLoop": Name("inlay.engine.TrainLoop"),
    "mmengine.IterBasedTrainLoop": Name("inlay.engine.TrainLoop"),
    "mmengine.DeepSpeedStrategy": left_out(),
    "mmengine.ValLoop": left_out(),
    "mmengine.TestLoop": left_out(),
    "mmengine.LogProcessor": left_out(),
    "mmengine.DefaultSampler": left_out(),
    "mmengine.InfiniteSampler": left_out(),
    "mmengine.default_collate": left_out(),
    "mmengine.pseudo_collate": left_out(),
    # what is seen
    "mmengine.Visualizer": converted(visualizer),
    "mmengine.LocalVisBackend": Name("inlay.engine.LocalVisBackend", drop=_NO_ARGUMENTS),
    "mmengine.TensorboardVisBackend": Name(
        "inlay.engine.TensorboardVisBackend", drop=_NO_ARGUMENTS
    ),
    "mmengine.WandbVisBackend": Name(
        "inlay.engine.WandbVisBackend",
        drop={"save_dir": "", "commit": "", "log_code_name": "", "watch_kwargs": ""},
    ),
    # for modules of one's own
    **{f"mmengine.{name}": same("inlay.config.registry.REGISTRY") for name in _REGISTRIES},
    "mmengine.Registry": same("inlay.config.registry.Registry"),
    "mmengine.read_base": same("inlay.config.registry.read_base"),
    "mmengine.get_rank": same("inlay.core.dist.rank"),
    "mmengine.get_world_size": same("inlay.core.dist.world_size"),
    "mmengine.is_main_process": same("inlay.engine.hooks.stages.is_main"),
    "mmengine.master_only": same("inlay.engine.hooks.stages.main_only"),
    "mmengine.print_log": same("inlay.engine.hooks.stages.print_log"),
}

MODULES: dict[str, frozenset[str]] = {
    "mmengine": words(
        "config dataset dist hook hooks logging optim optimizer registry runner sampler scheduler "
        "utils vis_backend visualization visualizer loops base_loop lr_scheduler checkpoint_hook "
        "amp_optimizer_wrapper optimizer_wrapper logger_hook log_processor root"
    ),
    "mmcv": words("runner hooks hook"),
}
"""Parts of the names of modules that are served, by package."""
