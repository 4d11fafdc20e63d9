"""Look at an export with plain transformers and peft: its weights, and its answer to a probe, which
for a model with eyes holds a picture.

``verify`` runs this file as a script in a process of its own, so it must not import Inlay. It reads
a JSON request on standard input and writes a JSON answer on standard output.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import warnings
from pathlib import Path
from typing import Any

NUM_PROBE_TOKENS = 16


def probe_ids(vocab_size: int) -> list[int]:
    """Fixed token ids, spread over the vocabulary."""
    return [(7919 * i * i + 104729 * i + 3) % vocab_size for i in range(NUM_PROBE_TOKENS)]


def probe_images(images: dict[str, Any]) -> dict[str, Any]:
    """Tensors of a picture that every machine draws alike.

    Args:
        images: by input name ``{"shape", "dtype"}``, and for what is not drawn, such as the sizes
            of a grid, ``"values"``, or one ``"fill"`` for all.
    """
    import torch

    tensors = {}
    for name, tensor in images.items():
        dtype = getattr(torch, tensor["dtype"])
        if "fill" in tensor:
            tensors[name] = torch.full(tensor["shape"], tensor["fill"], dtype=dtype)
            continue
        if "values" in tensor:
            tensors[name] = torch.tensor(tensor["values"], dtype=dtype).reshape(tensor["shape"])
            continue
        steps = torch.arange(math.prod(tensor["shape"])) * 7919 % 2003
        tensors[name] = (steps / 1001 - 1).to(dtype).reshape(tensor["shape"])
    return tensors


def probe_logits(model: Any, ids: list[int], images: dict[str, Any] | None = None) -> Any:
    """Logits of ``ids`` as float32 ``[N, vocab]``, by the attention that every model has. Without
    ``ids`` the features of a vision encoder, ``[N, width]``."""
    import torch

    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = inner.config
    attention = {"": config._attn_implementation}
    for name in config.sub_configs:  # parts of a model may each have their own
        if (part := getattr(config, name)) is not None:
            attention[name] = part._attn_implementation
    training = model.training
    inner.set_attn_implementation("eager")
    model.eval()
    inputs = probe_images(images or {})
    inputs = {k: v.to(model.dtype) if v.is_floating_point() else v for k, v in inputs.items()}
    if ids:
        inputs.update(input_ids=torch.tensor([ids]), use_cache=False)
    try:
        with torch.no_grad():
            out = model(**{k: _to(v, model.device) for k, v in inputs.items()})
            return (out.logits if ids else out.last_hidden_state)[0].float().cpu()
    finally:
        model.train(training)
        inner.set_attn_implementation(attention)


def _to(value: Any, device: Any) -> Any:
    return value.to(device) if hasattr(value, "to") else value


def digest(tensor: Any) -> str:
    """SHA-256 of a tensor's bytes."""
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy()).hexdigest()


def read_weights(folder: Path) -> tuple[str, list[str]]:
    """SHA-256 over all tensors of the safetensors files, whatever the shards; and what is wrong."""
    from safetensors import safe_open

    homes: dict[str, Path] = {}
    for file in sorted(folder.rglob("*.safetensors")):
        part = "".join(f"{name}/" for name in file.relative_to(folder).parts[:-1])
        with safe_open(file, framework="pt") as tensors:
            names = list(tensors.keys())
        homes.update(dict.fromkeys((part + name for name in names), file))
    total, problems = hashlib.sha256(), []
    for name in sorted(homes):
        with safe_open(homes[name], framework="pt") as tensors:
            tensor = tensors.get_tensor(name.rsplit("/", 1)[-1])
        if tensor.numel() == 0:
            problems.append(f"{name} is empty")
            continue
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            problems.append(f"{name} has NaN or infinity")
        total.update(f"{name} {tensor.dtype} {list(tensor.shape)} {digest(tensor)}\n".encode())
    if not homes:
        problems.append("no tensor in any safetensors file")
    return total.hexdigest(), problems


def environment() -> str:
    """What float arithmetic depends on: logits can only be equal bit for bit where this is."""
    import torch

    return f"torch {torch.__version__}, CPU {torch.backends.cpu.get_cpu_capability()}"


