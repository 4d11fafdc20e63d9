"""Configs of the originals for tests: printed ones, F-LMM's of all families, a short one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PRINTED = Path(__file__).parent / "config" / "printed"
PSYCHOLOGY = PRINTED / "internlm2_chat_1_8b_qlora_emo_e3.py"
IDENTITY = PRINTED / "internlm2_chat_1_8b_qlora_alpaca_e3_copy.py"
LLAVA = (
    PRINTED / "llava_internlm2_chat_1_8b_qlora_clip_vit_large_p14_336_lora_e1_gpu8_finetune_copy.py"
)
FLMM = PRINTED / "frozen_deepseek_vl_1_3b_chat_unet_sam_l_refcoco_png.py"
ALL = [PSYCHOLOGY, IDENTITY, LLAVA, FLMM]

SFT = """
from datasets import load_dataset
from mmengine.optim import AmpOptimWrapper
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, AutoTokenizer
from xtuner.dataset import process_hf_dataset
from xtuner.dataset.map_fns import alpaca_map_fn, template_map_fn_factory
from xtuner.engine.runner import TrainLoop
from xtuner.model import SupervisedFinetune
from xtuner.utils import PROMPT_TEMPLATE

path = "org/model"
prompt_template = PROMPT_TEMPLATE.vicuna
tokenizer = dict(type=AutoTokenizer.from_pretrained, pretrained_model_name_or_path=path)
model = dict(
    type=SupervisedFinetune,
    llm=dict(type=AutoModelForCausalLM.from_pretrained, pretrained_model_name_or_path=path),
)
train_dataset = dict(
    type=process_hf_dataset,
    dataset=dict(type=load_dataset, path="tatsu-lab/alpaca"),
    tokenizer=tokenizer,
    max_length=64,
    dataset_map_fn=alpaca_map_fn,
    template_map_fn=dict(type=template_map_fn_factory, template=prompt_template),
)
train_dataloader = dict(batch_size=2, dataset=train_dataset)
optim_wrapper = dict(type=AmpOptimWrapper, optimizer=dict(type=AdamW, lr=1e-4))
train_cfg = dict(type=TrainLoop, max_epochs=2)
"""
"""A short config for XTuner."""

_FAMILY = "from deepseek_vl.models import MultiModalityCausalLM, VLMImageProcessor\n"
_FROZEN = "from flmm.models.frozen_deepseek_vl import FrozenDeepseekVLSAM\n"
_MODEL = """    model=dict(type=MultiModalityCausalLM.from_pretrained,
               pretrained_model_name_or_path=deepseek_vl_name,
               torch_dtype=torch.bfloat16, low_cpu_mem_usage=True),
"""
_PROCESSOR = """    type=VLMImageProcessor.from_pretrained,
    pretrained_model_name_or_path=deepseek_vl_name)
"""
_TEMPLATES = "from xtuner.utils.templates import PROMPT_TEMPLATE\n"
_TOKEN = ",\n            image_token=image_token)"
_PNG_TOKEN = ",\n         image_token=image_token)"
_ADDED = ",\n            add_image_token=True)"


def _prompt(name: str, hub: str, template: str) -> list[tuple[str, str]]:
    """What all other families have in common: a named template, one image token in the prompt."""
    return [
        ("'<image_placeholder>'*576 + ", "'<image>\\n' + "),
        ("deepseek_vl_name", f"{name}_name"),
        ('"deepseek-ai/deepseek-vl-1.3b-chat"', f"'{hub}'"),
        ("import torch\n", f"import torch\n{_TEMPLATES}"),
        ("prompt = ", f"prompt_template = PROMPT_TEMPLATE.{template}\nprompt = "),
        (_TOKEN, ")"),
        (_PNG_TOKEN, ")"),
    ]


def _llava(module: str, model: str, processors: str, processor: str) -> list[tuple[str, str]]:
    return [
        (_FAMILY, f"from llava.{module} import {model}\n"),
        (_FROZEN, f"from flmm.datasets.{processors} import {processor}\n{_FROZEN}"),
        ("MultiModalityCausalLM", model),
        ("VLMImageProcessor", processor),
        ("    tokenizer=tokenizer,\n    loss_mask", "    loss_mask"),
    ]


_MGM_MODEL = """    model=dict(type=MGMLlamaForCausalLM.from_pretrained,
               pretrained_model_name_or_path=mgm_name,
               mm_vision_tower='openai/clip-vit-large-patch14-336',
               mm_vision_tower_aux='laion/CLIP-convnext_large_d_320.laion2B-s29B-b131K-ft-soup',
               torch_dtype=torch.bfloat16,
               low_cpu_mem_usage=True),
