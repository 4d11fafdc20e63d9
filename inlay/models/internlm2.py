"""InternLM2 in transformers' terms, under the names of its published checkpoints.

It is a Llama whose queries, keys and values come from one matrix, ``wqkv``. With modules named as
in the checkpoints, weights need no renaming, and LoRA adapters carry InternLM2's own names.
``to_llama`` gives the same model under Llama's names.

Importing this module makes ``AutoConfig``, ``AutoModelForCausalLM`` and ``AutoTokenizer`` use these
classes for ``model_type: internlm2``: the Python files in such a folder are neither needed nor run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaModel,
    LlamaPreTrainedModel,
    LlamaRMSNorm,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)

from inlay.core.errors import ModelError
from inlay.models.internlm2_tokenizer import InternLM2Tokenizer, register_tokenizer

LLAMA_NAMES = {
    "tok_embeddings": "embed_tokens",
    "attention": "self_attn",
    "wo": "o_proj",
    "feed_forward": "mlp",
    "w1": "gate_proj",
    "w2": "down_proj",
    "w3": "up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "output": "lm_head",
}
"""InternLM2's module names in Llama's; ``wqkv`` is three modules there (``split_wqkv``)."""

_LLAMAS_OWN = ("head_dim", "mlp_bias", "pretraining_tp", "rope_parameters")
"""Fields of Llama's config that the published one does not have."""


