"""LLaVA as transformers knows it: our parts in its module, and its module in our parts."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from inlay.convert.folder import staged
from inlay.convert.jinja import with_parts, with_strings
from inlay.convert.merge import ROUNDING
from inlay.convert.parts import export_parts, hf_image_processor
from inlay.convert.probe import probe_logits
from inlay.convert.record import write_record
from inlay.convert.see import Probe, llava_logits, picture_probe
from inlay.convert.to_hf import (
    cast_weights,
    check_finite,
    prepare_tokenizer,
    write_card,
    write_generation_config,
    write_model,
)
from inlay.core.errors import ModelError
from inlay.core.types import ImageProcessor
from inlay.data.vision.resize import View
from inlay.data.vision.square import SquareImageProcessor
from inlay.models.llava import LLaVAModel
from inlay.models.projector import Projector, ProjectorConfig

OTHERS = "Export it with --save-format xtuner (its parts) or whole (all parts, adapters merged)."


def export_llava(
    model: LLaVAModel,
    tokenizer: Any,
    image_processor: ImageProcessor,
    out_dir: str | Path,
    *,
    dtype: str | None = "float16",
    max_shard_size: str = "2GB",
    card: Mapping[str, Any] | None = None,
    template: str | Mapping[str, Any] | None = None,
) -> Path:
    """Write a ``LlavaForConditionalGeneration`` folder with its processor.

    Args:
        model: without adapters and quantised weights; cast in place, the projector, too.
        dtype, max_shard_size, card, template: see ``to_hf.export``.

    Raises:
        ModelError: LLaVA cannot express the model; the formats that can are named.
    """
    tokenizer = copy.deepcopy(tokenizer)
    found = prepare_tokenizer(tokenizer, template, picture=f"{image_processor.image_token}\n")
    if template is None and tokenizer.chat_template:
        picture = f"{image_processor.image_token}\n"
        tokenizer.chat_template = with_parts(tokenizer.chat_template, picture)
    cast = getattr(torch, dtype) if dtype else model.llm.get_input_embeddings().weight.dtype
    for part in (model.llm, model.visual_encoder, model.projector):
        cast_weights(part, cast)
    check_finite(model)
    probe = picture_probe(image_processor, tokenizer, model.llm.config.get_text_config().vocab_size)
    expected = llava_logits(model, probe, image_processor.image_token_id)
    base = model.llm.config._name_or_path
    llava = as_llava(model, image_processor)
    _compare(llava, probe, expected)
    for part in (llava.config.text_config, llava.config.vision_config):
        part._name_or_path = ""  # would be written, and tell of this machine
    llava.config.text_config.use_cache = True
    with staged(out_dir) as folder:
        write_model(llava, folder, max_shard_size)
        write_generation_config(llava, found.stop_ids, folder)
        _processor(llava, image_processor, tokenizer).save_pretrained(folder)
        hf_image_processor(image_processor).save_pretrained(folder)  # where other tools look for it
        auto = "AutoModelForImageTextToText"
        write_record(folder, llava, tokenizer, base=None, speech=found, probe=probe, auto=auto)
        write_card(folder, Path(out_dir).name, "vlm", base, card)
    return Path(out_dir)


def as_llava(model: LLaVAModel, image_processor: ImageProcessor) -> Any:
    """Return the parts of ``model``, shared and not copied, as a ``LlavaForConditionalGeneration``.

    The embedding grows by a row for the image token where it has none.

    Raises:
        ModelError: LLaVA cannot express the model.
    """
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    llm, encoder, projector = model.llm, model.visual_encoder, model.projector
    layer, extra = _check(model, image_processor)
    _give_image_row(llm, image_processor.image_token_id)
    config = LlavaConfig(
        text_config=llm.config,
        vision_config=encoder.config,
        image_token_index=image_processor.image_token_id,
        image_seq_length=len(image_processor.plan(1, 1).ids),
        projector_hidden_act=projector.config.hidden_act,
        vision_feature_select_strategy="default" if extra else "full",
        vision_feature_layer=layer,
        multimodal_projector_bias=projector.config.bias,
        tie_word_embeddings=llm.config.tie_word_embeddings,
    )
    config.pad_token_id = llm.config.pad_token_id
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(config)
    if type(llava.model.language_model) is not type(llm.base_model):
        raise ModelError(f"LLaVA has no place for a {type(llm).__name__}. {OTHERS}")
    llava.model.language_model = llm.base_model
    llava.lm_head = llm.get_output_embeddings()
    llava.model.vision_tower = encoder
    first, last = projector.model[0], projector.model[2]
    llava.model.multi_modal_projector.linear_1 = first
    llava.model.multi_modal_projector.linear_2 = last
    llava.config.dtype = llm.get_input_embeddings().weight.dtype
    llava.generation_config = copy.deepcopy(llm.generation_config)
    return llava.eval()


def _check(model: LLaVAModel, processor: ImageProcessor) -> tuple[int, int]:
    """Refuse what LLaVA cannot express; return the encoder's layer and the tokens before its
    patches, 0 or 1."""
    config = model.projector.config
    problems = []
    if len(model.projector.model) != 3 or config.pixel_shuffle_factor > 1:
        problems.append(
            f"its projector must have two layers and no pixel shuffle (found {config.kind}, depth "
            f"{config.depth}, pixel_shuffle_factor {config.pixel_shuffle_factor})"
        )
    if model.visual_select_layer is None:
        problems.append("it reads a hidden state before the final norm (visual_select_layer=None)")
    if not isinstance(processor, SquareImageProcessor):
        problems.append("it sees each picture once, not in tiles")
    extra = _leading_tokens(model.visual_encoder)
    if extra is None or extra > 1:
        found = "variable patches" if extra is None else f"{extra} tokens before the patches"
        problems.append(f"it drops one class token or none ({found})")
    if problems:
        raise ModelError(f"LLaVA cannot express this model: {'; '.join(problems)}. {OTHERS}")
    assert extra is not None and model.visual_select_layer is not None
    return model.visual_select_layer, extra


def _leading_tokens(encoder: Any) -> int | None:
    """Class and register tokens of a vision encoder; None for one that takes flat patches."""
    config = encoder.config
    size, patch = getattr(config, "image_size", None), config.patch_size
    if not isinstance(size, int):
        return None
    with torch.no_grad():
        blank = torch.zeros(1, 3, size, size, dtype=encoder.dtype, device=encoder.device)
        return encoder(blank).last_hidden_state.shape[1] - (size // patch) ** 2


def _give_image_row(llm: Any, image_token_id: int) -> None:
    """Let the embedding reach to the image token. The rows are never read; in the output layer the
    mean of all rows never gets the greatest logit."""
    rows = llm.get_input_embeddings().weight.shape[0]
    if image_token_id < rows:
        return
    llm.resize_token_embeddings(image_token_id + 1, mean_resizing=False)
    with torch.no_grad():
        for end in (llm.get_input_embeddings(), llm.get_output_embeddings()):
            end.weight[rows:] = end.weight[:rows].float().mean(0).to(end.weight.dtype)


def _compare(llava: Any, probe: Probe, expected: torch.Tensor) -> None:
    """Refuse a model whose own head or embedding does more than LLaVA's."""
    found = probe_logits(llava, probe.ids, probe.images)[:, : expected.shape[1]]
    change = float((found - expected).abs().max())
    allowed = ROUNDING[llava.lm_head.weight.dtype] * max(1.0, float(expected.abs().max()))
    if not change <= allowed:
        raise ModelError(
            f"as a LlavaForConditionalGeneration the model answers otherwise (a logit differs by "
            f"{change:.3g}): its language model has steps that LLaVA does not know. {OTHERS}"
        )


