"""A tiny random DeepSeek-VL in the layout of its authors, and its mathematics by their names.

Shapes and forward follow the modules of github.com/deepseek-ai/DeepSeek-VL (``siglip_vit``,
``sam``, ``clip_encoder``, ``projector``, ``modeling_vlm``); nothing here uses what is tested.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tiny_vlms import byte_tokenizer

Tensors = dict[str, torch.Tensor]

IMAGE_TOKEN = "<image_placeholder>"
WIDTH, HEADS, GRID, PATCH = 32, 16, 4, 8  # SigLIP
SAM_WIDTH, SAM_HEADS, SIDE, WINDOW = 16, 2, 8, 3
SAM_LAYERS, GLOBAL = 4, (1, 3)
CHANNELS = 4
TEXT = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "torch_dtype": "float16",
}
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def publish(folder: Path, hybrid: bool, shards: int = 1) -> Tensors:
    """Write a published folder and return its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = byte_tokenizer(tokens=(IMAGE_TOKEN,))
    tokenizer.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = "LlamaTokenizerFast"
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(3)
    tensors = weights(len(tokenizer), hybrid)
    params: dict[str, Any] = {"image_size": GRID * PATCH, "model_name": "siglip_large_patch16_384"}
    if hybrid:
        params = {"concat_type": "tuple", "low_res_cfg": params, "high_res_cfg": {}}
    config = {
        "model_type": "multi_modality",
        "aligner_config": {"cls": "MlpProjector", "params": {"depth": 2}},
        "language_config": {**TEXT, "vocab_size": len(tokenizer)},
        "vision_config": {
            "cls": "HybridVisionTower" if hybrid else "CLIPVisionTower",
            "params": params,
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return tensors
    names = {
        name: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors"
        for i, name in enumerate(tensors)
    }
    for file in set(names.values()):
        save_file({n: t for n, t in tensors.items() if names[n] == file}, folder / file)
    index = {"metadata": {}, "weight_map": names}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return tensors


def weights(vocabulary: int, hybrid: bool) -> Tensors:
    """Random weights under the authors' names, those that the forward never reads among them."""
    shapes: dict[str, tuple[int, ...]] = {}
    low = "vision_model.vision_tower_low.vision_tower." if hybrid else "vision_model.vision_tower."
    for prefix in (low,):
        shapes[prefix + "pos_embed"] = (1, GRID * GRID, WIDTH)
        _conv(shapes, prefix + "patch_embed.proj", 3, WIDTH, PATCH)
        for n in range(2):
            _norm(shapes, f"{prefix}blocks.{n}.norm1", WIDTH)
            _linear(shapes, f"{prefix}blocks.{n}.attn.qkv", WIDTH, 3 * WIDTH)
            _linear(shapes, f"{prefix}blocks.{n}.attn.proj", WIDTH, WIDTH)
            _norm(shapes, f"{prefix}blocks.{n}.norm2", WIDTH)
            _linear(shapes, f"{prefix}blocks.{n}.mlp.fc1", WIDTH, 2 * WIDTH)
            _linear(shapes, f"{prefix}blocks.{n}.mlp.fc2", 2 * WIDTH, WIDTH)
        _norm(shapes, prefix + "norm", WIDTH)
        shapes[prefix + "attn_pool.latent"] = (1, 1, WIDTH)
        _linear(shapes, prefix + "attn_pool.kv", WIDTH, 2 * WIDTH)
    if hybrid:
        _sam_shapes(shapes)
        _norm(shapes, "vision_model.high_layer_norm", WIDTH)
        _norm(shapes, "vision_model.low_layer_norm", WIDTH)
        _linear(shapes, "aligner.high_up_proj", 4 * CHANNELS, TEXT["hidden_size"] // 2)
        _linear(shapes, "aligner.low_up_proj", WIDTH, TEXT["hidden_size"] // 2)
        _linear(shapes, "aligner.layers.1", TEXT["hidden_size"], TEXT["hidden_size"])
    else:
        _linear(shapes, "aligner.layers.0", WIDTH, TEXT["hidden_size"])
        _linear(shapes, "aligner.layers.2", TEXT["hidden_size"], TEXT["hidden_size"])
    tensors = {name: torch.randn(shape) * 0.2 for name, shape in shapes.items()}
    return tensors | {f"language_model.{n}": t for n, t in _llama(vocabulary).items()}


def _sam_shapes(shapes: dict[str, tuple[int, ...]]) -> None:
    prefix = "vision_model.vision_tower_high.vision_tower."
    shapes[prefix + "pos_embed"] = (1, SIDE, SIDE, SAM_WIDTH)
    _conv(shapes, prefix + "patch_embed.proj", 3, SAM_WIDTH, PATCH)
    for n in range(SAM_LAYERS):
        block = f"{prefix}blocks.{n}."
        reach = SIDE if n in GLOBAL else WINDOW
        _norm(shapes, block + "norm1", SAM_WIDTH)
        shapes[block + "attn.rel_pos_h"] = (2 * reach - 1, SAM_WIDTH // SAM_HEADS)
        shapes[block + "attn.rel_pos_w"] = (2 * reach - 1, SAM_WIDTH // SAM_HEADS)
        _linear(shapes, block + "attn.qkv", SAM_WIDTH, 3 * SAM_WIDTH)
        _linear(shapes, block + "attn.proj", SAM_WIDTH, SAM_WIDTH)
        _norm(shapes, block + "norm2", SAM_WIDTH)
        _linear(shapes, block + "mlp.lin1", SAM_WIDTH, 4 * SAM_WIDTH)
        _linear(shapes, block + "mlp.lin2", 4 * SAM_WIDTH, SAM_WIDTH)
    for neck in ("neck", "neck_hd"):
        shapes[f"{prefix}{neck}.0.weight"] = (CHANNELS, SAM_WIDTH, 1, 1)
        _norm(shapes, f"{prefix}{neck}.1", CHANNELS)
        shapes[f"{prefix}{neck}.2.weight"] = (CHANNELS, CHANNELS, 3, 3)
        _norm(shapes, f"{prefix}{neck}.3", CHANNELS)
    shapes[prefix + "downsamples.0.weight"] = (2 * CHANNELS, CHANNELS, 3, 3)
    shapes[prefix + "downsamples.1.weight"] = (4 * CHANNELS, 2 * CHANNELS, 3, 3)
    shapes[prefix + "hd_alpha_downsamples"] = (1,)


def _norm(shapes: dict[str, tuple[int, ...]], name: str, width: int) -> None:
    shapes[name + ".weight"] = shapes[name + ".bias"] = (width,)


def _linear(shapes: dict[str, tuple[int, ...]], name: str, before: int, after: int) -> None:
    shapes[name + ".weight"], shapes[name + ".bias"] = (after, before), (after,)


def _conv(shapes: dict[str, tuple[int, ...]], name: str, before: int, after: int, k: int) -> None:
    shapes[name + ".weight"], shapes[name + ".bias"] = (after, before, k, k), (after,)


def _llama(vocabulary: int) -> Tensors:
    return {n: t.clone() for n, t in llama(vocabulary).state_dict().items()}


def llama(vocabulary: int) -> Any:
    """The language model, of transformers there, too."""
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {k: v for k, v in TEXT.items() if k not in ("model_type", "torch_dtype")}
    return LlamaForCausalLM(LlamaConfig(**sizes, vocab_size=vocabulary)).eval()


@torch.no_grad()
def logits_of(w: Tensors, ids: torch.Tensor, image_token_id: int, raw: torch.Tensor) -> Any:
    """Logits ``[1, N, V]`` for ids ``[1, N]`` and one picture ``[1, 3, S, S]`` in [0, 1]."""
    words = {n[len("language_model.") :]: t for n, t in w.items() if n.startswith("language")}
    model = llama(len(words["lm_head.weight"]))
    model.load_state_dict(words)
    embeds = words["model.embed_tokens.weight"][ids]
    embeds[ids == image_token_id] = image_features(w, raw)[0]
    return model(inputs_embeds=embeds).logits


def image_features(w: Tensors, raw: torch.Tensor) -> torch.Tensor:
    """Features ``[1, GRID * GRID, D]`` of a picture in [0, 1]."""
    if "aligner.layers.0.weight" in w:
        x = _siglip(w, "vision_model.vision_tower.", normalised(raw, *HALF))
        return _apply(w, "aligner.layers.2", F.gelu(_apply(w, "aligner.layers.0", x)))
    size = (GRID * PATCH, GRID * PATCH)
    small = F.interpolate(raw, size=size, mode="bilinear", antialias=True)
    low = _siglip(w, "vision_model.vision_tower_low.vision_tower.", normalised(small, *HALF))
    high = _sam(w, "vision_model.vision_tower_high.vision_tower.", normalised(raw, *CLIP))
    parts = [_apply(w, "aligner.high_up_proj", high), _apply(w, "aligner.low_up_proj", low)]
    return _apply(w, "aligner.layers.1", F.gelu(torch.cat(parts, dim=-1)))


def normalised(x: torch.Tensor, mean: Any, std: Any) -> torch.Tensor:
    return (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def _apply(w: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ w[name + ".weight"].T + w[name + ".bias"]


def _layer_norm(w: Tensors, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], w[name + ".weight"], w[name + ".bias"], 1e-6)


def _siglip(w: Tensors, p: str, x: torch.Tensor) -> torch.Tensor:
    x = F.conv2d(x, w[p + "patch_embed.proj.weight"], w[p + "patch_embed.proj.bias"], PATCH)
    x = x.flatten(2).transpose(1, 2) + w[p + "pos_embed"]
    for n in range(2):
        b = f"{p}blocks.{n}."
        y = _layer_norm(w, b + "norm1", x)
        qkv = _apply(w, b + "attn.qkv", y).view(1, -1, 3, HEADS, WIDTH // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = (q @ k.transpose(-1, -2) * (WIDTH // HEADS) ** -0.5).softmax(-1) @ v
        x = x + _apply(w, b + "attn.proj", y.transpose(1, 2).flatten(2))
        y = F.gelu(_apply(w, b + "mlp.fc1", _layer_norm(w, b + "norm2", x)))
        x = x + _apply(w, b + "mlp.fc2", y)
    return _layer_norm(w, p + "norm", x)


def _sam(w: Tensors, p: str, x: torch.Tensor) -> torch.Tensor:
    """SAM's encoder with two strided convolutions; the first global block's output is added."""
    x = F.conv2d(x, w[p + "patch_embed.proj.weight"], w[p + "patch_embed.proj.bias"], PATCH)
    x = x.permute(0, 2, 3, 1) + w[p + "pos_embed"]
    glimpses = []
    for n in range(SAM_LAYERS):
        b = f"{p}blocks.{n}."
        y = _layer_norm(w, b + "norm1", x)
        x = x + (_attend(w, b, y) if n in GLOBAL else _in_windows(w, b, y))
        y = F.gelu(_apply(w, b + "mlp.lin1", _layer_norm(w, b + "norm2", x)))
        x = x + _apply(w, b + "mlp.lin2", y)
        glimpses += [x] if n in GLOBAL else []
    main = _down(w, p, _neck(w, p + "neck.", x))
    first = _down(w, p, _neck(w, p + "neck_hd.", glimpses[0]))
    return (main + first * w[p + "hd_alpha_downsamples"]).flatten(2).transpose(1, 2)


def _in_windows(w: Tensors, b: str, x: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(x)
    for top in range(0, SIDE, WINDOW):
        for left in range(0, SIDE, WINDOW):
            part = x[:, top : top + WINDOW, left : left + WINDOW]
            height, width = part.shape[1:3]
            padded = F.pad(part, (0, 0, 0, WINDOW - width, 0, WINDOW - height))
            seen = _attend(w, b, padded)[:, :height, :width]
            out[:, top : top + WINDOW, left : left + WINDOW] = seen
    return out


def _attend(w: Tensors, b: str, x: torch.Tensor) -> torch.Tensor:
    """Attention over a square ``[1, n, n, C]`` with one bias by row and one by column distance."""
    side, head = x.shape[1], SAM_WIDTH // SAM_HEADS
    qkv = _apply(w, b + "attn.qkv", x).view(side * side, 3, SAM_HEADS, head)
    q, k, v = (qkv[:, i].transpose(0, 1) for i in range(3))
    scores = q @ k.transpose(-1, -2) * head**-0.5
    rows, columns = (a.flatten() for a in torch.meshgrid(*[torch.arange(side)] * 2, indexing="ij"))
    for places, name in ((rows, "rel_pos_h"), (columns, "rel_pos_w")):
        far = w[b + "attn." + name][places[:, None] - places[None] + side - 1]  # [n, n, head]
        scores = scores + torch.einsum("hnc,nmc->hnm", q, far)
    y = (scores.softmax(-1) @ v).transpose(0, 1).reshape(1, side, side, SAM_WIDTH)
    return _apply(w, b + "attn.proj", y)


def _neck(w: Tensors, p: str, x: torch.Tensor) -> torch.Tensor:
    x = F.conv2d(x.permute(0, 3, 1, 2), w[p + "0.weight"])
    x = _layer_norm(w, p + "1", x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    x = F.conv2d(x, w[p + "2.weight"], padding=1)
    return _layer_norm(w, p + "3", x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _down(w: Tensors, p: str, x: torch.Tensor) -> torch.Tensor:
    x = F.interpolate(x, size=(4 * GRID, 4 * GRID), mode="bilinear", align_corners=False)
    x = F.conv2d(x, w[p + "downsamples.0.weight"], stride=2, padding=1)
    return F.conv2d(x, w[p + "downsamples.1.weight"], stride=2, padding=1)
