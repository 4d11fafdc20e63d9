"""F-LMM in Inlay's terms, with the names of mmdet, mmseg and the model families in its configs."""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from typing import Any

from inlay.config.compat_libraries import tokenizer_of
from inlay.config.compat_names import At, Name, Node, converted, left_out, words
from inlay.config.compat_xtuner import concatenated

_SAM_SIDE = 1024  # px, of every published SAM
_PROMPT = "<image>\nWhat is shown in this image?"
_TRANSFORM = "RefCOCO2PNG"
_PIXELS = ("image2tensor", "add_image_token", "concat")
_ONE_LOSS = "The losses of F-LMM are fixed: BCE and naive Dice (eps 1), both with weight 1."
_LOSSES: dict[str, dict[str, Any]] = {
    "CrossEntropyLoss": {"use_sigmoid": True, "reduction": "mean", "loss_weight": 1.0},
    "DiceLoss": {
        "use_sigmoid": True,
        "activate": True,
        "reduction": "mean",
        "naive_dice": True,
        "eps": 1.0,
        "loss_weight": 1.0,
    },
}
_ADAPTERS = {
    "FrozenDeepseekVL": "DeepSeekVLAdapter",
    "FrozenLlava": "LLaVAAdapter",
    "FrozenLlavaNext": "LLaVANextAdapter",
    "FrozenMGM": "MGMAdapter",
    "FrozenHPT": "HPTAdapter",
}


# -- model -----------------------------------------------------------------------------------


def frozen(node: Node, at: At) -> Node:
    """``FrozenXSAM`` and ``FrozenX``: an adapter, a mask head, and SAM where there is one."""
    family = at.name(node).removesuffix("SAM")
    taken = ("type", "model", "sam", "mask_head", "tokenizer", "loss_mask", "loss_dice", "merge")
    hpt = ("llm", "visual_encoder", "projector", "image_size", "visual_select_layer")
    for key in ("loss_mask", "loss_dice"):
        _check_loss(node, key, at)
    if node.get("pretrained"):
        at.refuse("pretrained", "None", repr(node["pretrained"]), "Set load_from to this file.")
    new: Node = {
        "type": "inlay.models.FrozenGrounding",
        "lmm": _adapter(node, family, at),
        "image_processor": _picture_node(at).get("image_processor"),
        "mask_head": node.get("mask_head"),
        "refiner": node.get("sam"),
    }
    if "merge" in node:
        new["merge"] = node["merge"]
    left = (*taken, *(hpt if family == "FrozenHPT" else ()), "pretrained")
    return new | {k: v for k, v in node.items() if k not in left}


def _adapter(node: Node, family: str, at: At) -> Node:
    base = node.get("llm" if family == "FrozenHPT" else "model") or {}
    lmm: Node = {"type": f"inlay.models.{_ADAPTERS[family]}.from_pretrained"}
    lmm["pretrained_model_name_or_path"] = base.get("pretrained_model_name_or_path")
    for old, new in (
        ("torch_dtype", "dtype"),
        ("mm_vision_tower", "vision_tower"),
        ("mm_vision_tower_aux", "vision_tower_aux"),
    ):
        if base.get(old) is not None:
            lmm[new] = base[old]
    if family == "FrozenHPT" and node.get("image_size"):
        lmm["image_size"] = node["image_size"]
    for key in base.keys() - _LOADER:
        at.refuse(f"model.{key}", "nothing (the adapter loads the model)", repr(base[key]))
    return lmm


_LOADER = words(
    "type pretrained_model_name_or_path torch_dtype low_cpu_mem_usage mm_vision_tower "
    "mm_vision_tower_aux use_safetensors subfolder trust_remote_code"
)
"""Arguments of a model's node that its adapter knows or does without."""


def _check_loss(node: Node, key: str, at: At) -> None:
    loss = node.get(key)
    if not isinstance(loss, dict):
        return
    usual = _LOSSES.get(at.name(loss), {})
    for name, value in loss.items():
        if name != "type" and usual.get(name, value) != value:
            at.refuse(f"{key}.{name}", repr(usual[name]), repr(value), _ONE_LOSS)


