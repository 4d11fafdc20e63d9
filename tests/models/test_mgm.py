"""MGM: towers, patch info mining, order of tokens, published names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mgm_folder
import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers as T
from safetensors.torch import load_file, save_file

from inlay.core.errors import ModelError
from inlay.models.mgm.convnext import ConvNeXtTower
from inlay.models.mgm.load import load_mgm
from inlay.models.mgm.model import MGMModel
from inlay.models.mgm.vision import MGMVision

PUBLISHED = [
    # a tower, a stage, a block, a projector of each: names as the original's modules have them
    "model.vision_tower.vision_tower.vision_model.embeddings.class_embedding",
    "model.vision_tower.vision_tower.vision_model.encoder.layers.1.self_attn.q_proj.weight",
    "model.vision_tower_aux.vision_stem.0.weight",
    "model.vision_tower_aux.vision_stages.1.downsample.1.weight",
    "model.vision_tower_aux.vision_stages.1.blocks.1.gamma",
    "model.vision_tower_aux.vision_stages.3.blocks.0.mlp.fc2.bias",
    "model.vlm_uni_query_projector.0.weight",
    "model.vlm_uni_aux_projector.1.bias",
    "model.vlm_uni_val_projector.1.weight",
    "model.mm_projector.2.weight",
]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(mgm_folder.clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mgm")
    return mgm_folder.write(path, hd=True, eyes=mgm_folder.eyes_tensors())


@pytest.fixture(scope="module")
def hd(folder: Path, clip: str) -> MGMModel:
    return load_mgm(str(folder), vision_tower=clip, vision_tower_aux="nowhere", device="cpu")


def _ours(name: str) -> str:
    """Where a published weight belongs in an ``MGMModel``."""
    for old, new in (
        ("model.vision_tower.vision_tower.", "visual_encoder.vision_tower."),
        ("model.vision_tower_aux.", "visual_encoder.vision_tower_aux."),
        ("model.vlm_uni_", "visual_encoder.vlm_uni_"),
        ("model.mm_projector.", "projector.model."),
    ):
        if name.startswith(old):
            return new + name.removeprefix(old)
    return f"llm.{name}"


def test_published_names_fill_the_whole_model(folder: Path, hd: MGMModel) -> None:
    published = {n: t for file in folder.glob("*.safetensors") for n, t in load_file(file).items()}
    assert set(PUBLISHED) <= published.keys()
    own = {name.replace(".vision_model.", "."): t for name, t in hd.state_dict().items()}
    expected = {_ours(n).replace(".vision_model.", "."): t for n, t in published.items()}
    assert own.keys() == expected.keys()
    assert all(torch.equal(own[name], expected[name]) for name in own)
    assert not hd.training and not any(p.requires_grad for p in hd.parameters())
    assert hd.llm.config.rope_parameters["rope_theta"] == mgm_folder.ROPE_THETA


def test_towers_from_their_own_folders(tmp_path: Path, clip: str) -> None:
    mgm = mgm_folder.write(tmp_path / "mgm", eyes=mgm_folder.miner_tensors())
    stem, stages = "visual.trunk.stem", "visual.trunk.stages"
    trunk = mgm_folder.convnext_tensors(stem, stages, seed=4)
    rest = {"visual.head.mlp.fc1.weight": torch.ones(3, 3), "logit_scale": torch.ones(())}
    (tmp_path / "aux").mkdir()
    torch.save(trunk | rest, tmp_path / "aux" / "open_clip_pytorch_model.bin")
    model = load_mgm(
        str(mgm), vision_tower=clip, vision_tower_aux=str(tmp_path / "aux"), device="cpu"
    )
    tower = model.visual_encoder.vision_tower_aux.state_dict()
    assert len(tower) == len(trunk)
    for name, tensor in trunk.items():
        assert torch.equal(tower[name.replace("visual.trunk.", "vision_")], tensor)
    base = load_file(Path(clip) / "model.safetensors")
    weight = model.visual_encoder.vision_tower.state_dict()
    name = next(n for n in base if n.endswith("layers.1.mlp.fc1.weight"))
    assert torch.equal(
        next(t for n, t in weight.items() if n.endswith("layers.1.mlp.fc1.weight")), base[name]
    )


def _reference_convnext(tensors: dict[str, torch.Tensor], pixels: torch.Tensor) -> torch.Tensor:
    """transformers' ConvNext with the same weights; its stages as MGM joins them."""
    config = T.ConvNextConfig(hidden_sizes=list(mgm_folder.WIDTHS), depths=list(mgm_folder.DEPTHS))
    model = T.ConvNextModel(config).eval()
    names = (
        ("vision_stem.0", "embeddings.patch_embeddings"),
        ("vision_stem.1", "embeddings.layernorm"),
        ("vision_stages", "encoder.stages"),
        (".downsample.", ".downsampling_layer."),
        (".blocks.", ".layers."),
        (".gamma", ".layer_scale_parameter"),
        (".conv_dw.", ".dwconv."),
        (".norm.", ".layernorm."),
        (".mlp.fc1.", ".pwconv1."),
        (".mlp.fc2.", ".pwconv2."),
    )
    renamed = {}
    for name, tensor in tensors.items():
        for ours, theirs in names:
            name = name.replace(ours, theirs)
        renamed[name] = tensor
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    assert not unexpected and {m.split(".")[0] for m in missing} == {"layernorm"}
    stages = model(pixels, output_hidden_states=True).hidden_states[1:]
    size = stages[0].shape[-2:]
    return torch.cat([F.interpolate(s, size=size, mode="bilinear") for s in stages], dim=1)


