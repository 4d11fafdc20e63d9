"""What ``inlay convert verify`` sees: templates, stop tokens, adapters that would do nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from inlay.convert.folder import RECORD
from inlay.convert.probe import read_weights
from inlay.convert.speech import template_check
from inlay.convert.to_hf import export
from inlay.convert.verify import verify
from inlay.core.errors import ModelError
from inlay.data.templates import PROMPT_TEMPLATE
from inlay.models.sft import SupervisedFinetune

ADAPTER = "adapter_model.safetensors"


@pytest.fixture
def model(tiny_model: Path) -> Callable[..., Any]:
    def build(lora: bool = False, moved: float = 0.1) -> SupervisedFinetune:
        llm = AutoModelForCausalLM.from_pretrained(tiny_model)
        config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"])
        built = SupervisedFinetune(llm, config if lora else None)
        torch.manual_seed(1)
        for parameter in built.parameters():
            if parameter.requires_grad:
                parameter.data += moved * torch.randn_like(parameter)
        return built

    return build


@pytest.fixture
def tokenizer(tiny_tokenizer: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_tokenizer)


def record(out: Path, **changes: Any) -> dict[str, Any]:
    """The record of an export, with changes written."""
    found = json.loads((out / RECORD).read_text("utf-8"))
    (out / RECORD).write_text(json.dumps({**found, **changes}), "utf-8")
    return found


def detail(out: Path, check: str) -> str:
    return verify(out)["checks"][check]["detail"]


def test_conversations_of_every_form_are_compared(
    model: Any, tokenizer: Any, tmp_path: Path, here: None
) -> None:
    out = export(model(), tokenizer, tmp_path / "out", dtype=None)
    chats = record(out)["conversations"]
    forms = {"".join(m["role"][0] for m in chat["messages"]) for chat in chats if not chat["ask"]}
    assert forms == {"ua", "sua", "uaua", "uauaua", "suauaua"}
    assert any("你好" in chat["text"] for chat in chats) and sum(c["ask"] for c in chats) == 5
    report = verify(out)["checks"]
    assert report["chat template"]["detail"] == (
        "the text of training in 10 conversations, token for token"
    )
    assert report["stop token"]["detail"].endswith("trained")


@pytest.mark.parametrize("name", ["vicuna", "llama2_chat", "chatglm2", "qwen_chat"])
def test_named_templates(model: Any, tokenizer: Any, tmp_path: Path, here: None, name: str) -> None:
    template = {**PROMPT_TEMPLATE[name]}
    out = export(model(), tokenizer, tmp_path / "out", dtype=None, template=template)
    assert detail(out, "chat template").startswith("the text of training in 10 conversations")


def change_template(out: Path, old: str, new: str) -> None:
    file = out / "chat_template.jinja"
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")


def test_a_template_that_differs(model: Any, tokenizer: Any, tmp_path: Path, here: None) -> None:
    out = export(model(), tokenizer, tmp_path / "out", dtype=None, template=PROMPT_TEMPLATE.vicuna)
    change_template(out, "ASSISTANT:", "ASSISTENT:")
    with pytest.raises(ModelError) as caught:
        verify(out)
    said = str(caught.value)
    assert "chat template: differs (user, assistant): from character" in said
    assert "training saw 'ANT:" in said and "the folder gives 'ENT:" in said


def test_a_template_that_refuses_what_training_saw(
    model: Any, tokenizer: Any, tmp_path: Path, here: None
) -> None:
    out = export(model(), tokenizer, tmp_path / "out", dtype=None)
    start = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    text = (out / "chat_template.jinja").read_text("utf-8")
    (out / "chat_template.jinja").write_text(start + text, "utf-8")
    with pytest.raises(ModelError, match=r"refuses a conversation \(system, user.*no system"):
        verify(out)


def test_a_prompt_that_lacks_the_head_of_the_answer(
    model: Any, tokenizer: Any, tmp_path: Path, here: None
) -> None:
    out = export(model(), tokenizer, tmp_path / "out", dtype=None)
    change_template(out, "add_generation_prompt", "add_nothing")
    with pytest.raises(ModelError, match=r"differs \(user\).*the folder gives ''"):
        verify(out)


def test_text_that_is_cut_into_other_tokens_is_told() -> None:
    turns = [{"role": "user", "content": "x"}]
    seen = {"messages": turns, "ask": True, "text": "A b", "ids": [1, 2, 3]}
    same, other = ({"text": "A b", "ids": ids} for ids in ([1, 2, 3], [1, 4]))
    assert template_check([seen], [same]) == (
        True,
        "the text of training in 1 conversations, token for token",
    )
    fine, told = template_check([seen, seen], [same, other])
    assert fine and "1 are other tokens, the first (user) at token 1" in told
    fine, told = template_check([seen], [{"text": "A bc", "ids": [1, 2, 5]}])
    assert not fine and "from character 3 on training saw '', the folder gives 'c'" in told


def test_stop_tokens(model: Any, tokenizer: Any, tmp_path: Path, here: None) -> None:
    out = export(model(), tokenizer, tmp_path / "out", dtype=None)
    before = (out / "generation_config.json").read_text()
    config = GenerationConfig.from_pretrained(out)
    config.eos_token_id = None
    config.save_pretrained(out)
    with pytest.raises(ModelError, match=r"stop token: \[\d+\] not among eos_token_id \[\]"):
        verify(out)
    (out / "generation_config.json").write_text(before)
    stops = record(out, answer_ends=[3])["stop_token_ids"]
    with pytest.raises(ModelError, match=rf"not trained: answers end with \[3\], not .*{stops[0]}"):
        verify(out)


def test_a_stop_text_that_is_no_token(
    model: Any, tokenizer: Any, tmp_path: Path, here: None
) -> None:
    template = {"INSTRUCTION": "Q: {input}\nA: ", "SUFFIX": "<over>", "SUFFIX_AS_EOS": True}
    out = export(model(), tokenizer, tmp_path / "out", dtype=None, template=template)
    assert "answers end with the text '<over>'" in detail(out, "stop token")


def rewrite(out: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change an adapter's weights as a faulty exporter would have written them."""
    save_file(change(load_file(out / ADAPTER)), out / ADAPTER, {"format": "pt"})
    record(out, weights_sha256=read_weights(out)[0])


