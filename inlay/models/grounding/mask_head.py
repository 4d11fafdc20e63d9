"""The mask head: a U-Net from attention maps to mask logits (F-LMM, arXiv 2406.05821)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from inlay.core.errors import ModelError


class UNetHead(nn.Module):
    """Four stages down and three up, each of 3x3 convolutions with GroupNorm(1) and ReLU.

    Its parameters are named as those of mmsegmentation's ``UNet`` with a ``conv_seg`` behind it, so
    that F-LMM's published checkpoints fit. Convolutions follow autocast; interpolation and
    normalisation are computed in float32.

    Args:
        in_channels: attention maps per mask (layers x heads x levels). A model that knows the
            number calls ``set_in_channels``; until then None stands for 1.
        normalize_input: whether each map is divided by its sum.
        upsample_input: maps whose longest side is shorter are enlarged to this many pixels; None
            leaves them.
        base_channels: width of the first stage; it doubles from stage to stage.
        num_stages: stages of the encoder, the decoder has one less.
        strides, downsamples: all 1, all True: between stages a max-pool halves the maps.
        enc_num_convs, dec_num_convs: convolutions of each stage.
        enc_dilations, dec_dilations: of each stage's convolutions after its first.
        norm_cfg, upsample_cfg: the two that F-LMM's configs name, GroupNorm with one group and
            InterpConv, or None for the same.

    Raises:
        ModelError: settings of mmsegmentation's ``UNet`` that this one does not have.
    """

    def __init__(
        self,
        *,
        in_channels: int | None = None,
        normalize_input: bool = True,
        upsample_input: int | None = 64,
        base_channels: int = 64,
        num_stages: int = 4,
        strides: Sequence[int] = (1, 1, 1, 1),
        enc_num_convs: Sequence[int] = (2, 2, 2, 2),
        dec_num_convs: Sequence[int] = (2, 2, 2),
        downsamples: Sequence[bool] = (True, True, True),
        enc_dilations: Sequence[int] = (1, 1, 1, 1),
        dec_dilations: Sequence[int] = (1, 1, 1),
        norm_cfg: Mapping[str, Any] | None = None,
        upsample_cfg: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _check_lengths(
            num_stages, strides=strides, enc_num_convs=enc_num_convs, enc_dilations=enc_dilations
        )
        _check_lengths(
            num_stages - 1,
            dec_num_convs=dec_num_convs,
            downsamples=downsamples,
            dec_dilations=dec_dilations,
        )
        _check_layers(strides, downsamples, norm_cfg, upsample_cfg)
        self.normalize_input = normalize_input
        self.upsample_input = upsample_input
        self.encoder = nn.ModuleList()
        self.decoder = nn.ModuleList()
        width, channels = base_channels, in_channels or 1
        for i in range(num_stages):
            block = _ConvBlock(channels, width, enc_num_convs[i], enc_dilations[i])
            self.encoder.append(
                nn.Sequential(nn.MaxPool2d(2), block) if i else nn.Sequential(block)
            )
            if i:
                self.decoder.append(_UpBlock(channels, dec_num_convs[i - 1], dec_dilations[i - 1]))
            channels, width = width, 2 * width
        self.conv_seg = nn.Conv2d(base_channels, 1, kernel_size=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _init(module)

    @property
    def in_channels(self) -> int:
        """Attention maps per mask that the first convolution reads."""
        return self._first.conv.in_channels

    @property
    def _first(self) -> Any:
        return self.encoder[0][0].convs[0]  # type: ignore[index]

    def set_in_channels(self, in_channels: int) -> None:
        """Make a new, random first convolution for so many maps, unless it has that many."""
        old = self._first.conv
        if in_channels != old.in_channels:
            options = {"device": old.weight.device, "dtype": old.weight.dtype}
            new = nn.Conv2d(in_channels, old.out_channels, 3, padding=1, bias=False, **options)
            self._first.conv = _init(new)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        """Return mask logits, float32 ``[M, h', w']``.

        Args:
            maps: ``[M, in_channels, h, w]`` attention of each mask's words, not negative. ``h'``
                and ``w'`` are ``h`` and ``w``, enlarged as ``upsample_input`` says.

        Raises:
            ModelError: another number of maps.
        """
        if maps.shape[1] != self.in_channels:
            raise ModelError(
                f"the mask head reads {self.in_channels} attention maps per mask, found "
                f"{maps.shape[1]} (layers x heads x levels of the language model): set in_channels "
                "to that, or load the checkpoint of this model"
            )
        x = maps.float()
        if self.normalize_input:
            x = x / x.sum((-2, -1), keepdim=True).clamp(min=1e-12)
        if self.upsample_input is not None:
            x = enlarge(x, self.upsample_input)
        h, w = x.shape[-2:]
        multiple = 2 ** len(self.decoder)
        padding = (0, -w % multiple, 0, -h % multiple)
        x = F.pad(x, padding) if any(padding) else x  # all zero, it would still be a copy
        skips = []
        for stage in self.encoder:
            x = stage(x)
            skips.append(x)
        for block, skip in zip(reversed(self.decoder), reversed(skips[:-1]), strict=True):
            x = block(x, skip)
        x = x[..., :h, :w].to(self.conv_seg.weight.dtype)
        return self.conv_seg(x)[:, 0].float()


def enlarge(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Enlarge ``[M, C, h, w]`` (bilinear, float32) until the longest side has ``side`` pixels."""
    scale = max(1.0, side / max(maps.shape[-2:]))
    if scale == 1.0:
        return maps
    return F.interpolate(maps.float(), scale_factor=scale, mode="bilinear", align_corners=False)


