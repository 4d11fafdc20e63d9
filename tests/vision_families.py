"""Tiny model folders of HF's vision-language families: real processor classes, little pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sights
import torch
import transformers as hf

IMAGE = {"image_token": "<image>"}
QWEN = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_bos_token": "<|vision_start|>",
    "vision_eos_token": "<|vision_end|>",
}
SPLIT = {
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "end_of_utterance_token": "<end_of_utterance>",
    "global_image_token": "<global-img>",
    **{f"r{i}c{j}": f"<row_{i}_col_{j}>" for i in range(1, 5) for j in range(1, 5)},
}
SQUARE = {"height": 56, "width": 56}
CROP = {"size": {"shortest_edge": 56}, "crop_size": SQUARE}
GRIDS = {"image_grid_pinpoints": [[56, 56], [56, 112], [112, 56], [112, 112], [168, 56]]}
SPLIT_SIZES = {"size": {"longest_edge": 224}, "max_image_size": {"longest_edge": 56}}
LLAVA = {
    "patch_size": 14,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
}

FAMILIES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any], dict[str, str]]] = {
    # name: processor class, image processor class and settings, text settings, special tokens
    "qwen2_vl": ("Qwen2VLProcessor", "Qwen2VLImageProcessorPil", {}, {}, QWEN),
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", "Qwen2VLImageProcessorPil", {}, {}, QWEN),
    "qwen3_vl": ("Qwen3VLProcessor", "Qwen2VLImageProcessorPil", {"patch_size": 16}, {}, QWEN),
    "internvl": (
        "InternVLProcessor",
        "GotOcr2ImageProcessorPil",
        {"size": {"height": 28, "width": 28}, "crop_to_patches": True},
        {"image_seq_length": 4},
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    ),
    "smolvlm": (
        "SmolVLMProcessor",
        "SmolVLMImageProcessorPil",
        SPLIT_SIZES,
        {"image_seq_len": 4},
        SPLIT,
    ),
    "idefics3": (
        "Idefics3Processor",
        "Idefics3ImageProcessorPil",
        SPLIT_SIZES,
        {"image_seq_len": 4},
        SPLIT,
    ),
    "gemma3": (
        "Gemma3Processor",
        "Gemma3ImageProcessorPil",
        {"size": SQUARE},
        {"image_seq_length": 4},
        {
            "image_token": "<image_soft_token>",
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "sot_token": "<start_of_turn>",
            "eot_token": "<end_of_turn>",
        },
    ),
    "llava": ("LlavaProcessor", "LlavaImageProcessorPil", CROP, LLAVA, IMAGE),
    "llava_next": (
        "LlavaNextProcessor",
        "LlavaNextImageProcessorPil",
        {**CROP, **GRIDS},
        LLAVA,
        IMAGE,
    ),
    "llava_onevision": (
        "LlavaOnevisionProcessor",
        "LlavaOnevisionImageProcessorPil",
        {"size": SQUARE, **GRIDS},
        {"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
        {**IMAGE, "video_token": "<video>"},
    ),
    "deepseek_vl": (
        "DeepseekVLProcessor",
        "DeepseekVLImageProcessorPil",
        {"size": SQUARE},
        {"num_image_tokens": 16},
        IMAGE,
    ),
    "deepseek_vl_hybrid": (
        "DeepseekVLHybridProcessor",
        "DeepseekVLHybridImageProcessorPil",
        {"size": SQUARE, "high_res_size": {"height": 112, "width": 112}},
        {"num_image_tokens": 16},
        IMAGE,
    ),
}

WITH_VIDEO = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "smolvlm", "llava_onevision"}
"""Families whose processor has a video part, which needs torchvision."""

_CHATML = """{%- for m in messages %}<|im_start|>{{ m.role }}
{% for part in m.content %}{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}
{%- endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
_QWEN3 = _CHATML.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
_QWEN2 = """{%- if messages[0].role != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}""" + _QWEN3.removeprefix("{%-").join(["{%", ""])
_IDEFICS = """<|im_start|>{% for m in messages %}{{ m.role | capitalize }}
{%- if m.content[0].type == 'image' %}:{% else %}{{ ': ' }}{% endif %}
{%- for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% else %}<image>{% endif %}
{%- endfor %}<end_of_utterance>
{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"""
_GEMMA = """{{ bos_token }}{% if messages[0].role == 'system' %}
{%- set first = messages[0].content[0].text + '\n\n' %}{% set rest = messages[1:] %}
{%- else %}{% set first = '' %}{% set rest = messages %}{% endif %}
{%- for m in rest %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}
{{ first if loop.first else '' }}
{%- for part in m.content %}{% if part.type == 'image' %}<start_of_image>
{%- else %}{{ part.text | trim }}{% endif %}{% endfor %}<end_of_turn>
{% endfor %}{% if add_generation_prompt %}<start_of_turn>model
{% endif %}"""
_PICTURES = "{% for part in m.content if part.type == 'image' %}{{ '<image>\n' }}{% endfor %}"
_TEXTS = "{% for part in m.content if part.type == 'text' %}"
# the published one writes no end behind an answer, so that it cannot be trained on
_LLAVA = (
    "{% for m in messages %}{% if m.role != 'system' %}{{ m.role.upper() + ': ' }}{% endif %}"
    + _PICTURES
    + _TEXTS
    + "{{ part.text + ' ' }}{% endfor %}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    + "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
_LLAVA_NEXT = (
    "{% for m in messages %}{% if m.role == 'system' %}"
    "{{ '<<SYS>>\n' + m.content[0].text + '\n<</SYS>>\n\n' }}{% elif m.role == 'user' %}"
    "{{ '[INST] ' }}" + _PICTURES + _TEXTS + "{{ part.text }}{% endfor %}{{ ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content[0].text + eos_token }}{% endif %}{% endfor %}"
)
_ONEVISION = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + ' ' }}"
    + _PICTURES
    + "{% if m.role != 'assistant' %}"
    + _TEXTS
    + "{{ '\n' + part.text }}{% endfor %}{% else %}"
    + _TEXTS
    + "{% generation %}{{ '\n' + part.text }}{% endgeneration %}{% endfor %}{% endif %}"
    + "{{ '<|im_end|>' }}{% endfor %}"
    + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_DEEPSEEK = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content[0].text + '\n\n' }}"
    "{% else %}{{ m.role | capitalize + ': ' }}{% for part in m.content %}"
    "{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}"
    "{{ eos_token if m.role == 'assistant' else '\n\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
