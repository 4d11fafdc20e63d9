"""`inlay train`: a config becomes a run."""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from inlay.app import assemble, tracking, workdir
from inlay.app.check_run import check_run
from inlay.app.evaluate.jobs import pick_up
from inlay.app.feature_cache import check_room
from inlay.app.foreign_start import (
    find_foreign,
    load_foreign_weights,
    read_foreign,
    resume_foreign,
)
from inlay.app.late_compile import compile_at_first_call
from inlay.app.memory import shortage as out_of_memory
from inlay.app.names import register_names
from inlay.config import run_name
from inlay.config.check import format_problems
from inlay.config.dump import dump_resolved
from inlay.config.load import load_config
from inlay.config.schema import DistCfg
from inlay.convert.flmm import check_lmm
from inlay.convert.foreign import Foreign, find_original
from inlay.core import dist
from inlay.core.errors import CheckpointError, ConfigError
from inlay.core.secrets import redact
from inlay.engine import checkpoint as ckpt
from inlay.engine import resume as resume_rules
from inlay.engine import rng
from inlay.engine.optim import build_optimizer
from inlay.engine.parallel import watch
from inlay.engine.runner import EXIT_CODES, Runner
from inlay.engine.schedule import try_out
from inlay.engine.trackers import Visualizer

HEARTBEAT_TIMEOUT = DistCfg().heartbeat_timeout


@dataclass
class TrainOptions:
    """What the command line adds to a config.

    Attributes:
        work_dir: option > config > ``./work_dirs/<config stem>``.
        resume: ``"auto"`` for the newest valid checkpoint, a path, or None.
        seed: overrides ``randomness.seed``.
        allow_change: identity keys that may differ from the checkpoint's.
        strategy: how several devices share the run, in place of the config's.
        track: trackers besides the config's, see ``tracking.TRACKERS``.
    """

    work_dir: str | None = None
    resume: str | None = None
    seed: int | None = None
    cfg_options: Sequence[str] = ()
    allow_change: list[str] = field(default_factory=list)
    strategy: Any = None
    track: Sequence[str] = ()


def checked_config(config: str, options: Sequence[str]) -> Any:
    """Load a config and stop on every problem it has, missing files included.

    Raises:
        ConfigError: all problems at once.
    """
    register_names()
    with compile_at_first_call():
        cfg = load_config(config, options)
    errors = [p for p in check_run(cfg, files="error") if p.severity == "error"]
    if errors:
        raise ConfigError(format_problems(errors))
    return cfg


def train(config: str, options: TrainOptions) -> int:
    """Run ``config`` to its end, or until a signal. Returns the exit code."""
    cfg = checked_config(config, options.cfg_options)
    trackers = tracking.choose_trackers(cfg, options.track)
    device = start_process(cfg)
    work_dir = Path(options.work_dir or cfg.get("work_dir") or Path("work_dirs") / cfg.name)
    lock = workdir.claim(work_dir) if dist.rank() == 0 else None
    try:
        with out_of_memory.explained(config, options, cfg, work_dir):
            return _run(cfg, options, device, work_dir, trackers)
    except (Exception, KeyboardInterrupt) as error:
        workdir.log_end(error)
        raise
    finally:
        if lock is not None:
            lock.close()
        end_process()


def _run(
    cfg: Any, options: TrainOptions, device: torch.device, work_dir: Path, trackers: Visualizer
) -> int:
    """Start, or start again, and train. Returns the exit code."""
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
    source, weights_only, notes = _source(cfg, options, work_dir)
    saved = _read(source, weights_only)
    seed = _seed(cfg, options, saved if not weights_only else None)
    log_dir = workdir.new_log_dir(work_dir) if dist.rank() == 0 else None
    logger = workdir.open_log(log_dir, dist.rank(), cfg.get("log_level") or "INFO")
    for note in notes:
        logger.warning(note)
    runner = build_runner(cfg, seed, device, work_dir, log_dir, logger, options.strategy)
    _start_from(runner, source, saved, weights_only, options, work_dir)
    kept = saved.state if isinstance(saved, ckpt.Checkpoint) and not weights_only else {}
    _name(runner, cfg, kept)
    try:
        if runner.rank == 0:
            tracking.open_trackers(runner, trackers, cfg, "run_id" in kept)
        return _finish(runner, cfg, log_dir)
    finally:
        tracking.close_trackers(runner)


