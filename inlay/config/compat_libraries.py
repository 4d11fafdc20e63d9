"""Nodes of transformers and peft in configs of the originals.

Their arguments and defaults were others in those days, or were filled in by the originals.
"""

from __future__ import annotations

from typing import Any

from inlay.config.compat_names import At, Node
from inlay.config.registry import import_path
from inlay.core.remote_code import VARIABLE


def library_node(node: Node, at: At) -> Node:
    """Nodes of the libraries, whose arguments and defaults were others in the originals' time."""
    kind = node.get("type")
    if isinstance(kind, str) and kind.startswith(("transformers.", "peft.")):
        kind = import_path(kind)
    owner = getattr(kind, "__self__", None)
    name, module = getattr(owner, "__name__", ""), getattr(owner, "__module__", "")
    if getattr(kind, "__name__", "") == "from_pretrained" and module.startswith("transformers."):
        if "ImageProcessor" in name and at.nodes("LLaVADataset"):
            return _image_processor(node, at)
        is_model = "Model" in name or name.endswith("ForCausalLM")
        return _pretrained(node, at, is_model)
    if at.name(node) == "LoraConfig":
        wanted = node.get("target_modules")
        return {**node, "target_modules": "all-linear" if wanted is None else wanted}
    return node


_BITS = ("load_in_4bit", "load_in_8bit")


def _pretrained(node: Node, at: At, is_model: bool) -> Node:
    """``from_pretrained``: no foreign code, one device, transformers 4's default of float32."""
    drop = {
        "low_cpu_mem_usage": "",
        "device_map": "the run places the model" if node.get("device_map") else "",
        "attn_implementation": "attention is Inlay's own",
    }
    for key, why in drop.items():
        if why and node.get(key):
            at.note(key, f"left out: {why}")
    if node.get("trust_remote_code"):
        at.note("trust_remote_code", f"no code of a model's folder is run, unless {VARIABLE}=1")
    bits = [key for key in _BITS if node.get(key)]
    new = {k: v for k, v in node.items() if k not in (*drop, *_BITS, "torch_dtype")}
    if bits:
        new["quantization_config"] = {"type": "transformers.BitsAndBytesConfig", bits[0]: True}
    dtype = node.get("torch_dtype", node.get("dtype"))
    if isinstance(dtype, str):
        dtype = dtype.removeprefix("torch.")
    if dtype is None and is_model:
        dtype = "float16" if new.get("quantization_config") else "float32"
    return new if dtype is None else {**new, "dtype": dtype}


def _image_processor(node: Node, at: At) -> Node:
    """A LLaVA's: it knows the tokenizer, and whether the data set pads pictures."""
    pads = {bool(d.get("pad_image_to_square", False)) for d in at.nodes("LLaVADataset")}
    if len(pads) > 1:
        at.refuse("", "one pad_image_to_square for all data sets", "both")
    for key in node.keys() - {"type", "pretrained_model_name_or_path", "trust_remote_code"}:
        at.refuse(key, "nothing (pictures are as the vision encoder wants them)", repr(node[key]))
    return {
        "type": "inlay.data.SquareImageProcessor",
        "tokenizer": tokenizer_of(at),
        "visual_encoder": node.get("pretrained_model_name_or_path"),
        "pad_to_square": pads == {True},
    }


def tokenizer_of(at: At) -> Any:
    """The config's tokenizer: by its name, or as a data set has it."""
    nodes = at.nodes("LLaVADataset", "process_hf_dataset", "PNGDataset", "RefCOCO2PNG")
    return at.values.get("tokenizer") or next(
        (node["tokenizer"] for node in nodes if node.get("tokenizer") is not None), None
    )
