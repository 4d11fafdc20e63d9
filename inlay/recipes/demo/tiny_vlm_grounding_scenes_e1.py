"""The tiny VLM that ships with the package learns to point; its SAM learns from random weights."""

_base_ = [
    "../_base/settings_scenes_grounding.py",
    "../_base/model_scenes_grounding.py",
    "../_base/data_scenes_grounding.py",
    "../_base/optim.py",
    "../_base/runtime_grounding.py",
]
