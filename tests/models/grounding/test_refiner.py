"""SAM as a refiner against a loop over masks, written from the paper's description."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny_sam import SIDE, WIDTH, tiny_sam
from torch import Tensor

from inlay.core.errors import ConfigError, ModelError
from inlay.models.grounding.prompts import boxes_around, mask_prompt
from inlay.models.grounding.sam import SamRefiner, config_of

SIZES = [(130, 80), (60, 151), (64, 64)]  # width, height
INNER = [(59, 96), (96, 38), (96, 96)]  # height, width: int(side * 96 / longest + 0.5)
COUNTS = [2, 0, 3]
LENGTHS = [1, 4, 2, 7, 2]


@pytest.fixture(scope="module")
def sam() -> Any:
    return tiny_sam()


def refiner_of(sam: Any, **settings: Any) -> SamRefiner:
    return SamRefiner(sam=copy.deepcopy(sam), **settings)


def pictures() -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [
        torch.randint(256, (3, *inner), dtype=torch.uint8, generator=generator) for inner in INNER
    ]


def coarse_logits() -> list[Tensor]:
    """Blobs whose boxes differ; the second mask of the first picture is empty."""
    generator = torch.Generator().manual_seed(6)
    found = []
    for count, (width, height) in zip(COUNTS, SIZES, strict=True):
        shape = (count, max(3, height // 9), max(3, width // 9))
        found.append(2 * torch.randn(shape, generator=generator))
    found[0][1] = -0.5 - found[0][1].abs()
    found[2][0, :, :3] = -4.0
    found[2][0, 2:] = -4.0
    return found


def words() -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(length, WIDTH, generator=generator) for length in LENGTHS]


def one_mask(
    sam: Any,
    picture: Tensor,
    logits: Tensor,
    lowest: float,
    text: Tensor | None,
    size: tuple[int, int],
    *,
    use_mask: bool = True,
    use_box: bool = True,
    multimask_output: bool = False,
) -> Tensor:
    """The reference: one picture, one mask ``[h, w]``, one call of SAM; all sizes spelled out."""
    width, height = size
    inner_h, inner_w = picture.shape[-2:]
    mean = np.array([123.675, 116.28, 103.53]).reshape(3, 1, 1)
    std = np.array([58.395, 57.12, 57.375]).reshape(3, 1, 1)
    square = np.zeros((1, 3, SIDE, SIDE), np.float32)
    square[0, :, :inner_h, :inner_w] = (picture.numpy() - mean) / std
    prompt = None
    if use_mask:
        whole = torch.full((1, 1, SIDE, SIDE), min(-1.0, lowest))
        whole[..., :inner_h, :inner_w] = F.interpolate(
            logits[None, None], size=(inner_h, inner_w), mode="bilinear", align_corners=False
        )
        prompt = F.interpolate(whole, size=(24, 24), mode="bilinear", align_corners=False)
    odds = logits.sigmoid()[None, None]
    odds = F.interpolate(odds, size=(height, width), mode="bilinear", align_corners=False)
    coarse = odds[0, 0].detach().numpy() > 0.5
    rows, columns = np.nonzero(coarse)
    box = [0, 0, width, height]
    if len(rows):
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    scaled = np.array(box) * np.array([inner_w / width, inner_h / height] * 2)
    boxes = torch.tensor(scaled, dtype=torch.float32).view(1, 1, 4) if use_box else None
    if text is None:
        low = sam(
            pixel_values=torch.from_numpy(square),
            input_boxes=boxes,
            input_masks=prompt,
            multimask_output=multimask_output,
        ).pred_masks
    else:
        sparse, dense = sam.prompt_encoder(None, None, boxes, prompt)
        tokens = text[None, None]
        low, _ = sam.mask_decoder(
            image_embeddings=sam.vision_encoder(torch.from_numpy(square))[0],
            image_positional_embeddings=sam.get_image_wide_positional_embeddings(),
            sparse_prompt_embeddings=tokens if sparse is None else torch.cat([sparse, tokens], 2),
            dense_prompt_embeddings=dense,
            multimask_output=multimask_output,
        )
    big = F.interpolate(low[0], size=(SIDE, SIDE), mode="bilinear", align_corners=False)
    cut = big[..., :inner_h, :inner_w]
    fine = F.interpolate(cut, size=(height, width), mode="bilinear", align_corners=False)[0]
    overlaps = [
        (coarse & (f > 0)).sum() / max((coarse | (f > 0)).sum(), 1) for f in fine.detach().numpy()
    ]
    return fine[int(np.argmax(overlaps))] if multimask_output else fine[0]


def looped(sam: Any, text: list[Tensor] | None, **settings: Any) -> list[Tensor]:
    found, words_left = [], iter(text or ())
    for picture, logits, size in zip(pictures(), coarse_logits(), SIZES, strict=True):
        fine = [
            one_mask(
                sam,
                picture,
                mask,
                logits.min().item(),
                next(words_left) if text else None,
                size,
                **settings,
            )
            for mask in logits
        ]
        found.append(torch.stack(fine) if fine else torch.zeros(0, size[1], size[0]))
    return found


def assert_close(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    assert [tuple(o.shape) for o in ours] == [tuple(t.shape) for t in theirs]
    scale = max(t.abs().max().item() for t in theirs if t.numel())
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("multimask_output", [False, True])
@pytest.mark.parametrize(
    ("use_text", "use_mask", "use_box"),
    [(True, True, True), (False, True, True), (True, False, False), (False, True, False)],
)
def test_equals_the_loop_over_masks(
    sam: Any, use_text: bool, use_mask: bool, use_box: bool, multimask_output: bool
) -> None:
    settings = {"use_mask": use_mask, "use_box": use_box, "multimask_output": multimask_output}
    text = words() if use_text else None
    refiner = refiner_of(sam, use_text=use_text, **settings)
    with torch.no_grad():
        fine = refiner(refiner.embed(pictures()), coarse_logits(), text, SIZES)
        assert_close(fine, looped(sam, text, **settings), 3e-5)


def test_padding_of_text_changes_nothing(sam: Any) -> None:
    refiner = refiner_of(sam)
    embeddings, sizes, text = refiner.embed(pictures())[2:], SIZES[2:], words()
    logits = coarse_logits()[2][:1]
    with torch.no_grad():
        together = refiner(embeddings, [logits.expand(len(text), -1, -1)], text, sizes)[0]
        alone = torch.cat([refiner(embeddings, [logits], [own], sizes)[0] for own in text])
    assert (together - alone).abs().max() / alone.abs().max() < 1e-6
    assert (alone[0] - alone[1]).abs().max() / alone.abs().max() > 0.1  # the words do matter


def test_other_masks_of_the_batch_change_nothing_but_bits(sam: Any) -> None:
    refiner = refiner_of(sam)
    embeddings, logits, text = refiner.embed(pictures()), coarse_logits(), words()
    with torch.no_grad():
        together = refiner(embeddings, logits, text, SIZES)
        first = refiner(embeddings[:1], logits[:1], text[:2], SIZES[:1])
        last = refiner(embeddings[2:], logits[2:], text[2:], SIZES[2:])
    assert_close([together[0], together[2]], [first[0], last[0]], 1e-6)


def test_gradient_reaches_masks_words_and_every_trained_weight(sam: Any) -> None:
    refiner = refiner_of(sam).train()
    logits = [part.requires_grad_() for part in coarse_logits()]
    text = [part.requires_grad_() for part in words()]
    embeddings = refiner.embed(pictures())
    assert not any(t.requires_grad for e in embeddings for t in e.values())
    fine = refiner(embeddings, logits, text, SIZES)
    sum(part.square().mean() for part in fine if len(part)).backward()
    assert all(part.grad.abs().sum() > 0 for part in [logits[0], logits[2], *text])
    trained = {name: p for name, p in refiner.named_parameters() if p.requires_grad}
    assert {name.split(".")[1] for name in trained} == {"prompt_encoder", "mask_decoder"}
    assert all(p.grad is not None for p in trained.values())
    for name in ("mask_decoder.mask_tokens", "prompt_encoder.mask_embed.conv1"):
        assert trained[f"sam.{name}.weight"].grad.abs().sum() > 0
    # nobody reads the head that guesses the IoU
    assert trained["sam.mask_decoder.iou_prediction_head.proj_in.weight"].grad.abs().sum() == 0
    assert not any("positional_embedding" in name for name in trained)


def test_without_mask_prompt_no_gradient_reaches_the_masks(sam: Any) -> None:
    refiner = refiner_of(sam, use_mask=False)
    logits = [part.requires_grad_() for part in coarse_logits()]
    fine = refiner(refiner.embed(pictures()), logits, words(), SIZES)
    assert torch.autograd.grad(fine[0].sum(), logits[0], allow_unused=True) == (None,)


def test_boxes_and_positions_are_float32_under_autocast(sam: Any) -> None:
    refiner = refiner_of(sam)
    seen: list[tuple[Tensor, Tensor]] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        prompts = kwargs["sparse_prompt_embeddings"][:, 0, :2]
        seen.append((prompts, kwargs["image_positional_embeddings"]))

    refiner.sam.mask_decoder.register_forward_pre_hook(note, with_kwargs=True)
    embeddings, logits = refiner.embed(pictures()), coarse_logits()
    with torch.no_grad():
        whole = refiner(embeddings, logits, words(), SIZES)
        with torch.autocast("cpu", torch.bfloat16):
            half = refiner(embeddings, logits, words(), SIZES)
    for plain, lowered in zip(*seen, strict=True):
        assert lowered.dtype == torch.float32
        assert torch.equal(plain, lowered)
    assert all(part.dtype == torch.float32 for part in half)
    error = (half[0] - whole[0]).abs().mean() / whole[0].abs().mean()
    assert 1e-5 < error < 0.05  # the decoder itself did run in bfloat16


def test_a_picture_without_masks_gives_none(sam: Any) -> None:
    refiner = refiner_of(sam)
    none = [part[:0] for part in coarse_logits()]
    fine = refiner(refiner.embed(pictures()), none, [], SIZES)
    assert [tuple(part.shape) for part in fine] == [(0, 80, 130), (0, 151, 60), (0, 64, 64)]


def test_boxes_are_exclusive_and_an_empty_mask_is_the_whole_picture() -> None:
    masks = torch.zeros(3, 5, 8, dtype=torch.bool)
    masks[0, 1:3, 2:7] = True
    masks[0, 2, 3:6] = False
    masks[1, 4, 0] = True
    assert boxes_around(masks).tolist() == [[2, 1, 7, 3], [0, 4, 1, 5], [0, 0, 8, 5]]


def test_around_the_picture_the_mask_prompt_is_surely_background() -> None:
    logits = torch.tensor([[[0.5, 0.5]], [[0.5, -3.0]]])
    prompt = mask_prompt(logits, (8, 16), 16, 4)
    assert prompt.shape == (2, 1, 4, 4)
    torch.testing.assert_close(prompt[0, 0], torch.tensor([[0.5] * 4] * 2 + [[-3.0] * 4] * 2))
    assert mask_prompt(logits[:1], (8, 16), 16, 4)[0, 0, 3, 0] == -1.0


def test_input_sizes_round_half_up_and_never_vanish(sam: Any) -> None:
    refiner = refiner_of(sam)
    assert [refiner.input_size(size) for size in SIZES] == INNER
    assert refiner.input_size((5000, 3)) == (1, 96)
    assert (refiner.picture_size, refiner.text_dim) == (SIDE, WIDTH)


def test_embeddings_do_not_depend_on_mode_or_company(sam: Any) -> None:
    refiner = refiner_of(sam)
    together = refiner.embed(pictures())
    alone = refiner.train().embed(pictures()[1:2])
    assert torch.equal(together[1]["image"], alone[0]["image"])
    assert together[0]["image"].shape == (WIDTH, 6, 6)
    assert not refiner.sam.vision_encoder.training and refiner.sam.mask_decoder.training


def test_a_trained_encoder_gets_gradients(sam: Any) -> None:
    refiner = refiner_of(sam, freeze_encoder=False).train()
    assert refiner.sam.vision_encoder.training
    fine = refiner(refiner.embed(pictures()), coarse_logits(), words(), SIZES)
    fine[0].sum().backward()
    assert refiner.sam.vision_encoder.patch_embed.projection.weight.grad.abs().sum() > 0


def test_normalises_with_the_constant_of_segment_anything() -> None:
    theirs, plain = tiny_sam(), tiny_sam()
    for layer in plain.mask_decoder.transformer.layers:
        for number in range(1, 5):
            getattr(layer, f"layer_norm{number}").eps = 1e-6  # what transformers makes of it
    prompts = ([logits * 0 - 1 for logits in coarse_logits()], [word * 1e-3 for word in words()])
    with torch.no_grad():
        a, b = (r(r.embed(pictures()), *prompts, SIZES) for r in map(refiner_of, (theirs, plain)))
    assert torch.equal(a[0], b[0])


def test_identity_follows_the_encoder_alone(sam: Any) -> None:
    refiner = refiner_of(sam)
    identity = refiner.identity()
    with torch.no_grad():
        next(refiner.sam.mask_decoder.parameters()).add_(1)
    assert refiner.identity() == identity == refiner_of(sam, use_text=False).identity()
    with torch.no_grad():
        refiner.sam.vision_encoder.pos_embed.add_(1e-3)
    assert refiner.identity() != identity


def test_refuses_pictures_of_another_size(sam: Any) -> None:
    with pytest.raises(ModelError, match=r"longest side is 96 px, found 50 x 95"):
        refiner_of(sam).embed([torch.zeros(3, 95, 50, dtype=torch.uint8)])


def test_refuses_missing_text_and_no_prompt_at_all(sam: Any) -> None:
    refiner = refiner_of(sam)
    with pytest.raises(ModelError, match="use_text=False"):
        refiner(refiner.embed(pictures()), coarse_logits(), None, SIZES)
    with pytest.raises(ConfigError, match="at least one"):
        SamRefiner(sam=sam, use_text=False, use_mask=False, use_box=False)


def test_loads_a_folder_in_hugging_face_layout(sam: Any, tmp_path: Path) -> None:
    sam.save_pretrained(tmp_path)
    refiner = SamRefiner.from_pretrained(str(tmp_path), use_box=False)
    assert not refiner.use_box
    theirs = refiner_of(sam).sam.state_dict()
    assert refiner.sam.state_dict().keys() == theirs.keys()
    assert all(torch.equal(w, theirs[name]) for name, w in refiner.sam.state_dict().items())


@pytest.mark.parametrize("settings", [{}, {"global_attn_indexes": [0, 1]}, {"mlp_dim": 40}])
def test_loads_an_original_checkpoint(settings: dict[str, Any], tmp_path: Path) -> None:
    from inlay.models.grounding.sam_names import from_hf

    sam = tiny_sam(**settings)
    torch.save(from_hf(sam.state_dict()), tmp_path / "sam.pth")
    refiner = SamRefiner.from_pretrained(str(tmp_path / "sam.pth"))
    whole = refiner_of(sam)
    assert refiner.identity() == whole.identity()
    with torch.no_grad():
        ours, theirs = (
            r(r.embed(pictures()), coarse_logits(), words(), SIZES) for r in (refiner, whole)
        )
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    ("name", "width", "layers", "heads", "indexes"),
    [
        ("vit_b", 768, 12, 12, [2, 5, 8, 11]),
        ("vit_l", 1024, 24, 16, [5, 11, 17, 23]),
        ("vit_h", 1280, 32, 16, [7, 15, 23, 31]),
    ],
)
def test_tells_the_published_sizes_from_shapes(
    name: str, width: int, layers: int, heads: int, indexes: list[int]
) -> None:
    from transformers import SamConfig, SamModel

    vision = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "global_attn_indexes": indexes,
    }
    config = SamConfig(vision_config=vision)
    with torch.device("meta"):
        weights = SamModel(config).state_dict()
    found = config_of(weights)
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        assert getattr(found, part).to_dict() == getattr(config, part).to_dict()


def test_says_what_is_wrong_with_a_checkpoint(sam: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"cannot read the SAM checkpoint .*gone\.pth"):
        SamRefiner.from_pretrained(str(tmp_path / "gone.pth"))
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ModelError, match="not an original SAM checkpoint"):
        SamRefiner.from_pretrained(str(tmp_path / "other.pth"))
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(ModelError, match="not an original SAM checkpoint"):
        SamRefiner.from_pretrained(str(tmp_path / "text.pth"))
    with pytest.raises(ModelError, match="cannot load SamModel"):
        SamRefiner.from_pretrained(str(tmp_path / "nowhere"))
    sam.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"'vit_l' \(1024 wide\).* is 24 wide"):
        SamRefiner.from_pretrained(str(tmp_path), model_name="vit_l")
    with pytest.raises(ModelError, match="Did you mean 'vit_b'"):
        SamRefiner.from_pretrained(str(tmp_path), model_name="vitb")