@torch.no_grad()
def test_convnext_is_transformers_own() -> None:
    tensors = mgm_folder.convnext_tensors("vision_stem", "vision_stages")
    tower = ConvNeXtTower.like(tensors)
    tower.load_state_dict(tensors)
    pixels = torch.randn(2, 3, 64, 64)
    expected = _reference_convnext(tensors, pixels)
    assert expected.shape == (2, 28, 16, 16) and expected.std() > 0.1
    torch.testing.assert_close(tower(pixels), expected, atol=1e-5, rtol=1e-4)


def test_convnext_large_has_the_published_size() -> None:
    """197,767,336 weights (arXiv 2201.03545, 198 M), of which 3,072 are of the norm before the
    head and 1,537,000 of the head for 1,000 classes."""
    with torch.device("meta"):
        tower = ConvNeXtTower((192, 384, 768, 1536), (3, 3, 27, 3))
    assert sum(p.numel() for p in tower.parameters()) == 197_767_336 - 3_072 - 1_537_000
    assert tower.hidden_size == 2880


def _norm_linear(x: np.ndarray, tensors: dict[str, np.ndarray], name: str) -> np.ndarray:
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = x * tensors[f"{name}.0.weight"] + tensors[f"{name}.0.bias"]
    return x @ tensors[f"{name}.1.weight"].T + tensors[f"{name}.1.bias"]


