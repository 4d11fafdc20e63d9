"""F-LMM's checkpoints: names on both sides, what is tolerated, and clear errors."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from inlay.convert.flmm import load_flmm, read_flmm, write_flmm
from inlay.core.errors import CheckpointError
from inlay.models import SamRefiner, UNetHead
from inlay.models.grounding.sam_names import from_hf, to_hf

Tensors = dict[str, torch.Tensor]


def both(*names: str) -> list[str]:
    return [f"{name}.{part}" for name in names for part in ("weight", "bias")]


def original_names(encoder_layers: int) -> set[str]:
    """The weights of segment-anything's ``Sam``, module by module."""
    attention = [f"{x}_proj" for x in ("q", "k", "v", "out")]
    encoder = ["pos_embed", *both("patch_embed.proj", "neck.1", "neck.3")]
    encoder += ["neck.0.weight", "neck.2.weight"]
    for i in range(encoder_layers):
        parts = ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2")
        encoder += both(*(f"blocks.{i}.{part}" for part in parts))
        encoder += [f"blocks.{i}.attn.rel_pos_h", f"blocks.{i}.attn.rel_pos_w"]
    prompt = ["pe_layer.positional_encoding_gaussian_matrix"]
    prompt += [f"point_embeddings.{i}.weight" for i in range(4)]
    prompt += ["not_a_point_embed.weight", "no_mask_embed.weight"]
    prompt += both(*(f"mask_downscaling.{i}" for i in (0, 1, 3, 4, 6)))
    decoder = ["iou_token.weight", "mask_tokens.weight"]
    decoder += both(*(f"output_upscaling.{i}" for i in (0, 1, 3)))
    mlps = [f"output_hypernetworks_mlps.{i}" for i in range(4)] + ["iou_prediction_head"]
    decoder += both(*(f"{mlp}.layers.{i}" for mlp in mlps for i in range(3)))
    blocks = ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
    for i in range(2):
        layer = f"transformer.layers.{i}"
        decoder += both(*(f"{layer}.{block}.{x}" for block in blocks for x in attention))
        decoder += both(*(f"{layer}.norm{n}" for n in range(1, 5)))
        decoder += both(f"{layer}.mlp.lin1", f"{layer}.mlp.lin2")
    final = "transformer.final_attn_token_to_image"
    decoder += both(*(f"{final}.{x}" for x in attention), "transformer.norm_final_attn")
    parts = {"image_encoder": encoder, "prompt_encoder": prompt, "mask_decoder": decoder}
    return {f"{part}.{name}" for part, names in parts.items() for name in names}


def tiny_sam() -> Any:
    from transformers import (
        SamConfig,
        SamMaskDecoderConfig,
        SamModel,
        SamPromptEncoderConfig,
        SamVisionConfig,
    )

    torch.manual_seed(0)
    vision = SamVisionConfig(
        hidden_size=16,
        output_channels=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        global_attn_indexes=[1],
        mlp_dim=32,
        image_size=64,
        window_size=2,
        num_pos_feats=8,
    )
    prompt = SamPromptEncoderConfig(hidden_size=16, image_size=64, mask_input_channels=8)
    decoder = SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16
    )
    config = SamConfig(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder
    )
    return SamModel(config)


class Grounding(nn.Module):
    """What a ``FrozenGrounding`` holds beside its language model."""

    def __init__(self, maps: int = 12, width: int = 20, layers: int = 3, refines: bool = True):
        super().__init__()
        self.lmm = nn.Linear(2, 2).requires_grad_(False)
        self.mask_head = UNetHead(in_channels=maps, base_channels=2)
        if refines:
            self.refiner = SamRefiner(sam=tiny_sam())
            self.text_proj = nn.Linear(width, 16)
            self.text_layer_weights = nn.Parameter(torch.rand(layers))


def trained(model: nn.Module) -> Tensors:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def published(model: nn.Module) -> Tensors:
    """A checkpoint as F-LMM's training leaves it: what is trained, and SAM's one buffer."""
    sam = {name: t for name, t in model.refiner.sam.state_dict().items()}
    theirs = {n: t for n, t in from_hf(sam).items() if not n.startswith("image_encoder.")}
    own = {n: t for n, t in trained(model).items() if not n.startswith("refiner.")}
    return own | {f"sam.model.{n}": t for n, t in theirs.items()}


