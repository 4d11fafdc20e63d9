"""From the vision encoder's features to the language model's embeddings."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from inlay.core.errors import CheckpointError, ModelError, did_you_mean
from inlay.core.torch_file import load_torch, state_dict_of

KINDS = ("mlp", "linear", "pixel_shuffle")


@dataclass(frozen=True)
class ProjectorConfig:
    """What ``config.json`` of a projector says; the first five fields are XTuner's.

    Attributes:
        visual_hidden_size, llm_hidden_size: width of the encoder's and of the model's vectors.
        depth: linear layers, with ``hidden_act`` between them.
        hidden_act: a transformers activation.
        bias: whether the layers have one.
        kind: ``"mlp"``, ``"linear"`` or ``"pixel_shuffle"``.
        pixel_shuffle_factor: ``k * k`` patches become one token; 1 keeps them.
        visual_select_layer: the encoder's layer that it was trained on (see ``vision.features``).
    """

    visual_hidden_size: int
    llm_hidden_size: int
    depth: int = 2
    hidden_act: str = "gelu"
    bias: bool = True
    kind: str = "mlp"
    pixel_shuffle_factor: int = 1
    visual_select_layer: int | None = -2


class Projector(nn.Module):
    """Linear layers, after a pixel shuffle where the config has one."""

    def __init__(self, config: ProjectorConfig) -> None:
        super().__init__()
        from transformers.activations import ACT2FN

        self.config = config
        width = config.visual_hidden_size * config.pixel_shuffle_factor**2
        layers: list[nn.Module] = [nn.Linear(width, config.llm_hidden_size, bias=config.bias)]
        for _ in range(1, config.depth):
            layers.append(ACT2FN[config.hidden_act])
            layers.append(
                nn.Linear(config.llm_hidden_size, config.llm_hidden_size, bias=config.bias)
            )
        self.model = nn.Sequential(*layers)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map ``[B, P, visual width]`` to ``[B, P / k**2, model width]``."""
        factor = self.config.pixel_shuffle_factor
        if factor > 1:
            features = pixel_shuffle(features, factor)
        return self.model(features.to(self.model[0].weight.dtype))  # type: ignore[arg-type]


def build_projector(
    kind: str,
    visual_hidden_size: int,
    llm_hidden_size: int,
    *,
    depth: int = 2,
    pixel_shuffle_factor: int = 1,
    visual_select_layer: int | None = -2,
) -> Projector:
    """Build a new projector in float32; its weights follow torch's generator.

    Args:
        kind: ``"mlp"`` (LLaVA-1.5: ``depth`` linear layers with GELU between), ``"linear"`` (one
            layer), or ``"pixel_shuffle"`` (nanoVLM: one without bias, N(0, 0.02)).
        pixel_shuffle_factor: side of the blocks of patches that become one token, for every kind.

    Raises:
        ModelError: an unknown kind.
    """
    if kind not in KINDS:
        raise ModelError(
            f"projector must be one of {', '.join(KINDS)}, got '{kind}'.{did_you_mean(kind, KINDS)}"
        )
    shuffles = kind == "pixel_shuffle"
    config = ProjectorConfig(
        visual_hidden_size,
        llm_hidden_size,
        depth=depth if kind == "mlp" else 1,
        bias=not shuffles,
        kind=kind,
        pixel_shuffle_factor=pixel_shuffle_factor,
        visual_select_layer=visual_select_layer,
    )
    projector = Projector(config)
    if shuffles:
        nn.init.normal_(projector.model[0].weight, std=0.02)  # type: ignore[arg-type]
    return projector


def pixel_shuffle(features: torch.Tensor, factor: int) -> torch.Tensor:
    """Concatenate blocks of ``factor x factor`` patches (row, column, channel) into one vector.

    Args:
        features: ``[B, side * side, width]``, patches row by row.

    Returns:
        ``[B, (side / factor)**2, factor**2 * width]``.

    Raises:
        ModelError: the patches are no square, or its side is no multiple of ``factor``.
    """
    side = round(features.shape[1] ** 0.5)
    if side * side != features.shape[1] or side % factor:
        raise ModelError(
            f"a pixel shuffle by {factor} needs a square of patches with a side that is a multiple "
            f"of {factor}, got {features.shape[1]} patches: change pixel_shuffle_factor or the "
            "picture's size"
        )
    blocks = features.unflatten(1, (side // factor, factor, side // factor, factor))
    return blocks.transpose(2, 3).flatten(3).flatten(1, 2)


def save_projector(projector: Projector, folder: str | Path) -> None:
    """Write ``config.json`` and ``model.safetensors``, by the names that XTuner gives them."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = {"architectures": ["ProjectorModel"], "model_type": "projector"}
    text = json.dumps({**config, **asdict(projector.config)}, indent=2)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")
    tensors = {name: t.contiguous() for name, t in projector.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def load_projector(folder: str | Path) -> Projector:
    """Read a projector that Inlay or XTuner has written, in the dtype of its weights.

    Raises:
        ModelError: files are missing, or they do not fit each other.
    """
    folder = Path(folder)
    try:
        stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        known = {f.name for f in fields(ProjectorConfig)}
        projector = Projector(ProjectorConfig(**{k: v for k, v in stored.items() if k in known}))
        tensors = _weights(folder)
        projector.load_state_dict(tensors)
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, CheckpointError) as error:
        raise ModelError(
            f"cannot load a projector from '{folder}': expected config.json with its sizes and "
            f"model.safetensors that fits ({error})"
        ) from error
    return projector.to(next(iter(tensors.values())).dtype)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    """``model.safetensors``, or ``pytorch_model.bin``, as XTuner writes it by default."""
    old = folder / "pytorch_model.bin"
    if old.is_file() and not (folder / "model.safetensors").is_file():
        return state_dict_of(load_torch(old), old)
    return load_file(folder / "model.safetensors")
