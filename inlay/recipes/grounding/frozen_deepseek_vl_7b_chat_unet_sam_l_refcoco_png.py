"""DeepSeek-VL-7B: the published recipe of F-LMM; 30 x 32 = 960 maps of 24 x 24."""

from inlay.models import DeepSeekVLAdapter

_base_ = [
    "../_base/settings_grounding_padded.py",
    "../_base/tokenizer_grounding_padded.py",
    "../_base/model_grounding.py",
    "../_base/data_grounding.py",
    "../_base/optim.py",
    "../_base/runtime_grounding.py",
]

pretrained_model_name_or_path = "deepseek-ai/deepseek-vl-7b-chat"
adapter = DeepSeekVLAdapter
image_token = "<image_placeholder>"
prompt = "<image_placeholder>Please give me a description of the image."
prompt_template = dict(
    SYSTEM="",
    INSTRUCTION="User: {input}\n\nAssistant:",
    SUFFIX="<｜end▁of▁sentence｜>",
    SUFFIX_AS_EOS=True,
    SEP="\n",
    STOP_WORDS=["<｜end▁of▁sentence｜>"],
)
high_resolution = 1024
high_res_mean = (0.48145466, 0.4578275, 0.40821073)
high_res_std = (0.26862954, 0.26130258, 0.27577711)
