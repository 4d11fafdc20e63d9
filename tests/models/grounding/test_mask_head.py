"""The mask head against a plain re-computation, and its parameters' names and number."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from inlay.core.errors import ModelError
from inlay.models import UNetHead

Tensors = dict[str, torch.Tensor]


def published_names() -> set[str]:
    """What mmsegmentation's UNet (4 stages, InterpConv, GroupNorm) calls its parameters."""
    layers = [f"encoder.0.0.convs.{j}" for j in range(2)]
    layers += [f"encoder.{i}.1.convs.{j}" for i in (1, 2, 3) for j in range(2)]
    layers += [f"decoder.{i}.conv_block.convs.{j}" for i in range(3) for j in range(2)]
    layers += [f"decoder.{i}.upsample.interp_upsample.1" for i in range(3)]
    names = {f"{layer}.{part}" for layer in layers for part in ("conv.weight", "gn.weight")}
    return names | {f"{n}.gn.bias" for n in layers} | {"conv_seg.weight", "conv_seg.bias"}


def reference(w: Tensors, x: torch.Tensor, side: int | None) -> torch.Tensor:
    """Section 5 of the algorithm's description, step by step, in float64."""

    def layer(x: torch.Tensor, name: str) -> torch.Tensor:
        kernel = w[f"{name}.conv.weight"]
        x = F.conv2d(x, kernel, padding=kernel.shape[-1] // 2)
        mean = x.mean((1, 2, 3), keepdim=True)
        x = (x - mean) / (x.var((1, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt()
        return (
            x * w[f"{name}.gn.weight"][:, None, None] + w[f"{name}.gn.bias"][:, None, None]
        ).relu()

    def resized(x: torch.Tensor, scale: float) -> torch.Tensor:
        return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)

    x = x.double() / x.double().sum((2, 3), keepdim=True).clamp(min=1e-12)
    if side:
        x = resized(x, max(1.0, side / max(x.shape[2:])))
    h, w_ = x.shape[2:]
    padded = x.new_zeros(*x.shape[:2], math.ceil(h / 8) * 8, math.ceil(w_ / 8) * 8)
    padded[..., :h, :w_] = x
    outs = []
    y = padded
    for i in range(4):
        y = F.max_pool2d(y, 2) if i else y
        for j in range(2):
            y = layer(y, f"encoder.{i}.{1 if i else 0}.convs.{j}")
        outs.append(y)
    for i in (2, 1, 0):
        up = layer(resized(y, 2.0), f"decoder.{i}.upsample.interp_upsample.1")
        y = torch.cat([outs[i], up], dim=1)
        for j in range(2):
            y = layer(y, f"decoder.{i}.conv_block.convs.{j}")
    return (
        torch.einsum("mchw,c->mhw", y[..., :h, :w_], w["conv_seg.weight"][0, :, 0, 0])
        + (w["conv_seg.bias"])
    )


def head(**settings: Any) -> UNetHead:
    torch.manual_seed(0)
    made = UNetHead(**{"in_channels": 6, "base_channels": 4, **settings})
    for name, weight in made.named_parameters():  # norms that do something
        if "gn" in name or name.endswith("bias"):
            torch.nn.init.normal_(weight, std=0.5)
    return made


@pytest.mark.parametrize(("channels", "expected"), [(384, 7_403_969), (2048, 8_362_433)])
def test_has_the_published_names_and_number_of_parameters(channels: int, expected: int) -> None:
    with torch.device("meta"):
        made = UNetHead(in_channels=channels)
    assert made.state_dict().keys() == published_names()
    assert sum(p.numel() for p in made.parameters()) == expected


def test_trainables_of_deepseek_vl_1_3b_are_12_million() -> None:
    from transformers import SamConfig, SamModel

    with torch.device("meta"):
        sam = SamModel(SamConfig())
        parts = {
            "mask_head": UNetHead(in_channels=24 * 16),
            "decoder": sam.mask_decoder,
            "prompt": sam.prompt_encoder,
            "text_proj": torch.nn.Linear(2048, 256),
        }
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    counts["prompt"] -= sam.prompt_encoder.shared_embedding.positional_embedding.numel()
    assert counts == {
        "mask_head": 7_403_969,
        "decoder": 4_058_340,
        "prompt": 6_220,
        "text_proj": 524_544,
    }
    assert sum(counts.values()) + 24 == 11_993_097


@pytest.mark.parametrize(
    ("size", "side", "out"),
    [
        ((24, 24), 64, (64, 64)),
        ((9, 5), 20, (20, 11)),
        ((21, 13), 16, (21, 13)),
        ((8, 8), None, (8, 8)),
    ],
)
@torch.no_grad()
def test_computes_what_the_description_says(
    size: tuple[int, int], side: int | None, out: tuple[int, int]
) -> None:
    made = head(upsample_input=side)
    x = torch.rand(3, 6, *size) / 50
    x[1, 2] = 0  # a head that sees nothing
    logits = made(x)
    assert logits.shape == (3, *out)
    weights = {name: t.double() for name, t in made.state_dict().items()}
    torch.testing.assert_close(logits.double(), reference(weights, x, side), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_scale_matters_only_without_normalisation() -> None:
    x = torch.rand(1, 6, 16, 16)
    scale = torch.rand(1, 6, 1, 1) + 0.1
    made = head()
    torch.testing.assert_close(made(x * scale), made(x), atol=1e-4, rtol=1e-4)
    plain = head(normalize_input=False)
    assert (plain(x * scale) - plain(x)).abs().max() > 0.01


def test_autocast_rounds_convolutions_only() -> None:
    made = head(base_channels=8)
    x = torch.rand(2, 6, 24, 24) * 1e-4  # attention so faint that bf16 sums would lose it
    seen: list[tuple[str, torch.dtype]] = []
    for module in made.modules():
        if isinstance(module, torch.nn.Upsample | torch.nn.Conv2d):
            kind = type(module).__name__
            module.register_forward_hook(lambda m, i, o, kind=kind: seen.append((kind, o.dtype)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = made(x)
    assert set(seen) == {("Upsample", torch.float32), ("Conv2d", torch.bfloat16)}
    exact = made(x)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.1 * exact.abs().max()
    rough.mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in made.parameters())
    assert made.bfloat16()(x).dtype == torch.float32


def test_starts_from_kaiming_normal_fan_out() -> None:
    torch.manual_seed(0)
    made = UNetHead(in_channels=64, base_channels=32)
    for name, module in made.named_modules():
        if isinstance(module, torch.nn.Conv2d) and module is not made.conv_seg:
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            expected = math.sqrt(2 / fan_out)
            assert module.weight.std().item() == pytest.approx(expected, rel=0.1), name
    assert made.conv_seg.bias.item() == 0


def test_the_number_of_maps_is_set_later() -> None:
    made = UNetHead(base_channels=4).to(torch.bfloat16)
    kept = made.encoder[0][0].convs[1].conv.weight.clone()
    made.set_in_channels(10)
    assert made.in_channels == 10
    first = made.encoder[0][0].convs[0].conv.weight
    assert first.shape == (4, 10, 3, 3) and first.dtype == torch.bfloat16
    assert torch.equal(made.encoder[0][0].convs[1].conv.weight, kept)
    made.set_in_channels(10)
    assert made.encoder[0][0].convs[0].conv.weight is first
    with pytest.raises(ModelError, match="reads 10 attention maps per mask, found 12"):
        made(torch.rand(1, 12, 8, 8))


def test_takes_the_settings_of_published_configs() -> None:
    class InterpConv:
        pass

    made = UNetHead(
        in_channels=2048,
        base_channels=2,
        norm_cfg={"type": torch.nn.GroupNorm, "num_groups": 1},
        upsample_cfg={"type": InterpConv},
    )
    assert made.state_dict().keys() == published_names()
    UNetHead(norm_cfg={"type": "GN", "num_groups": 1}, upsample_cfg={"type": "mmseg.InterpConv"})
    three = UNetHead(
        base_channels=2,
        num_stages=3,
        strides=(1, 1, 1),
        enc_num_convs=(1, 2, 3),
        dec_num_convs=(1, 2),
        downsamples=(True, True),
        enc_dilations=(1, 2, 1),
        dec_dilations=(1, 2),
    )
    assert three(torch.rand(2, 1, 10, 7)).shape == (2, 64, 44)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strides": (1, 2, 1, 1)}, "strides must be all 1"),
        ({"downsamples": (True, False, True)}, "downsamples all True"),
        ({"num_stages": 3}, "strides needs 3 values"),
        ({"dec_dilations": (1, 1)}, "dec_dilations needs 3 values"),
        ({"norm_cfg": {"type": "BN"}}, "GroupNorm with num_groups=1, got norm_cfg={'type': 'BN'}"),
        ({"norm_cfg": {"type": "GN", "num_groups": 8}}, "GroupNorm with num_groups=1"),
        ({"upsample_cfg": {"type": "DeconvModule"}}, "InterpConv"),
    ],
)
def test_refuses_other_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        UNetHead(base_channels=2, **settings)
