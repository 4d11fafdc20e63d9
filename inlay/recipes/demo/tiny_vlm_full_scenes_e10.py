"""The tiny VLM that ships with the package, from random weights, on what `inlay scenes` draws."""

_base_ = [
    "../_base/settings_scenes.py",
    "../_base/model_scenes.py",
    "../_base/data_images.py",
    "../_base/optim.py",
    "../_base/runtime_images.py",
]
