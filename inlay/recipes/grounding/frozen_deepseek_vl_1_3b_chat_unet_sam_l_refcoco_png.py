"""DeepSeek-VL-1.3B: the published recipe of F-LMM; 24 x 16 = 384 maps of 24 x 24."""

from inlay.models import DeepSeekVLAdapter

_base_ = [
    "../_base/settings_grounding_padded.py",
    "../_base/tokenizer_grounding_padded.py",
    "../_base/model_grounding.py",
    "../_base/data_grounding.py",
    "../_base/optim.py",
    "../_base/runtime_grounding.py",
]

pretrained_model_name_or_path = "deepseek-ai/deepseek-vl-1.3b-chat"
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