class _Conv(nn.Module):
    def __init__(
        self, in_channels: int, channels: int, kernel_size: int = 3, dilation: int = 1
    ) -> None:
        super().__init__()
        padding = dilation * (kernel_size // 2)
        self.conv = nn.Conv2d(
            in_channels, channels, kernel_size, padding=padding, dilation=dilation, bias=False
        )
        self.gn = nn.GroupNorm(1, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x.to(self.conv.weight.dtype)).float()
        gn = self.gn
        return F.relu(F.group_norm(x, 1, gn.weight.float(), gn.bias.float(), gn.eps))


class _ConvBlock(nn.Module):
    def __init__(self, in_channels: int, channels: int, num_convs: int, dilation: int) -> None:
        super().__init__()
        later = (_Conv(channels, channels, dilation=dilation) for _ in range(1, num_convs))
        self.convs = nn.Sequential(_Conv(in_channels, channels), *later)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convs(x)


class _InterpConv(nn.Module):
    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        double = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.interp_upsample = nn.Sequential(double, _Conv(in_channels, channels, kernel_size=1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.interp_upsample(x)


class _UpBlock(nn.Module):
    """From a stage of twice the channels and half the size back to ``channels``."""

    def __init__(self, channels: int, num_convs: int, dilation: int) -> None:
        super().__init__()
        self.conv_block = _ConvBlock(2 * channels, channels, num_convs, dilation)
        self.upsample = _InterpConv(2 * channels, channels)

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.conv_block(torch.cat([skip, self.upsample(x)], dim=1))


def _init(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _check_lengths(expected: int, **values: Sequence[int]) -> None:
    for name, value in values.items():
        if len(value) != expected:
            raise ModelError(
                f"mask head: {name} needs {expected} values with this num_stages, got {value!r}"
            )


def _check_layers(
    strides: Sequence[int],
    downsamples: Sequence[bool],
    norm_cfg: Mapping[str, Any] | None,
    upsample_cfg: Mapping[str, Any] | None,
) -> None:
    if any(stride != 1 for stride in strides) or not all(downsamples):
        raise ModelError(
            "mask head: stages are halved by max-pooling alone, so strides must be all 1 and "
            f"downsamples all True; got strides={strides!r}, downsamples={downsamples!r}"
        )
    norm = dict(norm_cfg or {"type": "GN", "num_groups": 1})
    if _name(norm) not in ("GN", "GroupNorm") or norm.get("num_groups") != 1:
        raise ModelError(
            f"mask head: its only normalisation is GroupNorm with num_groups=1, got norm_cfg={norm}"
            "; leave norm_cfg out"
        )
    upsample = dict(upsample_cfg or {"type": "InterpConv"})
    if _name(upsample) != "InterpConv" or len(upsample) > 1:
        raise ModelError(
            "mask head: its only upsampling is InterpConv with its own settings (2x bilinear, 1x1 "
            f"convolution), got upsample_cfg={upsample}; leave upsample_cfg out"
        )


def _name(cfg: dict[str, Any]) -> str:
    kind = cfg.get("type")
    return kind.rpartition(".")[2] if isinstance(kind, str) else getattr(kind, "__name__", "")
