"""The demo's third act: the tiny VLM learns to point, with a tiny SAM that has seen scenes.

Models and rows are laid out by `inlay demo`.
"""

_base_ = [
    "../_base/settings_scenes_grounding.py",
    "../_base/model_scenes_grounding.py",
    "../_base/data_scenes_grounding.py",
    "../_base/optim.py",
    "../_base/runtime_grounding.py",
]

data_root = "point"
data_path = data_root + "/seen.jsonl"  # captions that list everything are learned soonest
prompt = "<image>\ndescribe the picture."
pretrained_model_name_or_path = data_root + "/model"
sam_checkpoint = data_root + "/sam"
freeze_sam_encoder = True
warmup_ratio = 0.1
save_steps = 1000