class InternLM2Config(LlamaConfig):
    """Llama's config, read from and written as InternLM2's ``config.json``.

    Args:
        bias: of ``wqkv`` and ``wo``; Llama calls it ``attention_bias``.
    """

    model_type = "internlm2"
    tokenizer_class: ClassVar[str] = InternLM2Tokenizer.__name__  # where no file names one
    attribute_map: ClassVar[dict[str, str]] = {"attention_bias": "bias"}
    base_model_tp_plan: ClassVar[dict[str, Any]] = {}
    base_model_pp_plan: ClassVar[dict[str, Any]] = {}
    base_model_fsdp_plan: ClassVar[dict[Any, str]] = {
        "tok_embeddings": "free_full_weight",
        "layers.*": "free_full_weight",
        "norm": "keep_full_weight",
    }

    bias: bool = True

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """The attention that the file names is a choice of the published code, not of ours."""
        fields = {k: v for k, v in config_dict.items() if k != "attn_implementation"}
        return super().from_dict(fields, **kwargs)

    def to_dict(self) -> dict[str, Any]:
        fields = super().to_dict()
        rope = {k: v for k, v in (self.rope_parameters or {}).items() if k != "type"}
        fields["rope_theta"] = rope.pop("rope_theta")
        kind = rope.pop("rope_type")
        fields["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
        return {k: v for k, v in fields.items() if k not in _LLAMAS_OWN}

    def to_diff_dict(self) -> dict[str, Any]:
        """What ``config.json`` gets; the published code knows ``dtype`` by its old name only."""
        fields = super().to_diff_dict()
        return {"torch_dtype" if k == "dtype" else k: v for k, v in fields.items()}

    @property
    def groups(self) -> int:
        """Query heads of each key-value head."""
        return self.num_attention_heads // (self.num_key_value_heads or self.num_attention_heads)


class InternLM2Attention(nn.Module):
    """Grouped-query attention with a fused projection."""

    def __init__(self, config: InternLM2Config, layer_idx: int) -> None:
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim: int = config.hidden_size // config.num_attention_heads
        self.num_key_value_groups = config.groups
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True
        width = config.num_attention_heads * self.head_dim
        fused = width // config.groups * (config.groups + 2)
        self.wqkv = nn.Linear(config.hidden_size, fused, bias=config.bias)
        self.wo = nn.Linear(width, config.hidden_size, bias=config.bias)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return ``[B, N, hidden]`` and, where the attention function gives them, its weights."""
        rows = hidden_states.shape[:-1]
        heads = split_wqkv(self.wqkv(hidden_states), self.num_key_value_groups, self.head_dim)
        query, key, value = (x.view(*rows, -1, self.head_dim).transpose(1, 2) for x in heads)
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        out, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.wo(out.reshape(*rows, -1)), weights


def split_wqkv(
    fused: torch.Tensor, groups: int, head_dim: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Split what ``wqkv`` gives, or its transposed weight, into queries, keys and values.

    Args:
        fused: ``[..., key-value heads * (groups + 2) * head_dim]``: for each key-value head its
            ``groups`` query heads, then its key, then its value.

    Returns:
        ``[..., heads * head_dim]`` and twice ``[..., key-value heads * head_dim]``.
    """
    by_head = fused.unflatten(-1, (-1, groups + 2, head_dim))
    query, key, value = by_head.split((groups, 1, 1), dim=-2)
    return query.flatten(-3), key.flatten(-3), value.flatten(-3)


class InternLM2FeedForward(nn.Module):
    """SwiGLU: ``w2(silu(w1 x) * w3 x)``."""

    def __init__(self, config: InternLM2Config) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w2(nn.functional.silu(self.w1(x)) * self.w3(x))


class InternLM2DecoderLayer(GradientCheckpointingLayer):
    """Attention and feed-forward, each behind its RMSNorm and beside a residual."""

    def __init__(self, config: InternLM2Config, layer_idx: int) -> None:
        super().__init__()
        self.attention = InternLM2Attention(config, layer_idx)
        self.feed_forward = InternLM2FeedForward(config)
        self.attention_norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.ffn_norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        attended, _ = self.attention(self.attention_norm(hidden_states), **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.feed_forward(self.ffn_norm(hidden_states))


class InternLM2PreTrainedModel(LlamaPreTrainedModel):
    config: InternLM2Config
    config_class = InternLM2Config
    _no_split_modules = ["InternLM2DecoderLayer"]
    _can_record_outputs = {
        "hidden_states": InternLM2DecoderLayer,
        "attentions": InternLM2Attention,
    }
    _input_embed_layer = "tok_embeddings"


class InternLM2Model(InternLM2PreTrainedModel, LlamaModel):
    """``LlamaModel``'s forward over modules of InternLM2's names."""

    def __init__(self, config: InternLM2Config) -> None:
        LlamaPreTrainedModel.__init__(self, config)  # not LlamaModel's, which makes its own modules
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(
            InternLM2DecoderLayer(config, number) for number in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = LlamaRotaryEmbedding(config=config)
        self.gradient_checkpointing = False
        self.post_init()

    @property
    def embed_tokens(self) -> nn.Embedding:  # type: ignore[override]
        return self.tok_embeddings


class InternLM2ForCausalLM(InternLM2PreTrainedModel, LlamaForCausalLM):
    """``LlamaForCausalLM``'s forward over modules of InternLM2's names."""

    _tied_weights_keys = {"output.weight": "model.tok_embeddings.weight"}
    _tp_plan = {}
    _pp_plan = {}
    _fsdp_plan = {"output": "keep_full_weight"}

    def __init__(self, config: InternLM2Config) -> None:
        LlamaPreTrainedModel.__init__(self, config)
        self.model = InternLM2Model(config)
        self.vocab_size = config.vocab_size
        self.output: nn.Module = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @property
    def lm_head(self) -> nn.Module:
        return self.output

    def get_output_embeddings(self) -> nn.Module:
        return self.output

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.output = new_embeddings


def to_llama(model: InternLM2ForCausalLM) -> Any:
    """Return the model as a ``LlamaForCausalLM``. Weights that only change their name are shared,
    those of ``wqkv`` are copied.

    Raises:
        ModelError: it is quantised, or has an adapter.
    """
    if not isinstance(model, InternLM2ForCausalLM) or getattr(model, "is_quantized", False):
        raise ModelError(
            "Llama's layout is for an InternLM2 with neither adapter nor quantised weights, and "
            f"this is a {type(model).__name__}. `inlay convert merge BASE ADAPTER DIR --layout "
            "llama` folds an adapter into the model it was made from."
        )
    config = llama_config(model.config)
    with torch.device("meta"):
        llama = LlamaForCausalLM(config)
    llama.model.rotary_emb = LlamaRotaryEmbedding(config=config).to(model.device)
    llama.load_state_dict(dict(_llama_weights(model)), assign=True)
    llama.tie_weights()
    llama.generation_config = model.generation_config
    return llama.train(model.training)


def llama_config(config: InternLM2Config) -> LlamaConfig:
    """The same fields as a ``LlamaConfig``."""
    fields = config.to_dict()
    for name in ("model_type", "architectures", "auto_map", "transformers_version", "bias"):
        fields.pop(name, None)
    llama = LlamaConfig(**fields, attention_bias=config.bias)
    llama._name_or_path = config._name_or_path
    return llama


def _llama_weights(model: InternLM2ForCausalLM) -> Iterator[tuple[str, torch.Tensor]]:
    config = model.config
    head_dim = config.hidden_size // config.num_attention_heads
    for name, tensor in model.state_dict().items():
        places = name.split(".")
        llama = [LLAMA_NAMES.get(place, place) for place in places]
        if "wqkv" not in places:
            yield ".".join(llama), tensor
            continue
        rows = split_wqkv(tensor.movedim(0, -1), config.groups, head_dim)
        for part, split in zip("qkv", rows, strict=True):
            llama[-2] = f"{part}_proj"
            yield ".".join(llama), split.movedim(-1, 0).contiguous()


AutoConfig.register(InternLM2Config.model_type, InternLM2Config, exist_ok=True)
AutoModelForCausalLM.register(InternLM2Config, InternLM2ForCausalLM, exist_ok=True)
register_tokenizer()
