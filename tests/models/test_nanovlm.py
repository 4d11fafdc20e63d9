"""nanoVLM's folders: our model gives what its published code computes, written out here by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from peft import LoraConfig
from safetensors.torch import save_file
from sights import clip, llama

from inlay.core.errors import ModelError
from inlay.models import LLaVAModel
from inlay.models.load_vlm import load_vlm
from inlay.models.nanovlm import to_nanovlm

Tensors = dict[str, torch.Tensor]
IMAGE = 95
CONFIG: dict[str, Any] = dict(
    vit_hidden_dim=32,
    vit_inter_dim=64,
    vit_patch_size=4,
    vit_img_size=32,
    vit_n_heads=4,
    vit_dropout=0.0,
    vit_n_blocks=2,
    vit_ln_eps=1e-6,
    vit_cls_flag=False,
    vit_model_type="google/siglip2-base-patch16-512",
    lm_hidden_dim=48,
    lm_inter_dim=64,
    lm_rms_eps=1e-5,
    lm_re_base=100000,
    lm_max_position_embeddings=8192,
    lm_vocab_size=100,
    lm_n_heads=6,
    lm_n_kv_heads=2,
    lm_dropout=0.0,
    lm_n_blocks=2,
    lm_attn_scaling=1.0,
    lm_model_type="HuggingFaceTB/SmolLM2-360M-Instruct",
    mp_pixel_shuffle_factor=4,
    mp_image_token_length=4,
)


def published(tied: bool) -> Tensors:
    """Random weights by nanoVLM's names and shapes; of tied ones the file holds one."""
    g = torch.Generator().manual_seed(0)

    def new(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g) * 0.2

    out = {
        "vision_encoder.patch_embedding.conv.weight": new(32, 3, 4, 4),
        "vision_encoder.patch_embedding.conv.bias": new(32),
        "vision_encoder.patch_embedding.position_embedding": new(1, 64, 32),
        "vision_encoder.layer_norm.weight": new(32),
        "vision_encoder.layer_norm.bias": new(32),
        "decoder.head.weight": new(100, 48),
        "decoder.norm.weight": new(48),
        "decoder.rotary_embd.inv_freq": 1.0 / (100000 ** (torch.arange(0, 8, 2).float() / 8)),
        "MP.proj.weight": new(48, 512),
    }
    if not tied:
        out["decoder.token_embedding.weight"] = new(100, 48)
    for i in range(2):
        eye, word = f"vision_encoder.blocks.{i}.", f"decoder.blocks.{i}."
        for name, shape in {
            "ln1": (32,),
            "ln2": (32,),
            "attn.qkv_proj": (96, 32),
            "attn.out_proj": (32, 32),
            "mlp.fc1": (64, 32),
            "mlp.fc2": (32, 64),
        }.items():
            out |= {f"{eye}{name}.weight": new(*shape), f"{eye}{name}.bias": new(shape[0])}
        for name, shape in {
            "norm1": (48,),
            "norm2": (48,),
            "attn.q_proj": (48, 48),
            "attn.k_proj": (16, 48),
            "attn.v_proj": (16, 48),
            "attn.out_proj": (48, 48),
            "mlp.gate_proj": (64, 48),
            "mlp.up_proj": (64, 48),
            "mlp.down_proj": (48, 64),
        }.items():
            out[f"{word}{name}.weight"] = new(*shape)
    return out


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool) -> torch.Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        scores = scores.masked_fill(torch.ones_like(scores).triu(1).bool(), -torch.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)


def eyes(w: Tensors, pixels: torch.Tensor) -> torch.Tensor:
    """Vision encoder and projector for one picture ``[3, 32, 32]``: ``[4, 48]``."""

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    e = "vision_encoder."
    conv = w[f"{e}patch_embedding.conv.weight"]
    rows = []
    for r in range(8):
        for c in range(8):
            patch = pixels[:, 4 * r : 4 * r + 4, 4 * c : 4 * c + 4]
            rows.append((conv * patch).sum((1, 2, 3)) + w[f"{e}patch_embedding.conv.bias"])
    x = torch.stack(rows) + w[f"{e}patch_embedding.position_embedding"][0]
    for i in range(2):
        b = f"{e}blocks.{i}."
        qkv = linear(norm(x, f"{b}ln1"), f"{b}attn.qkv_proj").unflatten(1, (3, 4, 8))
        q, k, v = qkv.permute(1, 2, 0, 3)
        x = x + linear(attend(q, k, v, causal=False), f"{b}attn.out_proj")
        inner = F.gelu(linear(norm(x, f"{b}ln2"), f"{b}mlp.fc1"), approximate="tanh")
        x = x + linear(inner, f"{b}mlp.fc2")
    x = norm(x, f"{e}layer_norm").view(8, 8, 32)
    blocks = [x[r : r + 4, c : c + 4].reshape(-1) for r in (0, 4) for c in (0, 4)]
    return torch.stack(blocks) @ w["MP.proj.weight"].T


