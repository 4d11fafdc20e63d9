"""XTuner 0.1.x in Inlay's terms: models, data sets, hooks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inlay.config.compat_libraries import tokenizer_of
from inlay.config.compat_names import At, Name, Node, converted, left_out, same, words
from inlay.config.registry import is_users_own, resolve

PLAIN = {"INSTRUCTION": "{input}"}
"""A prompt template that adds nothing: what a data set without ``template_map_fn`` means."""
_READERS = ("json", "parquet", "arrow", "text", "csv")
"""Names that ``load_dataset`` takes for kinds of files."""
_LOAD_ARGUMENTS = ("path", "name", "data_files", "data_dir", "split", "type")
_PACKING = (
    "remove_unused_columns",
    "shuffle_before_pack",
    "use_varlen_attn",
    "with_image_token",
    "do_dataset_tokenization",
    "input_ids_with_output",
    "rename_maps",
    "max_dataset_length",
)
_MISSING = "There is no counterpart: prepare the rows beforehand."


def hf_dataset(node: Node, at: At) -> Node:
    """``process_hf_dataset`` and ``process_ms_dataset``: rows, map function, template, packing."""
    taken = ("type", "dataset", "split", "dataset_map_fn", "template_map_fn", "map_num_proc")
    new: Node = {"type": "inlay.data.ChatDataset"}
    source = _rows(node.get("dataset"), node.get("split", "train"), at)
    source["format"] = _format(node.get("dataset_map_fn"), at)
    new["sources"] = [source]
    new |= {k: v for k, v in node.items() if k not in (*taken, *_PACKING)}
    new["template"] = _template_of(node.get("template_map_fn"), at)
    if node.get("map_num_proc"):
        new["num_proc"] = node["map_num_proc"]
    for key, usual in (("do_dataset_tokenization", True), ("input_ids_with_output", True)):
        if node.get(key, usual) != usual:
            at.refuse(key, str(usual), str(node[key]), _MISSING)
    for key in ("rename_maps", "max_dataset_length"):
        if node.get(key):
            at.refuse(key, "None", repr(node[key]), _MISSING)
    return new


def llava_dataset(node: Node, at: At) -> Node:
    """``LLaVADataset``: a row is a sample; its length is that of its text."""
    taken = ("type", "data_path", "image_folder", "dataset_map_fn", "template_map_fn")
    left = ("pad_image_to_square", "max_dataset_length", "offline_processed_text_folder")
    source: Node = {
        "path": node.get("data_path"),
        "format": _format(node.get("dataset_map_fn"), at),
    }
    source["image_folder"] = node.get("image_folder")
    for key in left[1:]:
        if node.get(key):
            at.refuse(key, "None", repr(node[key]), _MISSING)
    new: Node = {"type": "inlay.data.ChatDataset", "sources": [source]}
    new |= {k: v for k, v in node.items() if k not in (*taken, *left)}
    new["template"] = _template_of(node.get("template_map_fn"), at)
    new["pack_to_max_length"] = node.get("pack_to_max_length", False)
    new["pictures_in_length"] = node.get("pictures_in_length", False)
    return new


def concatenated(node: Node, at: At) -> Node:
    """``ConcatDataset``: one data set of all sources."""
    key = "datasets" if "datasets" in node else "datasets_list"
    parts = [at.convert(part) for part in node.get(key) or []]
    found = [part for part in parts if part is not None]
    if not found:
        at.refuse(key, "data sets", repr(node.get(key)))
        return {"type": "inlay.data.ChatDataset", "sources": []}
    first = found[0]
    for number, part in enumerate(found):
        for name in sorted((first.keys() | part.keys()) - {"sources"}):
            if part.get(name) != first.get(name):
                at.refuse(
                    f"{key}.{number}.{name}",
                    f"the same as of the first data set ({first.get(name)!r})",
                    repr(part.get(name)),
                )
    own = {k: v for k, v in node.items() if k not in ("type", key)}
    return {**first, "sources": [s for part in found for s in part["sources"]], **own}


def _rows(node: Any, split: str, at: At) -> Node:
    """What ``load_dataset`` and its like read, as a source."""
    if isinstance(node, str | Path):
        return {"path": str(node), "split": split}
    if not isinstance(node, dict):
        at.refuse("dataset", "dict(type=load_dataset, ...)", repr(node))
        return {"path": ""}
    kind = at.name(node).partition(".")[0]
    if kind in ("load_from_disk", "MsDataset"):
        path = node.get("dataset_path") or node.get("dataset_name")
        if kind == "MsDataset":
            at.note("dataset", "nothing is fetched from ModelScope: download it, and set its path")
        return {"path": path, "split": split}
    if kind != "load_dataset":
        at.refuse("dataset", "dict(type=load_dataset, ...)", f"a {kind} node")
        return {"path": ""}
    chosen = node.get("split") or split
    if not str(chosen).isidentifier():
        at.refuse("dataset.split", "the name of a split", repr(chosen))
    path, files = node.get("path"), node.get("data_files")
    if isinstance(files, Mapping):
        files = files.get(chosen)
    if path in _READERS:
        return {"path": _under(node.get("data_dir"), files)}
    if files or node.get("data_dir"):
        return {"path": _under(_under(path, node.get("data_dir")), files), "split": chosen}
    source: Node = {"path": path, "split": chosen}
    return source if node.get("name") is None else {**source, "name": node["name"]}


def _under(folder: Any, files: Any) -> Any:
    if folder is None or files is None:
        return files if folder is None else folder
    if isinstance(files, list | tuple):
        return [str(Path(folder) / name) for name in files]
    return str(Path(folder) / files)


def _format(function: Any, at: At) -> Any:
    """A map function as a format: its name where it is one of the original's."""
    if function is None:
        return "xtuner"
    if isinstance(function, str):
        name = function.rpartition(".")[2]
        if is_users_own(name):
            return resolve(name)
        return name
    if isinstance(function, dict) or not callable(function):
        at.refuse("dataset_map_fn", "a function or its name", repr(function))
        return None
    is_ours = getattr(function, "__module__", "") == "inlay.data.map_fns"
    return function.__name__ if is_ours else function


