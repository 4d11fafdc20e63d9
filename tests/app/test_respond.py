"""One question to a model in training, with a picture and without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_vlms
import torch
from PIL import Image

from inlay.app.respond import respond
from inlay.core.errors import DataError
from inlay.core.types import IMAGE_MARK, Message
from inlay.data.chat import ChatEncoder


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from inlay.data import SquareImageProcessor
    from inlay.models import LLaVAModel, load_visual_encoder

    folder = tmp_path_factory.mktemp("respond")
    llm, clip = tiny_vlms.llama(folder / "llm"), tiny_vlms.clip(folder / "clip")
    tokenizer = AutoTokenizer.from_pretrained(llm)
    processor = SquareImageProcessor(tokenizer, str(clip))
    model = LLaVAModel(
        AutoModelForCausalLM.from_pretrained(llm), load_visual_encoder(str(clip)), tokenizer
    )
    return model.train(), tokenizer, processor


def test_the_picture_stands_before_the_question(
    seeing: tuple[Any, Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer, processor = seeing
    Image.new("RGB", (30, 20), "red").save(tmp_path / "red.png")
    prompts: list[list[int]] = []
    generate = model.generate

    def recorded(ids: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        prompts.append(ids[0].tolist())
        return generate(ids, **kwargs)

    monkeypatch.setattr(model, "generate", recorded)
    image = str(tmp_path / "red.png")
    text = respond(model, tokenizer, None, "", "What?", 4, (), image, processor)
    encoder = ChatEncoder(tokenizer, None, processor)
    expected = encoder.prompt_ids(
        [Message("user", f"{IMAGE_MARK}\nWhat?")], [processor.plan(30, 20)]
    )
    assert prompts == [expected]
    assert text.startswith("<|im_start|>user\n<image>\nWhat?<|im_end|>\n")
    assert model.training
    respond(model, tokenizer, None, "", "What?", 4, (), None, processor)
    assert processor.image_token_id not in prompts[1]


def test_a_missing_picture_is_a_data_error(seeing: tuple[Any, Any, Any]) -> None:
    model, tokenizer, processor = seeing
    with pytest.raises(DataError, match="nowhere"):
        respond(model, tokenizer, None, "", "What?", 4, (), "nowhere.png", processor)