def mask_head(node: Node, at: At) -> Node:
    """``UNetHead``: its channels are the model's to set, its layers are fixed."""
    if at.name(node.get("norm_cfg", {"type": "GroupNorm"})) != "GroupNorm" or (
        isinstance(node.get("norm_cfg"), dict) and node["norm_cfg"].get("num_groups", 1) != 1
    ):
        at.refuse("norm_cfg", "dict(type=GroupNorm, num_groups=1)", repr(node["norm_cfg"]))
    if at.name(node.get("upsample_cfg", {"type": "InterpConv"})) != "InterpConv":
        at.refuse("upsample_cfg", "dict(type=InterpConv)", repr(node["upsample_cfg"]))
    left = ("norm_cfg", "upsample_cfg", "in_channels")
    return {**{k: v for k, v in node.items() if k not in left}, "type": "inlay.models.UNetHead"}


# -- pictures --------------------------------------------------------------------------------


def padded_pictures(node: Node, at: At) -> Node:
    """Processors that resize the longest side and pad the rest: DeepSeek-VL, LLaVA, HPT."""
    new: Node = {"type": "inlay.data.load_padded_processor", "tokenizer": tokenizer_of(at)}
    size = node.get("size") or {}
    for key in ("pretrained_model_name_or_path", "subfolder"):
        if node.get(key):
            new[key] = node[key]
    side = node.get("image_size") or size.get("shortest_edge") or size.get("height")
    if side:
        new["image_size"] = side
    if token := _picture_node(at).get("image_token"):
        new["image_token"] = token
    return new


def tiled_pictures(node: Node, at: At) -> Node:
    """LLaVA-Next's own processor."""
    path = node.get("pretrained_model_name_or_path")
    return {
        "type": "inlay.data.HFImageProcessor",
        "path_or_processor": path,
        "tokenizer": tokenizer_of(at),
    }


def mgm_pictures(node: Node, at: At) -> Node:
    """``Pad2Square``: MGM's sizes stand in its model's folder."""
    found = at.values.get("model")
    model = found.get("model") if isinstance(found, dict) else None
    base = model if isinstance(model, dict) else {}
    new = {
        "type": "inlay.data.MGMImageProcessor",
        "tokenizer": tokenizer_of(at),
        "model": base.get("pretrained_model_name_or_path"),
    }
    return new | ({"vision_tower": base["mm_vision_tower"]} if "mm_vision_tower" in base else {})


def _picture_node(at: At) -> Node:
    """The node of the training data that names the image processor, prompt and template.

    RefCOCO's is taken first: its prompt is the one that F-LMM evaluates with.
    """
    nodes = [*at.nodes(_TRANSFORM), *at.nodes("PNGDataset")]
    return next((n for n in nodes if n.get("image_processor") is not None), {})


# -- data ------------------------------------------------------------------------------------


def png(node: Node, at: At) -> Node:
    """``PNGDataset``, alone or in a concatenation."""
    words = ("tokenizer", "image_processor", "prompt_template", "prompt", "image_token")
    left = ("type", *words, *_PIXELS)
    source = {"type": "inlay.data.PNG", **{k: v for k, v in node.items() if k not in left}}
    return _grounding(source, node, at)


def refcoco(node: Node, at: At) -> Node:
    """``RefCocoDataset`` of mmdet with F-LMM's pipeline: paths start at ``data_root``."""
    root = PurePosixPath(node.get("data_root") or "")
    prefix = node.get("data_prefix") or {}
    source: Node = {
        "type": "inlay.data.RefCOCO",
        "instances": str(root / str(node.get("ann_file", ""))),
        "refs": str(root / str(node.get("split_file", ""))),
        "image_folder": str(root / str(prefix.get("img_path", ""))),
    }
    if node.get("split"):
        source["split"] = node["split"]
    pipeline = [step for step in node.get("pipeline") or [] if isinstance(step, dict)]
    mapping = next((m for step in pipeline if (m := _mapping(step))), None)
    if mapping:
        source["path_mapping"] = mapping
    source |= {k: v for k, v in node.items() if k not in _REFCOCO}
    words = next((step for step in pipeline if at.name(step) == _TRANSFORM), {})
    return _grounding(source, words, at)


_REFCOCO = words(
    "type data_root data_prefix ann_file split_file split pipeline text_mode backend_args"
)