def _mined(eyes: MGMVision, tokens: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
    """Patch info mining (arXiv 2403.18814, eq. 1), token by token: ``[T, C]`` and ``[C, h, w]``."""
    tensors = {
        f"vlm_uni_{part}_projector.{name}": tensor.double().numpy()
        for part in ("query", "aux", "val")
        for name, tensor in getattr(eyes, f"vlm_uni_{part}_projector").state_dict().items()
    }
    side = round(len(tokens) ** 0.5)
    cell = fine.shape[-1] // side
    found = []
    for number, token in enumerate(tokens.double().numpy()):
        row, column = divmod(number, side)
        area = fine[:, row * cell : (row + 1) * cell, column * cell : (column + 1) * cell]
        pixels = area.flatten(1).T.double().numpy()
        query = _norm_linear(token, tensors, "vlm_uni_query_projector")
        key = _norm_linear(pixels, tensors, "vlm_uni_aux_projector")
        value = _norm_linear(pixels, tensors, "vlm_uni_val_projector")
        scores = key @ query / np.sqrt(len(query))
        weights = np.exp(scores - scores.max())
        found.append(token + weights @ value / weights.sum())
    return torch.tensor(np.stack(found)).float()


def _clip_tokens(eyes: MGMVision, pixels: torch.Tensor) -> torch.Tensor:
    out = eyes.vision_tower(pixels[None], output_hidden_states=True)
    return out.hidden_states[-2][0, 1:]


def _shrunk(pixels: torch.Tensor, side: int) -> torch.Tensor:
    return F.interpolate(pixels[None], size=(side, side), mode="bilinear")[0]


@torch.no_grad()
def test_one_view_is_mined_patch_by_patch(hd: MGMModel) -> None:
    eyes = MGMVision(
        vision_tower=hd.visual_encoder.vision_tower,
        vision_tower_aux=hd.visual_encoder.vision_tower_aux,
    )
    pixels = torch.randn(2, 3, 64, 64)
    found = eyes(pixels)
    fine = eyes.vision_tower_aux(pixels)
    for i in range(2):
        tokens = _clip_tokens(eyes, _shrunk(pixels[i], 16))
        expected = _mined(eyes, tokens, fine[i])
        assert (expected - tokens).abs().mean() > 0.05
        torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_hd_puts_the_whole_before_the_crops(hd: MGMModel) -> None:
    eyes = hd.visual_encoder
    pixels = torch.randn(2, 3, 128, 128)
    found = eyes(pixels)
    assert found.shape == (2, 5 * 16, 32)
    fine = eyes.vision_tower_aux(pixels)[1]  # [28, 32, 32]
    coarse = _shrunk(pixels[1], 32)
    halved = F.interpolate(fine[None], scale_factor=0.5, mode="bilinear")[0]
    parts = [_mined(eyes, _clip_tokens(eyes, _shrunk(coarse, 16)), halved)]
    for top in (0, 16):
        for left in (0, 16):
            window = (slice(None), slice(top, top + 16), slice(left, left + 16))
            parts.append(_mined(eyes, _clip_tokens(eyes, coarse[window]), fine[window]))
    torch.testing.assert_close(found[1], torch.cat(parts), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_gemma_scales_pictures_as_it_scales_words(tmp_path: Path, clip: str) -> None:
    eyes = mgm_folder.eyes_tensors()
    folder = mgm_folder.write(tmp_path, gemma=True, eyes=eyes)
    model = load_mgm(str(folder), vision_tower=clip, device="cpu")
    entered: list[torch.Tensor] = []

    def note(module: Any, args: tuple[torch.Tensor, ...]) -> None:
        entered.append(args[0])

    model.llm.model.layers[0].register_forward_pre_hook(note)
    pixels = torch.randn(1, 3, 64, 64)
    ids = torch.tensor([[5, *[99] * 16, 7]])
    places = torch.arange(1, 17)
    model.llm.model(inputs_embeds=model.embed(ids, {"pixel_values": pixels}, places))
    seen = model.projector(model.visual_encoder(pixels))[0]
    root = mgm_folder.LLM_WIDTH**0.5
    table = load_file(folder / "model-00001-of-00002.safetensors")["model.embed_tokens.weight"]
    torch.testing.assert_close(entered[0][0, 1:17], seen * root)
    torch.testing.assert_close(entered[0][0, [0, 17]], table[[5, 7]] * root)


def test_dtype_is_of_the_whole_model(folder: Path, clip: str) -> None:
    model = load_mgm(str(folder), vision_tower=clip, dtype="bf16", device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    seen = model.encode(torch.randn(1, 3, 128, 128))
    assert seen.dtype == torch.bfloat16 and seen.isfinite().all()


def test_generates_after_a_picture(hd: MGMModel) -> None:
    ids = torch.tensor([[5, *[99] * 80, 7]])
    out = hd.generate(
        ids,
        images={"pixel_values": torch.randn(1, 3, 128, 128)},
        image_positions=torch.arange(1, 81),
        max_new_tokens=3,
        do_sample=False,
    )
    assert out.shape == (1, 85) and torch.equal(out[:, :82], ids)


def _change(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: _change(folder, model_type="llava"), "model_type of mgm or mgm_gemma"),
        (lambda folder: _change(folder, mm_projector_type="qformer"), "'mlp2x_gelu'"),
        (
            lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(),
            "lacks model-00002",
        ),
        (lambda folder: (folder / "config.json").unlink(), "no MGM folder"),
    ],
)
def test_says_what_is_wrong_with_a_folder(
    tmp_path: Path, clip: str, damage: Any, expected: str
) -> None:
    folder = mgm_folder.write(tmp_path, eyes=mgm_folder.eyes_tensors())
    damage(folder)
    with pytest.raises(ModelError, match=expected):
        load_mgm(str(folder), vision_tower=clip, device="cpu")


@pytest.mark.parametrize(
    ("lost", "expected"),
    [
        ("vlm_uni_aux_projector.1.bias", "vlm_uni_aux_projector"),
        ("mm_projector.0.bias", "mm_projector"),
        ("vision_tower_aux.vision_stages.1.blocks.0.gamma", "no whole ConvNeXt"),
        ("vision_tower_aux.vision_stages.2.blocks.0.norm.bias", "vision_tower_aux"),
    ],
)
def test_names_the_weight_that_is_lost(tmp_path: Path, clip: str, lost: str, expected: str) -> None:
    eyes = {n: t for n, t in mgm_folder.eyes_tensors().items() if n != f"model.{lost}"}
    folder = mgm_folder.write(tmp_path, eyes=eyes)
    with pytest.raises(ModelError, match=expected):
        load_mgm(str(folder), vision_tower=clip, device="cpu")


def test_a_language_model_with_a_hole_is_refused(tmp_path: Path, clip: str) -> None:
    folder = mgm_folder.write(tmp_path, eyes=mgm_folder.eyes_tensors())
    file = folder / "model-00001-of-00002.safetensors"
    words = load_file(file)
    del words["model.layers.1.mlp.up_proj.weight"]
    save_file(words, file, {"format": "pt"})
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    del index["weight_map"]["model.layers.1.mlp.up_proj.weight"]
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"layers\.1\.mlp\.up_proj\.weight"):
        load_mgm(str(folder), vision_tower=clip, device="cpu")
