"""Load a causal language model and put LoRA adapters on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

import inlay.models.internlm2  # noqa: F401 (makes transformers know it)
from inlay.core.errors import ModelError, did_you_mean
from inlay.models.adapter_files import readable

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "auto": "auto"}


def load_causal_lm(
    path: str,
    *,
    dtype: str | torch.dtype = "auto",
    bits: int | None = None,
    adapter: str | None = None,
    device: str | torch.device | None = None,
    offload_folder: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """Load a model for inference, in eval mode.

    Args:
        path: a folder in Hugging Face layout or a hub name.
        dtype: ``"fp16"``, ``"bf16"``, ``"fp32"``, ``"auto"`` (as stored) or a torch dtype.
        bits: 4 or 8 to quantise with bitsandbytes; 4 is nf4 with double quantisation.
        adapter: a PEFT adapter to put on top; refused when it does not fit.
        device: where to run; by default the first GPU, else the CPU.
        offload_folder: where weights that fit neither GPU nor memory are kept.

    Raises:
        ModelError: the folder is missing or incomplete, or the adapter belongs to another model.
    """
    from transformers import AutoModelForCausalLM

    kwargs: dict[str, Any] = {"dtype": torch_dtype(dtype)}
    if bits:
        kwargs["quantization_config"] = quantization(bits, kwargs["dtype"])
    if offload_folder:
        kwargs.update(device_map="auto", offload_folder=offload_folder)
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            path, trust_remote_code=trust_remote_code, **kwargs
        )
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load a causal language model from '{path}': {error}") from error
    keep_weights_as_they_are(model)
    if adapter:
        model = load_adapter(model, adapter)
    if not bits and not offload_folder:
        model = model.to(device or default_device())
    return model.eval()


def torch_dtype(dtype: str | torch.dtype) -> Any:
    """The torch dtype of a name (``"bf16"``, ``"bfloat16"``); ``"auto"`` stays.

    Raises:
        ModelError: no dtype of that name.
    """
    found = DTYPES.get(dtype, getattr(torch, dtype, None)) if isinstance(dtype, str) else dtype
    if found != "auto" and not isinstance(found, torch.dtype):
        raise ModelError(f"dtype must be one of {', '.join(DTYPES)}, got '{dtype}'")
    return found


def default_device() -> str:
    """``"cuda"`` where a GPU is at hand, else ``"cpu"``."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def quantization(bits: int, compute_dtype: Any) -> Any:
    """A ``BitsAndBytesConfig`` for 4 bits (nf4, double quantisation, QLoRA) or 8 bits."""
    from transformers import BitsAndBytesConfig

    if bits not in (4, 8):
        raise ModelError(f"bits must be 4 or 8, got {bits}")
    compute = compute_dtype if isinstance(compute_dtype, torch.dtype) else torch.bfloat16
    return BitsAndBytesConfig(
        load_in_4bit=bits == 4,
        load_in_8bit=bits == 8,
        bnb_4bit_compute_dtype=compute,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_quant_type="nf4",
    )


def apply_lora(llm: Any, lora: Any) -> Any:
    """Put new LoRA adapters on ``llm`` and freeze the rest.

    Args:
        llm: a transformers model, quantised or not.
        lora: a ``peft.LoraConfig``.

    Raises:
        ModelError: a target module does not exist in the model.
    """
    from peft import get_peft_model, prepare_model_for_kbit_training

    if getattr(llm, "is_quantized", False):
        llm = prepare_model_for_kbit_training(llm, use_gradient_checkpointing=False)
        keep_weights_as_they_are(llm)
    try:
        return get_peft_model(llm, lora)
    except ValueError as error:
        if "target modules" not in str(error).lower():
            raise
        names = sorted({n.rsplit(".", 1)[-1] for n, m in llm.named_modules() if _is_linear(m)})
        wanted = lora.target_modules
        first = next(iter(wanted)) if isinstance(wanted, list | set | tuple) else str(wanted)
        raise ModelError(
            f"LoRA target_modules {sorted(wanted) if not isinstance(wanted, str) else wanted!r} "
            f"match nothing in {type(llm).__name__}. Its linear modules are {names}."
            f"{did_you_mean(first, names)}"
        ) from error


def recompute_activations(model: Any) -> None:
    """Switch activation checkpointing on, by the name that this transformers release has for it.

    Raises:
        ModelError: the model has no layers that can be recomputed.
    """
    name = "activation_checkpointing_enable"
    enable = getattr(model, name if hasattr(model, name) else "gradient_checkpointing_enable")
    try:
        # Not reentrant: gradients reach adapters though the embeddings are frozen.
        enable({"use_reentrant": False})
    except ValueError as error:
        raise ModelError(
            f"{type(without_adapter(model)).__name__} cannot recompute its activations ({error}). "
            "Set use_activation_checkpointing=False"
        ) from error


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, the earlier mode of ``model`` afterwards."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def without_adapter(model: Any) -> Any:
    """The transformers model inside a peft model, adapters in place, or the model itself."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def keep_weights_as_they_are(llm: nn.Module) -> None:
    """Stop bitsandbytes from repacking 4-bit weights on a CPU at the first evaluation.

    The repacked ones are rounded differently: a run that validates would train on another base
    model from there on. It also fails for sizes that are not multiples of its blocks.
    """
    for module in llm.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or "Linear" in type(module).__name__


def load_adapter(llm: Any, path: str) -> Any:
    """Put a trained PEFT adapter on ``llm``.

    peft only warns when keys do not match, and the adapter then does nothing: here that is refused.

    Raises:
        ModelError: no adapter at ``path``, other shapes, or keys that match nothing in the model.
    """
    import warnings

    from peft import PeftModel

    if Path(path).is_dir() and not (Path(path) / "adapter_config.json").is_file():
        raise ModelError(f"'{path}' is not an adapter: it holds no adapter_config.json")
    try:
        with warnings.catch_warnings(), readable(path, llm) as folder:
            warnings.filterwarnings("ignore", message=".*missing adapter keys.*")  # judged below
            model = PeftModel.from_pretrained(llm, folder)
            odd = _misfits(model, folder)
    except (RuntimeError, ValueError, OSError) as error:
        lines = str(error).splitlines()
        reason = lines[min(1, len(lines) - 1)].strip()  # torch's first line is a title
        raise ModelError(
            f"the adapter '{path}' does not fit {type(llm).__name__}: {reason}{_base_note(path)}"
        ) from error
    if odd:
        raise ModelError(
            f"the adapter '{path}' does not fit {type(llm).__name__}: {len(odd)} weights are "
            f"missing on one side, first '{odd[0]}'.{_base_note(path)}"
        )
    return model


def _misfits(model: Any, path: str) -> list[str]:
    """Names of adapter weights that are only in the file or only in the model."""
    from peft import get_peft_model_state_dict
    from peft.utils import load_peft_weights

    stored = load_peft_weights(path, device="cpu").keys()
    wanted = get_peft_model_state_dict(model, save_embedding_layers=False).keys()
    known = model.state_dict().keys()  # a targeted embedding is stored with its base weight
    return sorted((wanted - stored) | {name for name in stored - wanted if name not in known})


def _base_note(path: str) -> str:
    """Say which base model an adapter was trained on, where its folder is at hand."""
    config = Path(path) / "adapter_config.json"
    if not config.is_file():
        return ""
    base = json.loads(config.read_text(encoding="utf-8")).get("base_model_name_or_path")
    return f" It was trained on '{base}'." if base else ""