TEMPLATES = {
    "qwen2_vl": _QWEN2,
    "qwen2_5_vl": _QWEN2,
    "qwen3_vl": _QWEN3,
    "internvl": _CHATML.replace("IMAGE", "{{ '<IMG_CONTEXT>\\n' }}"),
    "smolvlm": _IDEFICS,
    "idefics3": _IDEFICS,
    "gemma3": _GEMMA,
    "llava": _LLAVA,
    "llava_next": _LLAVA_NEXT,
    "llava_onevision": _ONEVISION,
    "deepseek_vl": _DEEPSEEK,
    "deepseek_vl_hybrid": _DEEPSEEK,
}
"""Chat templates of the published models, in short."""

VIDEO = {"video_processor_type": "AnyVideoProcessor", "fps": 2}


def write_family(name: str, tokenizer: Path, folder: Path) -> Path:
    """Write the files of a family's processor, as a published model has them."""
    kind, image_kind, image_settings, text_settings, tokens = FAMILIES[name]
    getattr(hf, image_kind)(**image_settings).save_pretrained(folder)
    words = hf.AutoTokenizer.from_pretrained(tokenizer, extra_special_tokens=tokens)
    words.chat_template = TEMPLATES[name]
    words.save_pretrained(folder)
    processor = {"processor_class": kind, **text_settings}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    if name in WITH_VIDEO:
        (folder / "video_preprocessor_config.json").write_text(json.dumps(VIDEO))
    return folder


def fitted(name: str, processor: Any, vocab_size: int, **settings: Any) -> Any:
    """A tiny random model of a family for what its processor of this file makes."""
    config = sights.FAMILIES[name][0]()
    config.get_text_config().vocab_size = vocab_size
    if name in ("gemma3", "paligemma"):
        config.image_token_index = processor.image_token_id
    config.image_token_id = processor.image_token_id
    vision = config.vision_config
    if "qwen" in name:
        vision.patch_size = processor.processor.image_processor.patch_size
        vision.window_size = 4 * vision.patch_size
    elif name == "internvl":
        vision.image_size, vision.patch_size = [28, 28], [7, 7]
    else:
        vision.image_size, vision.patch_size = 56, 14
    if name in ("llava_next", "llava_onevision"):
        config.image_grid_pinpoints = GRIDS["image_grid_pinpoints"]
    if name == "deepseek_vl_hybrid":
        config.high_res_vision_config.image_size = 112
        config.high_res_vision_config.patch_size = 14
    for key, value in settings.items():
        setattr(config, key, value)
    torch.manual_seed(0)
    return sights.livelier(hf.AutoModelForImageTextToText.from_config(config))