def _template_of(node: Any, at: At) -> Any:
    if node is None:
        return PLAIN
    if at.name(node) != "template_map_fn_factory":
        at.refuse("template_map_fn", "dict(type=template_map_fn_factory, template=...)", repr(node))
        return None
    return _template(node.get("template"))


def _template(value: Any) -> Any:
    """A prompt template, or its dotted name ``xtuner.utils.PROMPT_TEMPLATE.vicuna``."""
    return value.rpartition(".")[2] if isinstance(value, str) else value


def chat_hook(node: Node, at: At) -> Node:
    """``EvaluateChatHook``: without a template the prompt is system text and question."""
    new = {k: v for k, v in node.items() if k not in ("stop_word", "generation_kwargs")}
    if node.get("stop_word"):
        new["stop_words"] = [*node.get("stop_words", ()), node["stop_word"]]
    if node.get("generation_kwargs"):
        at.note("generation_kwargs", "answers are the likeliest ones (greedy)")
    if node.get("prompt_template") is None:
        frame = {"SYSTEM": "{system}"} if node.get("system") else {}
        new["prompt_template"] = {**frame, **PLAIN}
    else:
        new["prompt_template"] = _template(node["prompt_template"])
    return new


def supervised(node: Node, at: At) -> Node:
    _refuse(node, at, "peft_model", "Start from an adapter with load_from, after `inlay convert`.")
    _refuse(node, at, "max_position_embeddings", "Set it in the llm node.")
    drop = ("use_varlen_attn", "peft_model", "max_position_embeddings", "tokenizer")
    return {k: v for k, v in node.items() if k not in drop}


def llava_model(node: Node, at: At) -> Node:
    """``LLaVAModel``: the tokenizer is handed in, since the image token has a row of its own."""
    _refuse(node, at, "max_position_embeddings", "Set it in the llm node.")
    new = {k: v for k, v in node.items() if k != "max_position_embeddings"}
    tokenizer = node.get("tokenizer") or tokenizer_of(at)
    return new if tokenizer is None else {**new, "tokenizer": tokenizer}


def _refuse(node: Node, at: At, key: str, hint: str) -> None:
    if node.get(key) is not None:
        at.refuse(key, "None", repr(node[key]), hint)


_MAP_FNS = words(
    "alpaca alpaca_zh arxiv code_alpaca colors crime_kg_assitant default law_reference llava "
    "llava_image_only medical msagent_react oasst1 openai openorca pretrain sql stack_exchange "
    "tiny_codes wizardlm"
)
_OWN_CODE = "its checkpoints bring code of their own; InternVL 3 is trained by `VisionFinetune`"
_PREFERENCES = "preference training is not offered"
_BOXES = "`inlay preprocess refcoco` writes these rows for LLaVADataset"
_TOKENISED = "files that are tokenised already are not read; give the texts"
_JUDGED = "validation measures the loss; judge the exported model with tools of that task"

