"""`inlay test`: judge a checkpoint on held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inlay.app import assemble, tracking, workdir
from inlay.app.foreign_start import load_foreign_weights, read_weights
from inlay.app.train import checked_config, end_process, start_process
from inlay.core import dist
from inlay.core.errors import ConfigError
from inlay.engine.runner import Runner


def test(
    config: str, checkpoint: str | None, work_dir: str | None, cfg_options: Sequence[str]
) -> dict[str, float]:
    """Run ``test_dataloader`` (or ``val_dataloader``) once.

    Args:
        checkpoint: a checkpoint folder, or a file or folder of XTuner; None judges the model as the
            config builds it.

    Returns:
        ``loss``, ``perplexity``, ``units``, ``time``.

    Raises:
        ConfigError: the config has neither a test nor a validation loader.
    """
    cfg = checked_config(config, cfg_options)
    device = start_process(cfg)
    parts = assemble.Parts(cfg, seed=0)
    mode = "test" if cfg.get("test_dataloader") is not None else "val"
    loader = parts.loader(mode)
    if loader is None:
        raise ConfigError(
            f"{cfg.path}: nothing to test on. Set test_dataloader or val_dataloader (in a recipe: "
            "val_fraction=0.05)"
        )
    folder = Path(work_dir or cfg.get("work_dir") or Path("work_dirs") / cfg.name)
    saved = read_weights(checkpoint) if checkpoint else None
    log_dir = workdir.new_log_dir(folder) if dist.rank() == 0 else None
    logger = workdir.open_log(log_dir, dist.rank(), cfg.get("log_level") or "INFO")
    optim, _, _ = parts.optim()
    strategy = assemble.make_strategy(optim, device, logger)
    runner = Runner(
        model=assemble.place_model(parts.model(), strategy),
        strategy=strategy,
        test_loader=loader,
        loop=parts.train_loop(),
        optim=optim,
        hooks=parts.hooks(),
        work_dir=folder,
        log_dir=log_dir,
        logger=logger,
        cfg=cfg,
    )
    tracking.name_run(runner, None, {})
    if runner.rank == 0:
        tracking.open_trackers(runner, parts.visualizer(), cfg, False)
    if saved is not None:
        load_foreign_weights(runner, saved)
    try:
        return runner.test()
    finally:
        tracking.close_trackers(runner)
        end_process()
