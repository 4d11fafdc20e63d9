"""A tiny random InternLM2 in its published layout, written without Inlay and transformers."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

LAYERS, HEADS, KV_HEADS, HEAD_DIM, WIDTH, MLP = 2, 4, 2, 8, 32, 48
SPARE = [f"[UNUSED_TOKEN_{number}]" for number in range(141, 147)]
CHAT = ["plugin", "interpreter", "action_end", "action_start", "im_end", "im_start"]
TEXT = [
    "The quick brown fox jumps over the lazy dog, and then it sleeps.",
    "Once upon a time there was a little girl who liked to play in the garden.",
    "def add(a, b):\n    return a + b",
    "今天天气很好，我们一起去公园散步吧。你是谁？我是一个人工智能助手。",
    "心理健康很重要，请告诉我你的感受，我会认真倾听。",
]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + "
    "message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HOSTILE = """
from pathlib import Path
Path({canary!r}).write_text(__name__)
class InternLM2Config: pass
class InternLM2ForCausalLM: pass
class InternLM2Tokenizer: pass
class InternLM2TokenizerFast: pass
"""


def write_sentencepiece(file: Path, dummy_prefix: bool = False) -> None:
    """Train a byte-pair model with byte fallback whose last six pieces are spare ones."""
    import sentencepiece

    text = file.with_suffix(".txt")
    text.write_text("\n".join(TEXT * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(file.with_suffix("")),
        model_type="bpe",
        vocab_size=520,
        character_coverage=1.0,
        byte_fallback=True,
        add_dummy_prefix=dummy_prefix,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    text.unlink()
    file.with_suffix(".vocab").unlink()
    with file.open("ab") as model:  # repeated fields of a protobuf message may be appended
        for name in SPARE:
            piece = b"\x0a" + bytes([len(name)]) + name.encode() + b"\x18\x04"  # user-defined
            model.write(b"\x0a" + bytes([len(piece)]) + piece)


def write_tokenizer(folder: Path, with_chat_tokens: bool = True) -> None:
    """``tokenizer.model`` and ``tokenizer_config.json`` as published."""
    folder.mkdir(parents=True, exist_ok=True)
    write_sentencepiece(folder / "tokenizer.model")
    import sentencepiece

    size = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model")).vocab_size()
    names = dict(enumerate(["<unk>", "<s>", "</s>"]))
    if with_chat_tokens:
        names |= {size - 6 + place: f"<|{name}|>" for place, name in enumerate(CHAT)}
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    config = {
        "auto_map": {
            "AutoTokenizer": [
                "tokenization_internlm2.InternLM2Tokenizer",
                "tokenization_internlm2_fast.InternLM2TokenizerFast",
            ]
        },
        "added_tokens_decoder": {
            str(number): {"content": name, "special": True, **plain}
            for number, name in names.items()
        },
        "bos_token": "<s>",
        "chat_template": TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "model_max_length": 1000000000000000019884624838656,
        "pad_token": "</s>",
        "tokenizer_class": "InternLM2Tokenizer",
        "unk_token": "<unk>",
    }
    if with_chat_tokens:
        config["additional_special_tokens"] = [f"<|{name}|>" for name in reversed(CHAT)]
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def published_config(vocab_size: int, **fields: object) -> dict[str, object]:
    return {
        "architectures": ["InternLM2ForCausalLM"],
        "attn_implementation": "eager",
        "auto_map": {
            "AutoConfig": "configuration_internlm2.InternLM2Config",
            "AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM",
            "AutoModel": "modeling_internlm2.InternLM2ForCausalLM",
        },
        "bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": WIDTH,
        "initializer_range": 0.02,
        "intermediate_size": MLP,
        "max_position_embeddings": 64,
        "model_type": "internlm2",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "pad_token_id": 2,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "rope_theta": 1000000,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.41.0",
        "use_cache": True,
        "vocab_size": vocab_size,
        **fields,
    }


def random_weights(vocab_size: int, bias: bool = False) -> dict[str, torch.Tensor]:
    """Weights by their published names."""
    draw = torch.Generator().manual_seed(0)

    def matrix(rows: int, columns: int) -> torch.Tensor:
        return torch.randn(rows, columns, generator=draw) * columns**-0.5

    fused = KV_HEADS * (HEADS // KV_HEADS + 2) * HEAD_DIM
    weights = {
        "model.tok_embeddings.weight": matrix(vocab_size, WIDTH),
        "model.norm.weight": 1 + torch.randn(WIDTH, generator=draw) / 10,
        "output.weight": matrix(vocab_size, WIDTH),
    }
    for layer in range(LAYERS):
        own = {
            "attention.wqkv.weight": matrix(fused, WIDTH),
            "attention.wo.weight": matrix(WIDTH, HEADS * HEAD_DIM),
            "feed_forward.w1.weight": matrix(MLP, WIDTH),
            "feed_forward.w2.weight": matrix(WIDTH, MLP),
            "feed_forward.w3.weight": matrix(MLP, WIDTH),
            "attention_norm.weight": 1 + torch.randn(WIDTH, generator=draw) / 10,
            "ffn_norm.weight": 1 + torch.randn(WIDTH, generator=draw) / 10,
        }
        if bias:
            own["attention.wqkv.bias"] = torch.randn(fused, generator=draw) / 4
            own["attention.wo.bias"] = torch.randn(WIDTH, generator=draw) / 4
        weights |= {f"model.layers.{layer}.{name}": tensor for name, tensor in own.items()}
    return weights


def write_internlm2(
    folder: Path, canary: Path, kind: str = "safetensors", bias: bool = False, **fields: object
) -> dict[str, torch.Tensor]:
    """Write config, tokenizer, weights in two shards, and code that writes ``canary`` if it runs.

    Args:
        kind: ``"safetensors"`` or ``"bin"``.
    """
    write_tokenizer(folder)
    vocabulary = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    size = max(int(number) for number in vocabulary) + 1
    weights = random_weights(size, bias)
    config = published_config(size, bias=bias, **fields)
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    generation = {"bos_token_id": 1, "eos_token_id": [2, size - 2], "pad_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    if fields.get("tie_word_embeddings"):
        weights["output.weight"] = weights["model.tok_embeddings.weight"]
    stored = weights.keys() - ({"output.weight"} if fields.get("tie_word_embeddings") else set())
    names, stem = sorted(stored), "model" if kind == "safetensors" else "pytorch_model"
    homes = {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"{stem}-{number:05d}-of-00002.{kind}"
        homes |= dict.fromkeys(part, file)
        tensors = {name: weights[name] for name in part}
        if kind == "safetensors":
            save_file(tensors, folder / file, {"format": "pt"})
        else:
            torch.save(tensors, folder / file)
    index = {"metadata": {}, "weight_map": homes}
    (folder / f"{stem}.{kind}.index.json").write_text(json.dumps(index), encoding="utf-8")
    code = HOSTILE.format(canary=str(canary))
    for name in ("configuration", "modeling", "tokenization"):
        (folder / f"{name}_internlm2.py").write_text(code)
    (folder / "tokenization_internlm2_fast.py").write_text(code)
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text(code)
    return weights


def reference_logits(weights: dict[str, torch.Tensor], ids: list[int]) -> torch.Tensor:
    """InternLM2 from its description: RMSNorm, fused projection by key-value head, rotary embedding
    (rotate half) with dynamic NTK scaling past 64 positions, grouped attention, SwiGLU.

    Returns:
        float32 ``[N, vocabulary]``.
    """

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weights[f"{name}.weight"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", torch.zeros(1))

    theta, factor, trained = 1e6, 2.0, 64
    if len(ids) > trained:
        theta *= (factor * len(ids) / trained - (factor - 1)) ** (HEAD_DIM / (HEAD_DIM - 2))
    angles = torch.outer(
        torch.arange(len(ids)).float(), theta ** -(torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    )

    def turn(x: torch.Tensor) -> torch.Tensor:
        first, second = x[:, : HEAD_DIM // 2], x[:, HEAD_DIM // 2 :]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=1)

    x = weights["model.tok_embeddings.weight"][ids]
    past = torch.ones(len(ids), len(ids)).tril().bool()
    groups = HEADS // KV_HEADS
    for layer in (f"model.layers.{number}" for number in range(LAYERS)):
        fused = linear(norm(x, f"{layer}.attention_norm"), f"{layer}.attention.wqkv")
        heads = list(fused.split(HEAD_DIM, dim=1))
        seen = []
        for kv in range(KV_HEADS):
            *queries, key, value = heads[kv * (groups + 2) : (kv + 1) * (groups + 2)]
            for query in queries:
                scores = turn(query) @ turn(key).T / HEAD_DIM**0.5
                scores = scores.masked_fill(~past, float("-inf"))
                seen.append(scores.softmax(-1) @ value)
        x = x + linear(torch.cat(seen, dim=1), f"{layer}.attention.wo")
        h = norm(x, f"{layer}.ffn_norm")
        gate = linear(h, f"{layer}.feed_forward.w1")
        x = x + linear(
            gate * gate.sigmoid() * linear(h, f"{layer}.feed_forward.w3"),
            f"{layer}.feed_forward.w2",
        )
    return linear(norm(x, "model.norm"), "output")