def mouth(w: Tensors, x: torch.Tensor) -> torch.Tensor:
    """Language model from embeddings ``[N, 48]`` to logits ``[N, 100]``."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x * torch.rsqrt((x**2).mean(-1, keepdim=True) + 1e-5) * w[f"{name}.weight"]

    angles = torch.arange(len(x)).float()[:, None] * w["decoder.rotary_embd.inv_freq"]
    turn = torch.polar(torch.ones_like(angles), angles)

    def rotated(h: torch.Tensor) -> torch.Tensor:  # [heads, N, 8]: halves are the two axes
        pairs = torch.complex(h[..., :4], h[..., 4:]) * turn
        return torch.cat([pairs.real, pairs.imag], dim=-1)

    def heads(x: torch.Tensor, name: str) -> torch.Tensor:
        return (x @ w[f"{name}.weight"].T).unflatten(1, (-1, 8)).transpose(0, 1)

    for i in range(2):
        b = f"decoder.blocks.{i}."
        h = norm(x, f"{b}norm1")
        q, k = (rotated(heads(h, f"{b}attn.{n}_proj")) for n in "qk")
        v = heads(h, f"{b}attn.v_proj")
        k, v = k.repeat_interleave(3, 0), v.repeat_interleave(3, 0)
        x = x + attend(q, k, v, causal=True) @ w[f"{b}attn.out_proj.weight"].T
        h = norm(x, f"{b}norm2")
        gate = F.silu(h @ w[f"{b}mlp.gate_proj.weight"].T) * (h @ w[f"{b}mlp.up_proj.weight"].T)
        x = x + gate @ w[f"{b}mlp.down_proj.weight"].T
    return norm(x, "decoder.norm") @ w["decoder.head.weight"].T


def write(folder: Path, tensors: Tensors, **changes: Any) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, "lm_tie_weights": True, **changes}))
    save_file(tensors, folder / "model.safetensors")
    return str(folder)


@pytest.mark.parametrize("tied", [True, False])
@torch.no_grad()
def test_a_published_folder_gives_the_same_logits_and_comes_back(
    tied: bool, tmp_path: Path
) -> None:
    tensors = published(tied)
    model = load_vlm(write(tmp_path / "nano", tensors, lm_tie_weights=tied), device="cpu")
    assert isinstance(model, LLaVAModel) and not model.training
    torch.manual_seed(0)
    ids, pixels = torch.randint(0, 90, (1, 20)), torch.rand(1, 3, 32, 32)
    ids[0, 3:7] = IMAGE
    embeds = tensors.get("decoder.token_embedding.weight", tensors["decoder.head.weight"])[ids[0]]
    embeds[3:7] = eyes(tensors, pixels[0])
    got = model.embed(ids, {"pixel_values": pixels}, torch.arange(3, 7))
    torch.testing.assert_close(got[0], embeds, atol=1e-5, rtol=1e-5)
    logits = model.llm(inputs_embeds=got).logits[0]
    torch.testing.assert_close(logits, mouth(tensors, embeds), atol=1e-4, rtol=1e-4)

    config, back = to_nanovlm(model)
    if tied:
        back["decoder.head.weight"] = back.pop("decoder.token_embedding.weight")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in back)
    names = {"vit_model_type", "lm_model_type"}
    assert {k: v for k, v in config.items() if k not in names} == {
        **{k: v for k, v in CONFIG.items() if k not in names and k != "lm_attn_scaling"},
        "lm_tie_weights": tied,
    }


def test_folders_that_do_not_hold_what_they_say(tmp_path: Path) -> None:
    tensors = published(True)
    short = {n: t for n, t in tensors.items() if "blocks.1.attn.q_proj" not in n}
    with pytest.raises(ModelError, match=r"missing \['model.layers.1.self_attn.q_proj.weight'\]"):
        load_vlm(write(tmp_path, short), device="cpu")
    with pytest.raises(ModelError, match="does not fit its own config"):
        load_vlm(write(tmp_path, tensors, lm_inter_dim=80), device="cpu")
    with pytest.raises(ModelError, match="class token"):
        load_vlm(write(tmp_path, tensors, vit_cls_flag=True), device="cpu")
    with pytest.raises(ModelError, match="bits and adapter are not"):
        load_vlm(write(tmp_path, tensors), device="cpu", bits=4)


def test_a_model_that_nanovlm_cannot_express() -> None:
    with pytest.raises(
        ModelError, match=r"a SigLIP vision encoder; projector='pixel_shuffle'; vis"
    ):
        to_nanovlm(LLaVAModel(llama(), clip()))
    lora = LoraConfig(r=2, target_modules=["q_proj"])
    with pytest.raises(ModelError, match="no adapters"):
        to_nanovlm(LLaVAModel(llama(), clip(), llm_lora=lora))