def settings(out: Path, **changes: Any) -> None:
    file = out / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_adapters_that_would_do_nothing(
    model: Any, tokenizer: Any, tmp_path: Path, here: None
) -> None:
    out = export(model(lora=True), tokenizer, tmp_path / "out", dtype=None)
    assert detail(out, "adapter") == "changes the model"

    whole = load_file(out / ADAPTER)
    rewrite(out, lambda w: {k.replace("base_model.model.", "module."): t for k, t in w.items()})
    with pytest.raises(ModelError, match=r"adapter: would change nothing: none of its 4 weights"):
        verify(out)

    rewrite(out, lambda _: {k: t * ("lora_A" in k) for k, t in whole.items()})
    with pytest.raises(
        ModelError, match=r"all 2 B matrices in adapter_model\.safetensors are zero"
    ):
        verify(out)

    rewrite(out, lambda _: {k: t * ("lora_B" in k) for k, t in whole.items()})
    with pytest.raises(ModelError, match="with it and without it, logits are the same"):
        verify(out)

    rewrite(out, lambda _: whole)
    settings(out, target_modules=["query_proj"])
    with pytest.raises(ModelError, match=r"does not load: .*arget modules .*query_proj"):
        verify(out)


def test_an_adapter_that_fits_in_part(
    model: Any, tokenizer: Any, tmp_path: Path, here: None
) -> None:
    out = export(model(lora=True), tokenizer, tmp_path / "out", dtype=None)
    rewrite(out, lambda w: {k: t for k, t in w.items() if "layers.0" in k})
    with pytest.raises(ModelError, match=r"loading: .*missing adapter keys"):
        verify(out)


def test_records_of_earlier_releases(
    model: Any, tokenizer: Any, tmp_path: Path, here: None
) -> None:
    out = export(model(), tokenizer, tmp_path / "out", dtype=None)
    found = record(out)
    for name in ("conversations", "answer_ends", "stop_words"):
        del found[name]
    (out / RECORD).write_text(json.dumps(found), "utf-8")
    assert detail(out, "chat template") == "present" and "eos" in detail(out, "stop token")
