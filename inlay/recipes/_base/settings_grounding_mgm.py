"""PART 1 of MGM: the vision towers that its checkpoints are built on."""

_base_ = ["settings_grounding.py"]

#######################################################################
#                           PART 1  Settings                          #
#######################################################################
# Model
vision_tower = "openai/clip-vit-large-patch14-336"
vision_tower_aux = "laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup"