NAMES: dict[str, Name] = {
    # models
    "xtuner.SupervisedFinetune": same("inlay.models.SupervisedFinetune", supervised),
    "xtuner.LLaVAModel": same("inlay.models.LLaVAModel", llava_model),
    "xtuner.DeepseekV2ForCausalLM": left_out(),
    "xtuner.DeepseekV2ForCausalLM.from_pretrained": Name(
        "transformers.AutoModelForCausalLM.from_pretrained",
        drop={"moe_implementation": "experts run as transformers has them"}
        | {"expert_in_one_shard": ""},
        rename={"torch_dtype": "dtype"},
    ),
    # data
    "xtuner.process_hf_dataset": converted(hf_dataset),
    "xtuner.process_ms_dataset": converted(hf_dataset),
    "xtuner.LLaVADataset": converted(llava_dataset),
    "xtuner.ConcatDataset": converted(concatenated),
    "modelscope.MsDataset": left_out(),
    "modelscope.MsDataset.load": left_out(),
    "xtuner.template_map_fn_factory": left_out(),
    "xtuner.default_collate_fn": left_out(),
    "xtuner.LengthGroupedSampler": same("inlay.data.LengthGroupedSampler", seed="", round_up=""),
    "xtuner.SequenceParallelSampler": left_out(),
    "xtuner.InternRepoSampler": left_out(),
    **{f"xtuner.{name}_map_fn": same(f"inlay.data.{name}_map_fn") for name in _MAP_FNS},
    "xtuner.PROMPT_TEMPLATE": same("inlay.data.PROMPT_TEMPLATE"),
    "xtuner.SYSTEM_TEMPLATE": same("inlay.data.SYSTEM_TEMPLATE"),
    # run
    "xtuner.TrainLoop": same("inlay.engine.TrainLoop"),
    "xtuner.ValLoop": left_out(),
    "xtuner.TestLoop": left_out(),
    "xtuner.DatasetInfoHook": same("inlay.engine.hooks.DatasetInfoHook", is_intern_repo_dataset=""),
    "xtuner.EvaluateChatHook": same("inlay.engine.hooks.EvaluateChatHook", chat_hook),
    "xtuner.ThroughputHook": same(
        "inlay.engine.hooks.ThroughputHook",
        use_activation_checkpointing="",
        hidden_size="",
        num_layers="",
        vocab_size="",
        mlp_ratio="",
        is_casual="",
    ),
    "xtuner.HFCheckpointHook": same("inlay.engine.hooks.HFCheckpointHook"),
    "xtuner.VarlenAttnArgsToMessageHubHook": left_out("samples of a pack never see each other"),
    "xtuner.BUILDER": same("inlay.config.registry.REGISTRY"),
    "xtuner.MAP_FUNC": same("inlay.config.registry.REGISTRY"),
}

REASONS: dict[str, str] = {
    **{f"xtuner.{name}": _PREFERENCES for name in ("DPO", "ORPO", "RewardModel")},
    "xtuner.build_preference_dataset": _PREFERENCES,
    "xtuner.preference_collate_fn": _PREFERENCES,
    "xtuner.load_jsonl_dataset": _PREFERENCES,
    "xtuner.orpo_dpo_mix_40k_map_fn": _PREFERENCES,
    "xtuner.intel_orca_dpo_map_fn": _PREFERENCES,
    "xtuner.InternVL_V1_5": _OWN_CODE,
    "xtuner.InternVL_V1_5_Dataset": _OWN_CODE,
    "xtuner.MOSSSFTDataset": "its format is not read; write the rows as `openai` messages",
    "xtuner.RefCOCOJsonDataset": _BOXES,
    "xtuner.InvRefCOCOJsonDataset": _BOXES,
    "xtuner.build_packed_dataset": _TOKENISED,
    "xtuner.load_intern_repo_tokenized_dataset": _TOKENISED,
    "xtuner.load_intern_repo_untokenized_dataset": _TOKENISED,
    "xtuner.process_intern_repo_dataset": _TOKENISED,
    "xtuner.MMLUMetric": _JUDGED,
    "xtuner.mmlu_collate_fn": _JUDGED,
}
"""Names that are known and have no counterpart, and why."""

MODULES: dict[str, frozenset[str]] = {
    "xtuner": words(
        "dataset map_fns dataset_map_fns template_map_fn collate_fns default_collate_fn "
        "preference_collate_fn preference_dataset intern_repo huggingface llava concat_dataset "
        "samplers length_grouped intern_repo utils engine hooks runner loops model sft dpo orpo "
        "reward transformers_models deepseek_v2 parallel sequence sampler registry templates "
        "evaluation metrics refcoco_json moss_sft internvl_dataset internvl modelscope "
        "alpaca_map_fn openai_map_fn pretrain_map_fn llava_map_fn dataset_info_hook "
        "evaluate_chat_hook throughput_hook hf_checkpoint_hook train_loop"
    ),
    "modelscope": words("msdatasets"),
}
