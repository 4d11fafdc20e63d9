"""Hooks that ship with Inlay. Names are imported on first use."""

from __future__ import annotations

from typing import Any

_HOMES = {
    "Hook": "base",
    "IterTimerHook": "timer",
    "ThroughputHook": "timer",
    "LoggerHook": "logger",
    "CheckpointHook": "checkpoint",
    "EvaluateChatHook": "evaluate_chat",
    "EvaluationJobsHook": "evaluation_jobs",
    "DatasetInfoHook": "dataset_info",
    "StatisticsHook": "statistics",
    "EpochStatisticsHook": "epoch_statistics",
    "GroundingOverlayHook": "grounding_overlay",
    "PushToHubHook": "push_to_hub",
    "HFCheckpointHook": "hf_checkpoint",
    "StageHook": "stages",
    "ParamSchedulerHook": "markers",
    "DistSamplerSeedHook": "markers",
}
__all__ = [
    "CheckpointHook",
    "DatasetInfoHook",
    "DistSamplerSeedHook",
    "EpochStatisticsHook",
    "EvaluateChatHook",
    "EvaluationJobsHook",
    "GroundingOverlayHook",
    "HFCheckpointHook",
    "Hook",
    "IterTimerHook",
    "LoggerHook",
    "ParamSchedulerHook",
    "PushToHubHook",
    "StageHook",
    "StatisticsHook",
    "ThroughputHook",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'inlay.engine.hooks' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"inlay.engine.hooks.{_HOMES[name]}"), name)