def load(request: dict[str, Any]) -> tuple[Any, list[str]]:
    """Load the export; return the model and the weights that did not fit."""
    import torch
    import transformers

    quantization = request["quantization"]
    loaded: Any = getattr(transformers, request["auto"]).from_pretrained(
        request["base"] or request["folder"],
        dtype=getattr(torch, request["load_dtype"]),
        quantization_config=(
            transformers.BitsAndBytesConfig.from_dict(quantization) if quantization else None
        ),
        output_loading_info=True,
    )
    model, info = loaded
    for module in model.modules():
        # On some CPUs bitsandbytes rounds 4-bit weights once more at the first evaluation; the
        # logits to compare with are those of the weights as they are stored.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    misfits = [f"{kind}: {name}" for kind, names in info.items() for name in names]
    if request["base"]:
        from peft import PeftModel

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(model, request["folder"])
        texts = [str(w.message) for w in caught]
        misfits += [text for text in texts if "missing adapter keys" in text]
    return model.eval(), misfits


def idle_adapters(folder: Path) -> list[str]:
    """Why adapters in a folder would change nothing, whatever they are put on: their ``B`` of LoRA
    is zero everywhere, and they hold no other weights."""
    from safetensors.torch import load_file

    found = []
    for file in sorted(folder.rglob("adapter_model.safetensors")):
        tensors = load_file(file)
        moves = [
            t for name, t in tensors.items() if "lora_A" not in name and "embedding_A" not in name
        ]
        if not any(bool(tensor.any()) for tensor in moves):
            name = file.relative_to(folder)
            found.append(f"all {len(moves)} B matrices in {name} are zero: it was never trained")
    return found


def idle_adapter(model: Any, request: dict[str, Any], logits: Any) -> list[str]:
    """Why an adapter that stands on ``model`` changes nothing; empty where it does.

    Args:
        logits: of ``probe_logits``, with the adapter.
    """
    from peft import get_peft_model_state_dict
    from peft.utils import load_peft_weights

    stored = load_peft_weights(request["folder"], device="cpu").keys()
    wanted = get_peft_model_state_dict(model, save_embedding_layers=False).keys()
    if not stored & wanted:
        first, other = min(stored, default="none"), min(wanted, default="none")
        return [f"none of its {len(stored)} weights has a place: '{first}' for '{other}'"]
    with model.disable_adapter():
        if not (probe_logits(model, request["ids"], request["images"]) == logits).all():
            return []
    return idle_adapters(Path(request["folder"])) or ["with it and without it, logits are the same"]


def read_texts(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    """What the folder makes of texts and conversations, and the tokens that end an answer (None
    where no file says it)."""
    from transformers import AutoTokenizer, GenerationConfig

    tokenizer = AutoTokenizer.from_pretrained(folder)
    answer: dict[str, Any] = {
        "chat_template": bool(tokenizer.chat_template),
        "tokens": tokenizer(request["text"]).input_ids,
        "conversations": [_rendered(tokenizer, chat) for chat in request["conversations"]],
        "eos": None,
    }
    if (folder / "generation_config.json").is_file():
        eos = GenerationConfig.from_pretrained(folder).eos_token_id
        answer["eos"] = [] if eos is None else [eos] if isinstance(eos, int) else eos
    return answer


def _rendered(tokenizer: Any, chat: dict[str, Any]) -> dict[str, Any]:
    try:
        text = tokenizer.apply_chat_template(
            chat["messages"], tokenize=False, add_generation_prompt=chat["ask"]
        )
    except Exception as error:  # a template may raise anything
        return {"error": f"{type(error).__name__}: {error}"}
    return {"text": text, "ids": tokenizer(text, add_special_tokens=False).input_ids}


def look(request: dict[str, Any]) -> dict[str, Any]:
    import torch
    from safetensors.torch import save_file

    torch.set_num_threads(request["threads"])
    folder = Path(request["folder"])
    weights, problems = read_weights(folder)
    answer: dict[str, Any] = {"weights_sha256": weights, "tensors": problems}
    if request["ids"]:
        answer |= read_texts(folder, request)
    model, answer["misfits"] = load(request)
    logits = probe_logits(model, request["ids"], request["images"])
    answer["idle"] = idle_adapter(model, request, logits) if request["base"] else []
    save_file({"logits": logits}, request["logits_file"])
    answer["environment"] = environment()
    answer["foreign"] = "inlay" not in sys.modules
    return answer


def main() -> None:
    # Libraries may print: standard output is kept for the answer.
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        answer = look(json.load(sys.stdin))
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    json.dump(answer, out)
    out.close()


if __name__ == "__main__":
    main()