def save(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_sam_names_are_those_of_both_libraries() -> None:
    sam = tiny_sam().state_dict()
    original = from_hf(sam)
    assert original.keys() == original_names(2)
    back = to_hf(original)
    assert back.keys() == sam.keys()
    assert all(torch.equal(back[name], sam[name]) for name in sam)
    with pytest.raises(KeyError, match=r"mask_decoder.iou_token_v2"):
        to_hf({"mask_decoder.iou_token_v2": 0})
    with pytest.raises(KeyError, match=r"mask_decoder.unheard"):
        from_hf({"mask_decoder.unheard": 0})


@pytest.mark.parametrize("size", ["vit_b", "vit_l", "vit_h"])
def test_sam_names_of_the_published_sizes(size: str) -> None:
    from transformers import SamConfig, SamModel, SamVisionConfig

    width, layers, heads = {
        "vit_b": (768, 12, 12),
        "vit_l": (1024, 24, 16),
        "vit_h": (1280, 32, 16),
    }[size]
    vision = SamVisionConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads)
    with torch.device("meta"):
        sam = SamModel(SamConfig(vision_config=vision)).state_dict()
    assert from_hf(sam).keys() == original_names(layers)
    assert to_hf(from_hf(sam)).keys() == sam.keys()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_published_checkpoint_loads_and_comes_back(wrapped: bool, tmp_path: Path) -> None:
    torch.manual_seed(1)
    source, target = Grounding(), Grounding()
    for weight in source.parameters():
        nn.init.normal_(weight)
    content: Any = published(source)
    flat = dict(content)
    if wrapped:  # as MMEngine saves it, from a data-parallel run, the language model in it
        content |= {"deepseek_vl.language_model.lm_head.weight": torch.zeros(3)}
        named = OrderedDict((f"module.{n}", t) for n, t in content.items())
        content = {"state_dict": named, "meta": {"iter": 95080, "cfg": "a = 1"}, "optimizer": {}}
    path = save(tmp_path / "flmm.pth", content)
    encoder = target.refiner.sam.vision_encoder.pos_embed.clone()
    load_flmm(target, path)
    wanted = trained(source)
    assert all(torch.equal(t, wanted[n]) for n, t in trained(target).items())
    shared = target.refiner.sam.shared_image_embedding.positional_embedding
    assert torch.equal(shared, source.refiner.sam.shared_image_embedding.positional_embedding)
    assert torch.equal(
        target.refiner.sam.prompt_encoder.shared_embedding.positional_embedding, shared
    )
    assert torch.equal(target.refiner.sam.vision_encoder.pos_embed, encoder)

    back = torch.load(write_flmm(read_flmm(path), tmp_path / "new" / "back.pth"), weights_only=True)
    assert back.keys() == flat.keys()
    assert all(torch.equal(back[name], flat[name]) for name in flat)


def test_image_encoders_and_models_without_a_refiner(tmp_path: Path) -> None:
    source = Grounding()
    nn.init.normal_(source.refiner.sam.vision_encoder.pos_embed)
    whole = {f"sam.model.{n}": t for n, t in from_hf(source.refiner.sam.state_dict()).items()}
    path = save(tmp_path / "whole.pth", published(source) | whole)
    target = Grounding()
    load_flmm(target, path)
    found, wanted = (m.refiner.sam.vision_encoder.pos_embed for m in (target, source))
    assert torch.equal(found, wanted)
    alone = Grounding(refines=False)
    load_flmm(alone, path)
    assert torch.equal(alone.mask_head.conv_seg.weight, source.mask_head.conv_seg.weight)


def test_a_checkpoint_of_another_model_names_both_sides(tmp_path: Path) -> None:
    path = save(tmp_path / "other.pth", published(Grounding(maps=12, width=20, layers=3)))
    with pytest.raises(
        CheckpointError,
        match=r"other.pth' was trained on another language model: it expects 12 attention maps "
        r"\(layers x heads x levels\), 20 hidden values per token, 3 layers; this one has 40 "
        r"attention maps \(layers x heads x levels\), 24 hidden values per token, 5 layers",
    ):
        load_flmm(Grounding(maps=40, width=24, layers=5), path)
    with pytest.raises(CheckpointError, match=r"expects 12 attention maps .* this one has 24 att"):
        load_flmm(Grounding(maps=24), path)


def test_incomplete_checkpoints_and_other_shapes(tmp_path: Path) -> None:
    state = published(Grounding())
    short = {n: t for n, t in state.items() if "iou_token" not in n}
    with pytest.raises(
        CheckpointError, match=r"lacks 1 weights .*refiner.sam.mask_decoder.iou_tok"
    ):
        load_flmm(Grounding(), save(tmp_path / "short.pth", short))
    wide = state | {"sam.model.mask_decoder.iou_token.weight": torch.zeros(1, 8)}
    with pytest.raises(
        CheckpointError, match=r"iou_token.weight' is \[1, 8\], this model has \[1, 16\]"
    ):
        load_flmm(Grounding(), save(tmp_path / "wide.pth", wide))
    odd = state | {"mask_head.encoder.4.convs.0.conv.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"encoder.4.* this model has no such weight"):
        load_flmm(Grounding(), save(tmp_path / "odd.pth", odd))


class Surprise:
    def __reduce__(self) -> Any:
        return (print, ("run!",))


def test_files_that_are_no_checkpoint_of_flmm(tmp_path: Path, capsys: Any) -> None:
    state = published(Grounding())
    for content, message in (
        (
            {"maskhead.conv_seg.bias": torch.zeros(1)},
            "no checkpoint of F-LMM.*Did you mean 'mask_h",
        ),
        ({"text_proj.weight": torch.zeros(1)}, "no checkpoint of F-LMM.*found 'text_proj.weight'"),
        ({}, "found nothing"),
        ([1, 2], "expected tensors by name"),
        (state | {"sam.model.mask_decoder.nose": torch.zeros(1)}, "'mask_decoder.nose' is no weig"),
        ({"state_dict": state, "meta": Surprise()}, "refused: it names __builtin__.print"),
    ):
        with pytest.raises(CheckpointError, match=message):
            read_flmm(save(tmp_path / "file.pth", content))
    assert "run!" not in capsys.readouterr().out
    with pytest.raises(CheckpointError, match=r"does not exist: expected a file of torch.save"):
        read_flmm(tmp_path / "gone.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        read_flmm(tmp_path)
    whole = save(tmp_path / "cut.pth", state).read_bytes()
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="damaged"):
        read_flmm(tmp_path / "cut.pth")


def test_only_what_flmm_has_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no place for 'selector.linear.weight'"):
        write_flmm({"selector.linear.weight": torch.zeros(1)}, tmp_path / "x.pth")
    sam2 = {"refiner.sam.mask_decoder.conv_s0.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"'mask_decoder.conv_s0.weight' is no weight of it"):
        write_flmm(sam2, tmp_path / "x.pth")
