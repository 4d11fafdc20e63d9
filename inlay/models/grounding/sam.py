"""SAM as a refiner (arXiv 2304.02643): transformers' weights and those of the original."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from inlay.core.errors import CheckpointError, ModelError, did_you_mean
from inlay.models.grounding.prompts import Size
from inlay.models.grounding.refiner import Refiner
from inlay.models.grounding.sam_names import to_hf

WIDTHS = {"vit_b": 768, "vit_l": 1024, "vit_h": 1280}
NUM_HEADS = 8
"""Of every published mask decoder: the one number that the shapes of its weights do not tell."""


class SamRefiner(Refiner):
    """Refines masks with SAM. Pictures keep their shape: padded at the right or at the bottom.

    Args: as of ``Refiner``; ``sam`` is a ``SamModel``.
    """

    @classmethod
    def from_pretrained(
        cls,
        checkpoint: str,
        model_name: str | None = None,
        use_text: bool = True,
        use_mask: bool = True,
        use_box: bool = True,
        multimask_output: bool = False,
        freeze_encoder: bool = True,
    ) -> SamRefiner:
        """Load SAM.

        Args:
            checkpoint: a folder in Hugging Face layout, a hub name, or an original ``.pth`` file.
            model_name: ``"vit_b"``, ``"vit_l"`` or ``"vit_h"``: what the checkpoint must be. It is
                told from the weights where this is None.
            use_text, use_mask, use_box, multimask_output, freeze_encoder: as of ``Refiner``.

        Raises:
            ModelError: no SAM is there, or another one.
        """
        sam = load_sam(checkpoint)
        if model_name is not None:
            _check_name(model_name, sam.config.vision_config.hidden_size, checkpoint)
        return cls(
            sam=sam,
            use_text=use_text,
            use_mask=use_mask,
            use_box=use_box,
            multimask_output=multimask_output,
            freeze_encoder=freeze_encoder,
        )

    def input_size(self, size: Size) -> Size:
        """Return the height and width of a picture whose longest side is ``picture_size`` px.

        Args:
            size: width and height of the picture, in px.
        """
        scale = self.picture_size / max(size)
        width, height = (max(1, int(side * scale + 0.5)) for side in size)
        return height, width

    def _fit(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        return F.pad(pixels, (0, self.picture_size - width, 0, self.picture_size - height))

    def _encode(self, pixels: Tensor) -> dict[str, Tensor]:
        return {"image": self.sam.vision_encoder(pixels).last_hidden_state[0]}

    def _decode(self, owners: Sequence[dict[str, Tensor]], sparse: Tensor, dense: Tensor) -> Tensor:
        return self.sam.mask_decoder(
            image_embeddings=torch.stack([own["image"] for own in owners]),
            image_positional_embeddings=self._picture_positions(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=self.multimask_output,
        )[0]


def load_sam(checkpoint: str) -> Any:
    """Return a ``SamModel`` in float32 from a folder, a hub name or an original ``.pth`` file.

    Raises:
        ModelError: no SAM is there.
    """
    if Path(checkpoint).suffix == ".pth":
        return _load_original(checkpoint)
    from transformers import SamModel

    return load_hf(SamModel, checkpoint, ("sam",))


def load_hf(architecture: Any, name: str, model_types: Sequence[str]) -> Any:
    """Return a whole model of transformers in float32.

    Args:
        architecture: its class.
        name: a folder or a hub name.
        model_types: the ``model_type`` that its configuration may have.

    Raises:
        ModelError: nothing there, another model, or weights are missing.
    """
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(name).model_type
        if found not in model_types:
            raise ModelError(f"'{name}' holds a '{found}' model; expected '{model_types[0]}'")
        model, info = architecture.from_pretrained(
            name, dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load {architecture.__name__} from '{name}': {error}") from error
    if missing := sorted(info["missing_keys"]):
        raise ModelError(
            f"'{name}' does not hold a whole {architecture.__name__}: {len(missing)} weights are "
            f"missing, first '{missing[0]}'"
        )
    return model


def _load_original(checkpoint: str) -> Any:
    """Return a ``SamModel`` with the weights of an original ``.pth`` file."""
    from pickle import UnpicklingError

    from transformers import SamModel

    try:
        weights = to_hf(torch.load(checkpoint, map_location="cpu", weights_only=True))
        config = config_of(weights)
        with torch.device("meta"):
            sam = SamModel(config)
        sam.load_state_dict(weights, assign=True)
    except OSError as error:
        raise ModelError(f"cannot read the SAM checkpoint '{checkpoint}': {error}") from error
    except (CheckpointError, UnpicklingError, KeyError, RuntimeError, AttributeError) as error:
        raise ModelError(
            f"'{checkpoint}' is not an original SAM checkpoint (such as sam_vit_l_0b3195.pth): "
            f"{error}"
        ) from error
    return sam.float()


def config_of(weights: dict[str, Tensor]) -> Any:
    """Tell the configuration of a ``SamModel`` from the shapes of its weights.

    Args:
        weights: by the names of transformers.

    Raises:
        KeyError: a weight is missing.
    """
    from transformers import SamConfig

    shapes = {name: tuple(weight.shape) for name, weight in weights.items()}
    width, _, patch, _ = shapes["vision_encoder.patch_embed.projection.weight"]
    grid = shapes["vision_encoder.pos_embed"][1]
    hidden = shapes["mask_decoder.iou_token.weight"][1]
    layer = "mask_decoder.transformer.layers.0"
    image = {"image_size": grid * patch, "patch_size": patch}
    encoder = "vision_encoder.layers"
    # A layer's relative positions reach over its window: 2 * window - 1 of them.
    reach = [shapes[f"{encoder}.{i}.attn.rel_pos_h"] for i in range(_count(shapes, encoder))]
    windows = [(length + 1) // 2 for length, _ in reach]
    vision = image | {
        "hidden_size": width,
        "mlp_dim": shapes[f"{encoder}.0.mlp.lin1.weight"][0],
        "num_hidden_layers": len(windows),
        "num_attention_heads": width // reach[0][1],
        "output_channels": shapes["vision_encoder.neck.conv1.weight"][0],
        "window_size": min(windows),
        "global_attn_indexes": [i for i, window in enumerate(windows) if window == grid],
        "num_pos_feats": shapes["shared_image_embedding.positional_embedding"][1],
    }
    prompt = image | {
        "hidden_size": hidden,
        "mask_input_channels": shapes["prompt_encoder.mask_embed.conv3.weight"][1],
    }
    iou_head = "mask_decoder.iou_prediction_head"
    decoder = {
        "hidden_size": hidden,
        "mlp_dim": shapes[f"{layer}.mlp.lin1.weight"][0],
        "num_hidden_layers": _count(shapes, "mask_decoder.transformer.layers"),
        "num_attention_heads": NUM_HEADS,
        "attention_downsample_rate": hidden
        // shapes[f"{layer}.cross_attn_token_to_image.q_proj.weight"][0],
        "num_multimask_outputs": shapes["mask_decoder.mask_tokens.weight"][0] - 1,
        "iou_head_depth": _count(shapes, f"{iou_head}.layers") + 2,
        "iou_head_hidden_dim": shapes[f"{iou_head}.proj_in.weight"][0],
    }
    return SamConfig(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder
    )


def _count(names: dict[str, Any], prefix: str) -> int:
    """Number of layers under ``prefix``."""
    under = (name[len(prefix) + 1 :] for name in names if name.startswith(f"{prefix}."))
    return len({name.split(".")[0] for name in under})


def _check_name(model_name: str, width: int, checkpoint: str) -> None:
    if model_name not in WIDTHS:
        raise ModelError(
            f"model_name must be one of {', '.join(WIDTHS)}, found '{model_name}'."
            f"{did_you_mean(model_name, WIDTHS)}"
        )
    if WIDTHS[model_name] != width:
        raise ModelError(
            f"model_name is '{model_name}' ({WIDTHS[model_name]} wide), but the encoder of "
            f"'{checkpoint}' is {width} wide. Drop model_name, or name the right checkpoint."
        )
