"""Tiny random MGM folders, written by the names of the published weights.

The names are those of the modules in the original code: MGM's own, CLIP's as transformers 4 saved
it, timm's for ConvNeXt.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sights
import torch
import transformers as T
from safetensors.torch import save_file

CLIP_SIDE, CLIP_PATCH, CLIP_WIDTH = 16, 4, 32  # 16 tokens a view
WIDTHS, DEPTHS = (4, 6, 8, 10), (1, 2, 1, 1)
LLM_WIDTH = 32
ROPE_THETA = 5000.0
Tensors = dict[str, torch.Tensor]


def clip(folder: Path) -> Path:
    """CLIP with its image processor."""
    sights.clip().save_pretrained(folder)
    crop = {"height": CLIP_SIDE, "width": CLIP_SIDE}
    processor = T.CLIPImageProcessorPil(size={"shortest_edge": CLIP_SIDE}, crop_size=crop)
    processor.save_pretrained(folder)
    return folder


def clip_tensors() -> Tensors:
    """The tower's weights as MGM's files call them."""
    tower = sights.livelier(sights.clip())
    own = {
        name.removeprefix("vision_model."): tensor for name, tensor in tower.state_dict().items()
    }
    return {
        f"model.vision_tower.vision_tower.vision_model.{name}": tensor
        for name, tensor in own.items()
    }


def convnext_tensors(stem: str, stages: str, seed: int = 0) -> Tensors:
    """ConvNeXt's weights by timm's names, after ``stem`` and ``stages``."""
    shapes: dict[str, tuple[int, ...]] = {
        f"{stem}.0.weight": (WIDTHS[0], 3, 4, 4),
        f"{stem}.0.bias": (WIDTHS[0],),
        f"{stem}.1.weight": (WIDTHS[0],),
        f"{stem}.1.bias": (WIDTHS[0],),
    }
    for i, (width, depth) in enumerate(zip(WIDTHS, DEPTHS, strict=True)):
        if i:
            before = WIDTHS[i - 1]
            shapes[f"{stages}.{i}.downsample.0.weight"] = (before,)
            shapes[f"{stages}.{i}.downsample.0.bias"] = (before,)
            shapes[f"{stages}.{i}.downsample.1.weight"] = (width, before, 2, 2)
            shapes[f"{stages}.{i}.downsample.1.bias"] = (width,)
        for j in range(depth):
            block = f"{stages}.{i}.blocks.{j}"
            shapes |= {
                f"{block}.gamma": (width,),
                f"{block}.conv_dw.weight": (width, 1, 7, 7),
                f"{block}.conv_dw.bias": (width,),
                f"{block}.norm.weight": (width,),
                f"{block}.norm.bias": (width,),
                f"{block}.mlp.fc1.weight": (4 * width, width),
                f"{block}.mlp.fc1.bias": (4 * width,),
                f"{block}.mlp.fc2.weight": (width, 4 * width),
                f"{block}.mlp.fc2.bias": (width,),
            }
    return _random(shapes, seed)


def miner_tensors() -> Tensors:
    fine = sum(WIDTHS)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, width in (("query", CLIP_WIDTH), ("aux", fine), ("val", fine)):
        shapes |= {
            f"model.vlm_uni_{name}_projector.0.weight": (width,),
            f"model.vlm_uni_{name}_projector.0.bias": (width,),
            f"model.vlm_uni_{name}_projector.1.weight": (CLIP_WIDTH, width),
            f"model.vlm_uni_{name}_projector.1.bias": (CLIP_WIDTH,),
        }
    shapes |= {
        "model.mm_projector.0.weight": (LLM_WIDTH, CLIP_WIDTH),
        "model.mm_projector.0.bias": (LLM_WIDTH,),
        "model.mm_projector.2.weight": (LLM_WIDTH, LLM_WIDTH),
        "model.mm_projector.2.bias": (LLM_WIDTH,),
    }
    return _random(shapes, 1)


def _random(shapes: dict[str, tuple[int, ...]], seed: int) -> Tensors:
    made = torch.Generator().manual_seed(seed)
    return {name: 0.3 * torch.randn(shape, generator=made) for name, shape in shapes.items()}


def eyes_tensors() -> Tensors:
    aux = "model.vision_tower_aux"
    towers = clip_tensors() | convnext_tensors(f"{aux}.vision_stem", f"{aux}.vision_stages")
    return towers | miner_tensors()


def write(
    folder: Path, *, hd: bool = False, gemma: bool = False, vocab_size: int = 100, eyes: Tensors
) -> Path:
    """A folder of two shards: the language model, its eyes."""
    folder.mkdir(parents=True, exist_ok=True)
    llm: Any = _gemma() if gemma else sights.llama(vocab_size)
    config = _as_saved_in_2024(llm.config) | {
        "model_type": "mgm_gemma" if gemma else "mgm",
        "architectures": ["MGMGemmaForCausalLM" if gemma else "MGMLlamaForCausalLM"],
        "mm_vision_tower": "model_zoo/OpenAI/clip-vit-large-patch14-336",
        "mm_vision_tower_aux": "model_zoo/OpenAI/openclip-convnext-large-d-320",
        "mm_hidden_size": CLIP_WIDTH,
        "mm_hidden_size_aux": sum(WIDTHS),
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "image_size_aux": 128 if hd else 64,
        "image_grid": 2 if hd else 1,
        "image_global": hd,
    }
    (folder / "config.json").write_text(json.dumps(config))
    tied = ("lm_head.weight",) if gemma else ()
    words = {n: t.clone() for n, t in llm.state_dict().items() if n not in tied}
    shards = {"model-00001-of-00002.safetensors": words, "model-00002-of-00002.safetensors": eyes}
    for name, tensors in shards.items():
        save_file({n: t.contiguous() for n, t in tensors.items()}, folder / name, {"format": "pt"})
    weight_map = {n: file for file, tensors in shards.items() for n in tensors}
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def _as_saved_in_2024(config: Any) -> dict[str, Any]:
    """What transformers 4.38 wrote for a Llama or a Gemma."""
    lately = ("rope_parameters", "dtype", "transformers_version", "model_type")
    plain = {key: value for key, value in config.to_dict().items() if key not in lately}
    return plain | {
        "transformers_version": "4.38.0",
        "torch_dtype": "float32",
        "rope_theta": ROPE_THETA,
        "rope_scaling": None,
        "pretraining_tp": 1,
        "tune_mm_mlp_adapter": False,
        "use_mm_proj": True,
        **({"hidden_act": "gelu"} if config.model_type == "gemma" else {}),
    }


def _gemma() -> Any:
    torch.manual_seed(5)
    config = T.GemmaConfig(**sights.TEXT | {"head_dim": 8, "num_key_value_heads": 1})
    return T.GemmaForCausalLM(config)
