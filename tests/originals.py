"""The models under the files in ``convert/originals``, from a formula, and their losses there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent / "convert" / "originals"

LOSSES = {
    "sft": 5.704761028289795,
    "pretrain": 5.696410179138184,
    "finetune": 5.644108772277832,
}
"""Mean cross entropy in nats, by XTuner's models on :func:`ids` (of LLaVA with a picture)."""

VOCABULARY = 259
IMAGE_AT, IMAGE_TOKENS = 2, 4


def fill(model: torch.nn.Module) -> Any:
    """Give every weight values that depend on its place among the sorted names alone."""
    with torch.no_grad():
        for number, (name, weight) in enumerate(sorted(model.named_parameters())):
            wave = torch.sin(torch.arange(weight.numel(), dtype=torch.float64) * 0.7 + number) * 0.3
            is_scale = "norm" in name and name.endswith("weight")
            weight.copy_((wave + is_scale).reshape(weight.shape).float())
    return model


def llama() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        bos_token_id=None,
        tie_word_embeddings=False,
    )
    return fill(LlamaForCausalLM(config))


def clip() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
    )
    return fill(CLIPVisionModel(config))


def ids() -> torch.Tensor:
    """Twelve token ids ``[1, 12]``."""
    return torch.tensor([[236, 48, 237, 167, 110, 30, 90, 25, 231, 239, 14, 91]])


def text_loss(model: Any) -> float:
    """Mean loss of a ``SupervisedFinetune`` on :func:`ids`, all of them trained."""
    row = ids()
    model.eval()
    with torch.no_grad():
        out = model(row, row, torch.arange(12)[None], torch.tensor([0, 12], dtype=torch.int32))
    return float(out.loss_sum) / out.loss_units


def picture_loss(model: Any) -> float:
    """Mean loss of a ``LLaVAModel`` on :func:`ids` with a picture in place of the third."""
    row, after = ids(), IMAGE_AT + IMAGE_TOKENS
    spread = torch.cat([row[:, :IMAGE_AT], torch.zeros(1, IMAGE_TOKENS).long(), row[:, 3:]], 1)
    labels = spread.clone()
    labels[:, IMAGE_AT:after] = -100
    count = spread.shape[1]
    pixels = torch.sin(torch.arange(3 * 28 * 28) * 0.1).reshape(1, 3, 28, 28)
    model.eval()
    with torch.no_grad():
        out = model(
            spread,
            labels,
            torch.arange(count)[None],
            torch.tensor([0, count], dtype=torch.int32),
            images={"pixel_values": pixels},
            image_positions=torch.arange(IMAGE_AT, after),
        )
    return float(out.loss_sum) / out.loss_units
