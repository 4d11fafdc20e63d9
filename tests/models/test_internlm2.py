"""InternLM2 under its own names: logits, loading, training, Llama's form, code that never runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_internlm2 import reference_logits, write_internlm2

from inlay.core.errors import ModelError
from inlay.core.types import IGNORE_INDEX
from inlay.models.internlm2 import InternLM2ForCausalLM, to_llama
from inlay.models.lm import load_adapter, load_causal_lm
from inlay.models.sft import SupervisedFinetune

FUSED = ["wqkv", "wo", "w1", "w2", "w3"]
SHORT, LONG = [(7 * i * i + 3) % 500 for i in range(24)], [(5 * i * i + 1) % 500 for i in range(90)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("internlm2") / "internlm2-chat-tiny"


@pytest.fixture(scope="module")
def canary(folder: Path) -> Path:
    return folder.parent / "canary"


@pytest.fixture(scope="module")
def weights(folder: Path, canary: Path) -> dict[str, torch.Tensor]:
    return write_internlm2(folder, canary)


def logits(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]


def rounded_to_4_bits(model: Any) -> dict[str, torch.Tensor]:
    """The weights that a quantised model computes with, by name."""
    from bitsandbytes.functional import dequantize_4bit

    return {
        name: dequantize_4bit(weight.data, weight.quant_state)
        for name, weight in model.named_parameters()
        if hasattr(weight, "quant_state")
    }


@pytest.mark.parametrize("ids", [SHORT, LONG], ids=["short", "past the trained length"])
@pytest.mark.parametrize("attention", ["sdpa", "eager", "inlay"])
def test_logits_are_those_of_the_description(
    folder: Path, weights: dict[str, torch.Tensor], ids: list[int], attention: str
) -> None:
    model = load_causal_lm(str(folder))
    assert isinstance(model, InternLM2ForCausalLM)
    assert model.config._attn_implementation == "sdpa"  # not what the published code needs
    model.set_attn_implementation(attention)
    expected = reference_logits(weights, ids)
    assert (logits(model, ids) - expected).abs().max() < 1e-5
    assert expected.std() > 0.5


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
def test_biases_and_bin_shards(tmp_path: Path, kind: str) -> None:
    weights = write_internlm2(tmp_path / "m", tmp_path / "canary", kind, bias=True)
    model = load_causal_lm(str(tmp_path / "m"))
    assert (logits(model, SHORT) - reference_logits(weights, SHORT)).abs().max() < 1e-5
    assert (logits(to_llama(model), SHORT) - logits(model, SHORT)).abs().max() < 1e-6


def test_tied_embeddings(tmp_path: Path) -> None:
    weights = write_internlm2(tmp_path / "m", tmp_path / "canary", tie_word_embeddings=True)
    model = load_causal_lm(str(tmp_path / "m"))
    assert model.output.weight is model.model.tok_embeddings.weight
    assert (logits(model, SHORT) - reference_logits(weights, SHORT)).abs().max() < 1e-5
    llama = to_llama(model)
    assert llama.lm_head.weight is llama.model.embed_tokens.weight


@pytest.mark.usefixtures("weights")
def test_generation_with_a_cache_is_that_without(folder: Path) -> None:
    model = load_causal_lm(str(folder))
    ids = torch.tensor([SHORT])
    settings = {"max_new_tokens": 60, "do_sample": False, "eos_token_id": None}
    with_cache = model.generate(ids, use_cache=True, **settings)
    assert with_cache.shape[1] == len(SHORT) + 60  # through the length where scaling sets in
    assert (with_cache == to_llama(model).generate(ids, use_cache=True, **settings)).all()
    until_64 = model.generate(ids, use_cache=False, **settings | {"max_new_tokens": 40})
    assert (with_cache[:, :64] == until_64).all()


@pytest.mark.usefixtures("weights")
def test_documents_in_a_row_do_not_see_each_other(folder: Path) -> None:
    model = SupervisedFinetune(load_causal_lm(str(folder)), use_activation_checkpointing=False)
    row = torch.tensor([SHORT + SHORT[:9]])
    places = torch.cat([torch.arange(24), torch.arange(9)])[None]

    @torch.no_grad()
    def loss(ids: torch.Tensor, positions: torch.Tensor, starts: list[int]) -> float:
        labels = ids.masked_fill(positions == 0, IGNORE_INDEX)
        out = model(ids, labels, positions, torch.tensor(starts, dtype=torch.int32))
        return float(out.loss_sum)

    apart = loss(row[:, :24], places[:, :24], [0, 24]) + loss(row[:, 24:], places[:, 24:], [0, 9])
    assert loss(row, places, [0, 24, 33]) == pytest.approx(apart, rel=1e-5)


@pytest.mark.parametrize("bits", [None, 4])
def test_fused_modules_train_and_load_in_plain_peft(
    folder: Path, weights: dict[str, torch.Tensor], tmp_path: Path, bits: int | None
) -> None:
    from peft import LoraConfig, PeftModel

    lora = LoraConfig(r=4, lora_alpha=8, target_modules=FUSED, task_type="CAUSAL_LM")

    def base() -> Any:
        return load_causal_lm(str(folder), bits=bits, dtype="fp32")

    torch.manual_seed(0)
    model = SupervisedFinetune(base(), lora).train()
    if bits:
        expected = reference_logits(weights | rounded_to_4_bits(base()), SHORT)
        assert (logits(base(), SHORT) - expected).abs().max() < 1e-4
        kinds = {type(m).__name__ for n, m in model.named_modules() if n.endswith("base_layer")}
        assert kinds == {"Linear4bit"}
        assert type(model.llm.get_base_model().output) is torch.nn.Linear
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == 2 * 2 * len(FUSED)
    optimizer = torch.optim.AdamW(trained, lr=3e-2)
    ids, starts = torch.tensor([SHORT]), torch.tensor([0, 24], dtype=torch.int32)
    losses = []
    for _ in range(8):
        loss = model(ids, ids.clone(), torch.arange(24)[None], starts).loss_sum / 23
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < losses[0] - 1
    model.llm.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert sorted(config["target_modules"]) == sorted(FUSED)
    assert config["base_model_name_or_path"] == str(folder)
    model.eval()
    model.llm.set_attn_implementation("sdpa")
    expected = logits(model.llm, SHORT)
    plain = PeftModel.from_pretrained(base(), tmp_path).eval()
    assert (logits(plain, SHORT) - expected).abs().max() < 1e-5
    assert (logits(load_adapter(base(), str(tmp_path)).eval(), SHORT) - expected).abs().max() < 1e-5
    if bits:
        with pytest.raises(ModelError, match="quantised"):
            to_llama(base())


@pytest.mark.usefixtures("weights")
def test_all_linear_modules_are_all_but_the_head(folder: Path) -> None:
    from peft import LoraConfig

    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    model = SupervisedFinetune(load_causal_lm(str(folder)), lora)
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    names = {name.split(".lora_")[0].rsplit(".", 1)[-1] for name in trained}
    assert names == set(FUSED)


@pytest.mark.usefixtures("weights")
def test_the_config_is_written_as_published(folder: Path, tmp_path: Path) -> None:
    model = load_causal_lm(str(folder), dtype="bf16")
    model.save_pretrained(tmp_path)
    before = json.loads((folder / "config.json").read_text())
    after = json.loads((tmp_path / "config.json").read_text())
    assert after.pop("torch_dtype") == "bfloat16"
    for name in ("torch_dtype", "transformers_version", "attn_implementation"):
        before.pop(name)
        after.pop(name, None)
    assert {k: after.get(k) for k in before} == before
    assert after.keys() - before.keys() <= {"attention_dropout"}


@pytest.mark.usefixtures("weights")
def test_the_embedding_grows(folder: Path) -> None:
    model = load_causal_lm(str(folder))
    size, before = model.config.vocab_size, logits(model, SHORT)
    model.resize_token_embeddings(size + 2)
    assert model.output.weight.shape[0] == model.model.tok_embeddings.weight.shape[0] == size + 2
    assert (logits(model, SHORT)[:, :size] - before).abs().max() < 1e-6
    assert logits(model, [size, size + 1]).isfinite().all()


@pytest.mark.parametrize("trust", [None, False, True])
def test_the_folders_code_never_runs(
    folder: Path, weights: dict[str, torch.Tensor], canary: Path, trust: bool | None
) -> None:
    """As a script loads it. What a config's ``True`` does is in ``tests/config/test_build.py``."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    kept = folder.parent / f"copy-{trust}"
    shutil.copytree(folder, kept)
    shutil.rmtree(kept / "custom_generate")
    AutoConfig.from_pretrained(kept, trust_remote_code=trust)
    tokenizer = AutoTokenizer.from_pretrained(kept, trust_remote_code=trust)
    model = AutoModelForCausalLM.from_pretrained(kept, trust_remote_code=trust)
    assert isinstance(model, InternLM2ForCausalLM)
    assert type(tokenizer).__name__ == "InternLM2Tokenizer"
    assert not canary.exists()


@pytest.mark.usefixtures("weights")
def test_the_sentencepiece_file_alone_gives_the_tokenizer(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    for name in ("config.json", "tokenizer.model"):
        shutil.copy(folder / name, tmp_path)
    text = "<|im_start|>user\n你好 🙂<|im_end|>"
    found = AutoTokenizer.from_pretrained(tmp_path)(text).input_ids
    assert found == AutoTokenizer.from_pretrained(folder)(text).input_ids
    assert found[:2] == [1, found[-1] + 1]
