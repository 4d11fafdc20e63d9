"""PART 1 where the model's own processor prepares the pictures."""

_base_ = ["settings_grounding.py"]

#######################################################################
#                           PART 1  Settings                          #
#######################################################################
# Pictures
min_pixels = None  # px of a picture; smaller ones are enlarged. None: the model's own limit
max_pixels = None  # px of a picture; larger ones are shrunk
