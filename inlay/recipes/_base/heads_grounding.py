# ruff: noqa: F821 (a part of a config: its names are assigned by the other parts)
"""What learns to point, and what is kept on disk: mask head, SAM, cache of PART 2."""

from inlay.models import FeatureCache, SamRefiner, UNetHead

#######################################################################
#             PART 2  Model & Tokenizer & Image Processor             #
#######################################################################
unet = dict(
    type=UNetHead,  # its input channels are layers x heads x levels of the model's maps
    normalize_input=True,
    upsample_input=64,  # 24 x 24 maps become 64 x 64
    base_channels=64,
    num_stages=4,
)

sam = None
if sam_checkpoint:
    sam = dict(
        type=SamRefiner.from_pretrained,
        checkpoint=sam_checkpoint,
        use_text=True,
        use_mask=True,
        use_box=True,
        multimask_output=False,
    )

cache = None
if cache_dir:
    cache = dict(type=FeatureCache, folder=cache_dir, texts=cache_texts, precision=precision)