def _finish(runner: Runner, cfg: Any, log_dir: Path | None) -> int:
    """Train what is left to train. Returns the exit code."""
    if runner.state.iter >= runner.max_iters and not runner.owes_validation():
        runner.logger.info("nothing left to do: all %d iterations are done", runner.max_iters)
        pick_up(runner)
        return 0
    check_room(runner)
    _write_configs(runner, cfg, log_dir)
    # What start-up has built lives to the end: the collector need not look at it again.
    gc.freeze()
    return EXIT_CODES.get(runner.train() or "", 0)


def start_process(cfg: Any) -> torch.device:
    """Pick this rank's device, join the process group, set what ``env_cfg`` asks for."""
    env = cfg.get("env_cfg") or {}
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", dist.local_rank()) if has_gpu else torch.device("cpu")
    if has_gpu:
        torch.cuda.set_device(device)
        torch.backends.cudnn.benchmark = bool(env.get("cudnn_benchmark", False))
    if dist.world_size() > 1 and not torch.distributed.is_initialized():
        backend = (env.get("dist_cfg") or {}).get("backend", "nccl") if has_gpu else "gloo"
        torch.distributed.init_process_group(backend, timeout=rank_timeout(cfg))
        watch.start((env.get("dist_cfg") or {}).get("heartbeat_timeout", HEARTBEAT_TIMEOUT))
    if (cfg.get("randomness") or {}).get("deterministic"):
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    return device


def rank_timeout(cfg: Any) -> timedelta | None:
    """How long ranks wait for one another (``env_cfg.dist_cfg.timeout``); None is torch's own."""
    seconds = ((cfg.get("env_cfg") or {}).get("dist_cfg") or {}).get("timeout")
    return None if seconds is None else timedelta(seconds=seconds)


def end_process() -> None:
    """Leave the process group."""
    watch.stop()
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def build_runner(
    cfg: Any,
    seed: int,
    device: torch.device,
    work_dir: Path,
    log_dir: Path | None,
    logger: Any,
    wanted: Any = None,
) -> Runner:
    """Build all parts. Data first: a mistake there must not wait for the weights to load.

    Args:
        wanted: a strategy, in place of the config's.
    """
    parts = assemble.Parts(cfg, seed)
    train_loop = parts.train_loop()
    loaders = {mode: parts.loader(mode) for mode in ("train", "val")}
    optim, make, settings = parts.optim()
    schedules = parts.schedules()
    per_epoch = loaders["train"].iters_per_epoch or train_loop.max_iters
    total = train_loop.max_iters or train_loop.max_epochs * per_epoch
    try_out(schedules, per_epoch, total, optim.accumulative_counts)
    wanted = wanted or cfg.get("strategy")
    batch_size = loaders["train"].batch_size
    strategy = assemble.make_strategy(optim, device, logger, rank_timeout(cfg), wanted, batch_size)
    rng.seed_everything(seed)
    model = parts.model()
    assemble.check_context(model, loaders["train"].dataset)
    if (cfg.get("env_cfg") or {}).get("compile"):
        from inlay.models.compile import compile_blocks

        if not compile_blocks(model):
            logger.warning("env_cfg.compile: no transformer blocks found, nothing is compiled")
    identity = assemble.run_identity(loaders["train"], model, optim, make, seed)
    model = assemble.place_model(model, strategy)
    optimizer = build_optimizer(model, make, settings, optim.rates)
    return Runner(
        model=model,
        strategy=strategy,
        optimizer=optimizer,
        schedules=schedules,
        train_loader=loaders["train"],
        val_loader=loaders["val"],
        loop=train_loop,
        optim=optim,
        hooks=parts.hooks(),
        work_dir=work_dir,
        log_dir=log_dir,
        logger=logger,
        cfg=cfg,
        config_text=dump_resolved(cfg),
        identity=identity,
        seed=seed,
    )


