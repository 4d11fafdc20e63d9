"""PART 1 where pictures are padded to a square: DeepSeek-VL, LLaVA-1.5."""

_base_ = ["settings_grounding.py"]

#######################################################################
#                           PART 1  Settings                          #
#######################################################################
# Pictures
image_token = "<image>"
image_size = 384  # px of the longest side, which becomes both sides
patch_size = 16  # px
min_size = 14  # px of the shortest side before it is padded
image_mean = (0.5, 0.5, 0.5)
image_std = (0.5, 0.5, 0.5)
high_resolution = None  # px of a second, larger view that the first one is made of
high_res_mean = None  # None: as of the first
high_res_std = None