"""
_HPT_MODEL = """    llm=dict(type=AutoModelForCausalLM.from_pretrained,
             pretrained_model_name_or_path=hpt_name,
             torch_dtype=torch.bfloat16, low_cpu_mem_usage=True, subfolder='llm',
             trust_remote_code=True, use_safetensors=True),
    visual_encoder=dict(type=SiglipVisionModel.from_pretrained,
                        pretrained_model_name_or_path=hpt_name,
                        subfolder='visual_encoder', torch_dtype=torch.bfloat16),
    projector=dict(type=AutoModel.from_pretrained,
                   pretrained_model_name_or_path=hpt_name, subfolder='projector',
                   use_safetensors=True, trust_remote_code=True, torch_dtype=torch.bfloat16),
    image_size=448,
"""
_HPT_PROCESSOR = """    type=CustomHPT15ImageProcessor.from_pretrained,
    pretrained_model_name_or_path=hpt_name,
    subfolder='visual_encoder',
    size={"height": 448, "width": 448})
"""

FAMILIES: dict[str, list[tuple[str, str]]] = {
    "frozen_deepseek_vl_7b_chat_unet_sam_l_refcoco_png": [("1.3b", "7b")],
    "frozen_llava_1_5_vicuna_7b_unet_sam_l_refcoco_png": [
        (_PROCESSOR, _PROCESSOR.replace("deepseek_vl_name", "'openai/clip-vit-large-patch14-336'")),
        *_llava(
            "modeling_llava",
            "CustomLlavaForConditionalGeneration",
            "llava_processors",
            "CustomLlavaImageProcessor",
        ),
        ("frozen_deepseek_vl", "frozen_llava"),
        ("FrozenDeepseekVL", "FrozenLlava"),
        *_prompt("llava", "llava-hf/llava-1.5-7b-hf", "vicuna"),
    ],
    "frozen_llava_next_mistral_7b_unet_sam_l_refcoco_png": [
        *_llava(
            "modeling_llava_next",
            "CustomLlavaNextForConditionalGeneration",
            "llava_next_processors",
            "CustomLlavaNextImageProcessor",
        ),
        ("frozen_deepseek_vl", "frozen_llava_next"),
        ("FrozenDeepseekVL", "FrozenLlavaNext"),
        ("         prompt=prompt,\n         image_token", "         image_token"),
        *_prompt("llava", "llava-hf/llava-v1.6-mistral-7b-hf", "mistral"),
    ],
    "frozen_mgm_vicuna_7b_hd_unet_sam_l_refcoco_png": [
        (
            _FAMILY,
            "from mgm.model import MGMLlamaForCausalLM\n"
            "from flmm.datasets.pad2square_processor import Pad2Square\n",
        ),
        (_MODEL, _MGM_MODEL),
        (_PROCESSOR, "    type=Pad2Square)\n"),
        ("frozen_deepseek_vl", "frozen_mgm"),
        ("FrozenDeepseekVL", "FrozenMGM"),
        ("    tokenizer=tokenizer,\n    loss_mask", "    loss_mask"),
        (_TOKEN, ",\n            image2tensor=False,\n            add_image_token=True)"),
        (_PNG_TOKEN, ",\n         image2tensor=False,\n         add_image_token=True)"),
        *_prompt("mgm", "YanweiLi/MGM-7B-HD", "vicuna")[:-2],
    ],
    "frozen_hpt_air_1_5_unet_sam_l_refcoco_png": [
        (
            _FAMILY,
            "from transformers import AutoModel, AutoModelForCausalLM\n"
            "from hpt.modeling_siglip import SiglipVisionModel\n"
            "from flmm.datasets.hpt_processors import CustomHPT15ImageProcessor\n",
        ),
        (_MODEL, _HPT_MODEL),
        (_PROCESSOR, _HPT_PROCESSOR),
        (
            "    pretrained_model_name_or_path=deepseek_vl_name)\n",
            "    pretrained_model_name_or_path=hpt_name, subfolder='llm',\n"
            "    trust_remote_code=True, encode_special_tokens=True)\n",
        ),
        ("frozen_deepseek_vl", "frozen_hpt"),
        ("FrozenDeepseekVL", "FrozenHPT"),
        ("    tokenizer=tokenizer,\n    loss_mask", "    loss_mask"),
        (_TOKEN, _ADDED),
        (_PNG_TOKEN, ",\n         add_image_token=True)"),
        *_prompt("hpt", "HyperGAI/HPT1_5-Air-Llama-3-8B-Instruct-multimodal", "llama3_chat")[:-2],
    ],
}
"""By the name of the published config: what differs in it from the one on DeepSeek-VL-1.3B."""


def family(name: str) -> str:
    """The text of a published F-LMM config."""
    text = FLMM.read_text(encoding="utf-8")
    for old, new in FAMILIES[name]:
        assert old in text, f"'{old}' is not in the config of {name}"
        text = text.replace(old, new)
    return text


def errors(cfg: Any) -> list[str]:
    """What `inlay check` calls an error."""
    from inlay.config.check import check_config

    return [str(p) for p in check_config(cfg) if p.severity == "error"]