def _processor(llava: Any, image_processor: ImageProcessor, tokenizer: Any) -> Any:
    from transformers import LlavaProcessor

    strategy = llava.config.vision_feature_select_strategy
    return LlavaProcessor(
        image_processor=hf_image_processor(image_processor),
        tokenizer=tokenizer,
        patch_size=llava.config.vision_config.patch_size,
        vision_feature_select_strategy=strategy,
        chat_template=tokenizer.chat_template,
        image_token=image_processor.image_token,
        num_additional_image_tokens=int(strategy == "default"),
    )


def import_llava(path: str, out_dir: str | Path, *, max_shard_size: str = "2GB") -> Path:
    """Write a ``LlavaForConditionalGeneration`` model (folder or hub name) as complete LLaVA parts.

    Raises:
        ModelError: another model, or one whose pictures ``LLaVAModel`` would read otherwise.
    """
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    try:
        llava: Any = AutoModelForImageTextToText.from_pretrained(path, dtype="auto").eval()
        tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot load a LLaVA model from '{path}': {error}") from error
    if llava.config.model_type != "llava":
        raise ModelError(f"'{path}' is a {type(llava).__name__}, not LlavaForConditionalGeneration")
    model = from_llava(llava)
    if tokenizer.chat_template:
        tokenizer.chat_template = with_strings(tokenizer.chat_template)
    processor = _square(path, llava, tokenizer)
    probe = picture_probe(processor, tokenizer, llava.config.text_config.vocab_size)
    expected = probe_logits(llava, probe.ids, probe.images)
    _compare_parts(model, probe, processor.image_token_id, expected)
    return export_parts(
        model,
        tokenizer,
        processor,
        out_dir,
        whole=True,
        dtype=None,
        max_shard_size=max_shard_size,
        card={"Imported from": Path(path).name},
    )