def _source(cfg: Any, options: TrainOptions, work_dir: Path) -> tuple[Path | None, bool, list[str]]:
    """Where to start from: a checkpoint or None, whether only its weights count, and warnings."""
    load_from = cfg.get("load_from")
    wants = options.resume or ("auto" if cfg.get("resume") else None)
    if wants == "auto" and load_from and not options.resume:
        wants = load_from
    if wants == "auto":
        found, damaged = ckpt.newest_valid(work_dir)
        if damaged and found is None:
            raise CheckpointError(f"no usable checkpoint in {work_dir}: {'; '.join(damaged)}")
        if found := found or find_original(work_dir):
            return found, False, damaged
    elif wants:
        return find_foreign(wants) or ckpt.locate(wants), False, []
    else:
        workdir.refuse_used(work_dir)
    return (find_foreign(load_from) or ckpt.locate(load_from) if load_from else None), True, []


def _read(source: Path | None, weights_only: bool) -> ckpt.Checkpoint | Foreign | None:
    """Every rank reads the checkpoint, ours or of others, before anything slow is built.

    Raises:
        CheckpointError: it cannot be read, or it is to be resumed and holds nothing but weights.
    """
    if source is None:
        return None
    if find_foreign(source):
        return read_foreign(source, weights_only)
    saved = ckpt.read(source)
    if not weights_only and "run" not in saved.state:
        raise CheckpointError(
            f"{source} holds weights only, there is no run to resume. Start from it with "
            f"load_from: --cfg-options load_from={source}"
        )
    return saved


def _seed(cfg: Any, options: TrainOptions, saved: ckpt.Checkpoint | Foreign | None) -> int:
    """Option > config > the resumed run's > drawn. A resumed run keeps the order of its data."""
    for given in (options.seed, (cfg.get("randomness") or {}).get("seed")):
        if given is not None:
            return int(given)
    kept = saved.meta if isinstance(saved, Foreign) else saved.state if saved else {}
    if kept.get("seed") is not None:
        return int(kept["seed"])
    drawn = [int.from_bytes(os.urandom(4), "little") >> 1]
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(drawn, src=0)
    return drawn[0]


def _start_from(
    runner: Runner,
    source: Path | None,
    saved: ckpt.Checkpoint | Foreign | None,
    weights_only: bool,
    options: TrainOptions,
    work_dir: Path,
) -> None:
    """Restore the run, or its weights alone, and say so."""
    if source is None or saved is None:
        return
    if isinstance(saved, Foreign):
        if weights_only:
            load_foreign_weights(runner, saved)
        else:
            resume_foreign(runner, saved, options.allow_change)
        return
    if weights_only:
        check_lmm(saved.tensors["model"], dict(runner.model.named_parameters()), str(source))
        runner.load_weights(saved.tensors["model"], source)
        runner.logger.info("Loaded weights from %s", source)
        return
    changes = resume_rules.compare(
        saved.state, runner.plan(), runner.identity, options.allow_change
    )
    at = saved.state["run"]
    position = (
        f"continues at update {at['update']}, epoch {at['epoch'] + 1}, "
        f"item {at['position']} of {runner.train_dataloader.num_items}"
    )
    if changes:
        runner.logger.warning("The run has changed:\n%s", resume_rules.table(changes, position))
    resume_rules.refuse(changes, source)
    runner.restore(saved, source)
    is_auto = source.parent == work_dir and options.resume in (None, "auto")
    how = "Auto resumed from the latest checkpoint" if is_auto else "Resumed from checkpoint"
    runner.logger.info("%s %s. %s", how, source, position[0].upper() + position[1:])


def _name(runner: Runner, cfg: Any, kept: dict[str, Any]) -> None:
    """Give the run its id and the name of its template; a resumed one keeps those it has."""
    batch = runner.train_dataloader.batch_size * runner.world_size
    name = run_name.resolve(cfg, runner.world_size, batch * runner.optim.accumulative_counts)
    tracking.name_run(runner, name, kept)


def _write_configs(runner: Runner, cfg: Any, log_dir: Path | None) -> None:
    """``work_dir/<config>.py`` is the five-part file, ``vis_data/config.py`` the resolved one."""
    if log_dir is None:
        return
    source = redact(cfg.source, is_code=True)
    (runner.work_dir / f"{cfg.name}.py").write_text(source, encoding="utf-8")
    (log_dir / "vis_data" / "config.py").write_text(runner.config_text, encoding="utf-8")