def _mapping(step: Node) -> Any:
    backend = step.get("backend_args") or step.get("file_client_args")
    return backend.get("path_mapping") if isinstance(backend, dict) else None


def _grounding(source: Node, words: Node, at: At) -> Node:
    """One source as a data set. Prompt, template and processor are those of ``_picture_node``."""
    common = _picture_node(at)
    prompt = common.get("prompt", _PROMPT)
    if words.get("prompt", _PROMPT) != prompt:
        at.note("prompt", f"all data sets are asked {prompt!r}, as F-LMM's evaluation is")
    token = common.get("image_token", "<image>")
    new: Node = {
        "type": "inlay.data.GroundingDataset",
        "sources": [source],
        "tokenizer": tokenizer_of(at),
        "image_processor": common.get("image_processor"),
        "template": common.get("prompt_template"),
        "prompt": re.sub(f"(?:{re.escape(token)})+", token, prompt),
    }
    model = at.values.get("model")
    if isinstance(model, dict) and model.get("sam"):
        new["picture_size"] = _SAM_SIDE
    return new


_SAM = Name(
    "inlay.models.SamRefiner.from_pretrained",
    drop={"model_name": ""},
)
_STEPS = ("PILLoadImageFromFile", "RefCOCO2PNG")

NAMES: dict[str, Name] = {
    **{f"flmm.{name}{sam}": converted(frozen) for name in _ADAPTERS for sam in ("", "SAM")},
    "flmm.UNetHead": converted(mask_head),
    "flmm.SAMWrapper": _SAM,
    "flmm.PNGDataset": converted(png),
    "flmm.concat_datasets": converted(concatenated),
    "flmm.custom_collate_fn": left_out(),
    **{f"flmm.{name}": left_out() for name in _STEPS},
    "flmm.Pad2Square": converted(mgm_pictures),
    **{
        f"flmm.Custom{name}ImageProcessor": left_out()
        for name in ("Llava", "LlavaNext", "HPT", "HPT15")
    },
    **{
        f"flmm.Custom{name}ImageProcessor.from_pretrained": converted(padded_pictures)
        for name in ("Llava", "HPT", "HPT15")
    },
    "flmm.CustomLlavaNextImageProcessor.from_pretrained": converted(tiled_pictures),
    "deepseek_vl.VLMImageProcessor": left_out(),
    "deepseek_vl.VLMImageProcessor.from_pretrained": converted(padded_pictures),
    # models that adapters load
    **{
        f"{name}{method}": left_out()
        for method in ("", ".from_pretrained")
        for name in (
            "deepseek_vl.MultiModalityCausalLM",
            "llava.CustomLlavaForConditionalGeneration",
            "llava.CustomLlavaNextForConditionalGeneration",
            "hpt.SiglipVisionModel",
            "mgm.MGMGemmaForCausalLM",
            "mgm.MGMLlamaForCausalLM",
        )
    },
    "mmdet.RefCocoDataset": converted(refcoco),
    "mmdet.LoadAnnotations": left_out(),
    "mmdet.CrossEntropyLoss": left_out(),
    "mmdet.DiceLoss": left_out(),
    "mmseg.InterpConv": left_out(),
}

REASONS: dict[str, str] = {
    "deepseek_vl.VLChatProcessor": "a chat is opened by `inlay chat`",
    "segment_anything.sam_model_registry": "SAMWrapper loads SAM by its checkpoint",
}
"""Names that are known and have no counterpart, and why."""

MODULES: dict[str, frozenset[str]] = {
    "flmm": words(
        "datasets png transforms llava_processors llava_next_processors hpt_processors "
        "pad2square_processor models frozen_deepseek_vl frozen_llava frozen_llava_next frozen_mgm "
        "frozen_hpt mask_head mask_decoder mask_refiner"
    ),
    "mmdet": words("datasets transforms models losses refcoco loading"),
    "mmseg": words("models backbones unet"),
    "deepseek_vl": words("models modeling_vlm image_processing_vlm processing_vlm"),
    "segment_anything": words(""),
    "llava": words("modeling_llava modeling_llava_next"),
    "hpt": words("modeling_siglip"),
    "mgm": words("model"),
}