def from_llava(llava: Any) -> LLaVAModel:
    """Return the parts of a ``LlavaForConditionalGeneration``, shared and not copied.

    Raises:
        ModelError: features of several layers.
    """
    from transformers import AutoModelForCausalLM

    config, mapper = llava.config, llava.model.multi_modal_projector
    if not isinstance(config.vision_feature_layer, int):
        raise ModelError(
            f"vision_feature_layer must be one layer, found {config.vision_feature_layer}"
        )
    with torch.device("meta"):
        llm: Any = AutoModelForCausalLM.from_config(config.text_config)
        projector = Projector(
            ProjectorConfig(
                mapper.linear_1.in_features,
                mapper.linear_1.out_features,
                hidden_act=config.projector_hidden_act,
                bias=config.multimodal_projector_bias,
                visual_select_layer=config.vision_feature_layer,
            )
        )
    setattr(llm, llm.base_model_prefix, llava.model.language_model)
    llm.set_output_embeddings(llava.lm_head)
    llm.config.tie_word_embeddings = config.tie_word_embeddings
    llm.generation_config = copy.deepcopy(llava.generation_config)
    projector.model[0], projector.model[2] = mapper.linear_1, mapper.linear_2
    return LLaVAModel(
        llm,
        llava.model.vision_tower,
        projector=projector,
        visual_select_layer=config.vision_feature_layer,
        use_activation_checkpointing=False,
    ).eval()


def _square(path: str, llava: Any, tokenizer: Any) -> SquareImageProcessor:
    from transformers import AutoImageProcessor

    own: Any = AutoImageProcessor.from_pretrained(path, backend="pil")
    settings = {
        "view": View.of(own).settings(),
        "num_tokens": llava.config.image_seq_length,
        "pad_to_square": bool(getattr(own, "do_pad", False)),
        "image_token": tokenizer.convert_ids_to_tokens(llava.config.image_token_id),
    }
    return SquareImageProcessor.from_settings(tokenizer, settings)


def _compare_parts(model: LLaVAModel, probe: Probe, token: int, expected: torch.Tensor) -> None:
    try:
        found = llava_logits(model, probe, token)
    except ModelError as error:
        raise ModelError(
            f"these parts see pictures otherwise than the original: {error}"
        ) from error
    change = float((found - expected).abs().max())
    allowed = ROUNDING[model.llm.get_input_embeddings().weight.dtype]
    if not change <= allowed * max(1.0, float(expected.abs().max())):
        raise ModelError(
            f"as parts the model answers otherwise (a logit differs by {change:.3g}): its vision "
            "features are chosen in a way that LLaVAModel does not know"
        )
