"""The demo's second act: the tiny VLM that ships with the package learns a new shape and its name.

Its starting weights and its rows are laid out by `inlay demo`.
"""

_base_ = [
    "../_base/settings_scenes.py",
    "../_base/model_scenes.py",
    "../_base/data_images.py",
    "../_base/optim.py",
    "../_base/runtime_images.py",
]

data_root = "eyes"
pretrained_pth = data_root + "/model"
val_fraction = 0.0
batch_size = 16
dataloader_num_workers = 0
max_epochs = 1
lr = 1e-3
warmup_ratio = 0.1
save_steps = 1000
evaluation_freq = 1000
evaluation_images = data_root + "/heart.png"
