"""Chats about pictures: what the model is shown, and that the commands open every layout."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_vlms
import torch
from PIL import Image

from inlay.chat import terminal
from inlay.chat.open import open_model
from inlay.chat.pictures import Pictures, read_picture
from inlay.chat.session import ChatSession
from inlay.cli import main
from inlay.core.errors import DataError, ModelError
from inlay.core.types import IMAGE_MARK, Message
from inlay.data.chat import ChatEncoder


def talkative(folder: Path) -> str:
    """Give a random language model weights so large that its answers depend on all it reads."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, tie_word_embeddings=False)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.normal_(std=0.3)
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A LLaVA of tiny backbones in every layout, with those backbones."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from inlay.convert.llava import export_llava
    from inlay.convert.nanovlm import export_nanovlm
    from inlay.convert.parts import export_parts
    from inlay.data import SquareImageProcessor, TiledImageProcessor
    from inlay.models import LLaVAModel, load_visual_encoder

    root = tmp_path_factory.mktemp("chat")
    llm, clip = talkative(tiny_vlms.llama(root / "llm")), str(tiny_vlms.clip(root / "clip"))
    siglip = str(tiny_vlms.siglip(root / "siglip"))

    def build(encoder: str, tiled: bool, **settings: Any) -> tuple[Any, Any, Any]:
        tokenizer = AutoTokenizer.from_pretrained(llm)
        processor: Any = (
            TiledImageProcessor(tokenizer, encoder, pixel_shuffle_factor=2, max_image_size=128)
            if tiled
            else SquareImageProcessor(tokenizer, encoder, pad_to_square=True)
        )
        torch.manual_seed(4)
        model = LLaVAModel(
            AutoModelForCausalLM.from_pretrained(llm),
            load_visual_encoder(encoder),
            tokenizer,
            **settings,
        )
        return model, tokenizer, processor

    frozen = build(clip, False, freeze_llm=True, freeze_visual_encoder=True)
    export_parts(*frozen, root / "projector", dtype=None)
    whole = build(clip, False)
    export_parts(*whole, root / "parts", dtype=None)
    export_llava(*whole, root / "hf", dtype=None)
    nano = build(
        siglip,
        True,
        projector="pixel_shuffle",
        pixel_shuffle_factor=2,
        visual_select_layer=None,
    )
    export_nanovlm(*nano, root / "nanovlm")
    noise = torch.randint(0, 256, (50, 90, 3), generator=torch.Generator().manual_seed(1))
    Image.fromarray(noise.byte().numpy()).save(root / "noise.png")
    Image.new("RGB", (90, 50), "white").save(root / "white.png")
    return {path.name.removesuffix(".png"): path for path in root.iterdir()}


def words(parts: dict[str, Path], layout: str) -> list[str]:
    """The arguments of ``inlay chat`` for a layout."""
    if layout == "llava":
        llava = ["--llava", str(parts["projector"]), "--visual-encoder", str(parts["clip"])]
        return [str(parts["llm"]), *llava]
    return [str(parts[layout])]


LAYOUTS = ["llava", "projector", "parts", "hf", "nanovlm"]


def talk(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *args: str, text: str
) -> str:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    code = main(["chat", *args, "--max-new-tokens", "12", "--temperature", "0"])
    out = capsys.readouterr()
    assert code == 0, out.err
    return out.out


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_command_sees_the_picture(
    parts: dict[str, Path],
    layout: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    args, question = words(parts, layout), "What is it?\n\nRESET\n\nWhat is it?\n"
    noise = talk(monkeypatch, capsys, *args, "--image", str(parts["noise"]), text=question)
    first, second = noise.split("\n", 1)
    assert second.rstrip("\n") == first, "RESET keeps the picture"
    white = talk(monkeypatch, capsys, *args, "--image", str(parts["white"]), text=question)
    assert white != noise
    assert talk(monkeypatch, capsys, *args, text=question) not in (white, noise)


def test_all_layouts_of_one_model_answer_alike(parts: dict[str, Path]) -> None:
    def answer(layout: str) -> str:
        opened = open_model(str(parts[layout]))
        picture = [read_picture(str(parts["noise"]))]
        session = ChatSession(
            opened.model, opened.tokenizer, temperature=0, max_new_tokens=20,
            image_processor=opened.image_processor, images=picture,
        )  # fmt: skip
        return session.reply("What is it?")

    assert answer("parts") == answer("hf") != ""


def spy(model: Any, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Record what the model's ``generate`` is given."""
    calls: list[dict[str, Any]] = []
    generate = model.generate

    def recorded(**kwargs: Any) -> Any:
        calls.append(kwargs)
        return generate(**kwargs)

    monkeypatch.setattr(model, "generate", recorded)
    return calls


@pytest.mark.parametrize("template", [None, "qwen_chat"])
@pytest.mark.parametrize("layout", ["parts", "hf", "nanovlm"])
def test_prompts_have_the_tokens_of_training(
    parts: dict[str, Path], layout: str, template: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_model(str(parts[layout]))
    calls = spy(opened.model, monkeypatch)
    processor = opened.image_processor
    noise, white = (read_picture(str(parts[name])) for name in ("noise", "white"))
    session = ChatSession(
        opened.model, opened.tokenizer, template, temperature=0, max_new_tokens=3,
        image_processor=processor, images=[noise],
    )  # fmt: skip
    first = session.reply("one?")
    session.reply("two?", images=[white])
    gap = "" if layout == "nanovlm" or (layout == "hf" and template is None) else "\n"
    history = [
        Message("user", f"{IMAGE_MARK}{gap}one?"),
        Message("assistant", first),
        Message("user", f"{IMAGE_MARK}{gap}two?"),
    ]
    assert session.history[:3] == history
    encoder = ChatEncoder(opened.tokenizer, template, processor)
    alone = encoder.prompt_ids(history[:1], [processor.plan(90, 50)])
    both = encoder.prompt_ids(history, [processor.plan(90, 50, i, 2) for i in range(2)])
    assert [call["input_ids"][0].tolist() for call in calls] == [alone, both]
    shown = calls[1]["images"]["pixel_values"]
    expected = [torch.from_numpy(processor.pixels(p)["pixel_values"]) for p in (noise, white)]
    assert torch.equal(shown, torch.cat(expected))
    at = calls[1]["image_positions"]
    assert at.tolist() == [i for i, t in enumerate(both) if t == processor.image_token_id]


def test_a_user_cannot_write_a_picture(parts: dict[str, Path]) -> None:
    opened = open_model(str(parts["parts"]))
    session = ChatSession(
        opened.model, opened.tokenizer, max_new_tokens=2, image_processor=opened.image_processor
    )
    session.reply(f"a <image> and {IMAGE_MARK} walk into a bar")
    assert session.history[0].content == "a <image> and  walk into a bar"
    assert len(session.pictures) == 0


def test_a_full_context_drops_pictures_but_the_first(parts: dict[str, Path]) -> None:
    opened = open_model(str(parts["parts"]))
    picture = read_picture(str(parts["white"]))
    notices: list[str] = []
    session = ChatSession(
        opened.model, opened.tokenizer, max_new_tokens=2, on_notice=notices.append,
        image_processor=opened.image_processor, images=[picture],
    )  # fmt: skip
    session.max_positions = 200
    session.reply("a" * 100, images=[picture])
    assert len(session.pictures) == 2
    session.reply("b" * 100)
    assert len(notices) == 1 and len(session.pictures) == 1
    with pytest.raises(ModelError, match="no room"):
        session.reply("c" * 300, images=[picture])
    session.reply("d")
    assert len(session.pictures) == 1


@pytest.mark.parametrize("stop", ["template", "generation config"])
def test_generation_stops_at_the_end_token(
    parts: dict[str, Path], stop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_model(str(parts["parts"]))
    llm, eos = opened.model.llm, opened.tokenizer.eos_token_id
    forward, steps = llm.forward, [0]

    def ends(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        steps[0] += 1
        out.logits[..., eos if steps[0] == 3 else 5] = 1e4
        return out

    monkeypatch.setattr(llm, "forward", ends)
    session = ChatSession(
        opened.model, opened.tokenizer, temperature=0, max_new_tokens=50,
        image_processor=opened.image_processor, images=[read_picture(str(parts["noise"]))],
    )  # fmt: skip
    session.reply("?")
    assert steps == [3]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["llm", "--image", "noise"], "reads text only"),
        (["parts", "--image", "nowhere.png"], "nowhere.png"),
        (["llm", "--visual-encoder", "clip"], "--llava"),
        (["llm", "--llava", "parts", "--visual-encoder", "clip"], "leave --visual-encoder out"),
        (["hf", "--offload-folder", "x"], "--bits"),
    ],
)
def test_mistakes(
    parts: dict[str, Path],
    args: list[str],
    expected: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["chat", *(str(parts.get(word, word)) for word in args)]) == 1
    assert expected in capsys.readouterr().err


def test_a_bomb_is_refused_before_the_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("1", (12_000, 12_000)).save(tmp_path / "bomb.png")
    assert main(["chat", "no-such-model", "--image", str(tmp_path / "bomb.png")]) == 1
    assert "pixels" in capsys.readouterr().err


def test_pictures_from_the_web(tmp_path: Path, parts: dict[str, Path]) -> None:
    import functools
    import http.server
    import threading

    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(parts["noise"].parent)
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        assert read_picture(f"{address}/noise.png").size == (90, 50)
        with pytest.raises(DataError, match="cannot be reached"):
            read_picture(f"{address}/none.png")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_picture_needs_a_template(parts: dict[str, Path]) -> None:
    opened = open_model(str(parts["parts"]))
    opened.tokenizer.chat_template = None
    session = ChatSession(opened.model, opened.tokenizer, image_processor=opened.image_processor)
    with pytest.raises(ModelError, match="prompt-template"):
        session.reply("?", images=[read_picture(str(parts["noise"]))])


def test_generate(parts: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    args = [
        "generate",
        str(parts["parts"]),
        "--image",
        str(parts["noise"]),
        "--max-new-tokens",
        "6",
    ]
    assert main([*args, "--generations", "3", "--temperature", "2", "--top-k", "0"]) == 0
    lines = capsys.readouterr().out.split(">> Generation ")[1:]
    assert [line[:2] for line in lines] == ["1:", "2:", "3:"]
    assert len({line[2:] for line in lines}) == 3
    assert main([*args, "--generations", "2", "--greedy", "--measure-memory", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["answers"][0] == result["answers"][1]
    assert result["memory_mb"]["peak"] >= result["memory_mb"]["loaded"] > 0
    assert main([*args, "--generations", "0"]) == 1


@pytest.mark.parametrize("layout", ["parts", "hf"])
def test_bench_of_finished_models(
    parts: dict[str, Path], layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    work = ["--max-new-tokens", "4", "--num-runs", "2", "--warmup-runs", "0", "--json"]
    assert main(["bench", str(parts[layout]), *work]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["image_tokens"] == 16
    assert 0 < row["vision_s"] < row["first_token_s"] and row["projector_s"] > 0
    assert row["tokens_per_s"] > 0 and row["peak_mb"] > 0


def test_bench_of_backbones(parts: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    work = ["--max-new-tokens", "3", "--num-runs", "1", "--warmup-runs", "0"]
    backbones = ["--vit-model-types", str(parts["siglip"]), "--lm-model-types", str(parts["llm"])]
    factors = ["--mp-pixel-shuffle-factors", "2", "3", "4"]
    image = ["--image-path", str(parts["white"])]
    assert main(["bench", *backbones, *factors, *image, *work, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row.get("image_tokens") for row in rows] == [80, None, 20]
    assert "pixel_shuffle_factor 3" in rows[1]["error"]
    assert main(["bench", *backbones, *factors[:2], *image, *work]) == 0
    assert "tokens/s" in capsys.readouterr().out
    assert main(["bench"]) == 1


def test_pictures_without_a_processor_are_none() -> None:
    assert Pictures(None).plans() == [] and Pictures(None).inputs([1, 2]) == {}


def test_chat_hands_the_picture_on(parts: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    sessions: list[ChatSession] = []
    monkeypatch.setattr(terminal, "run_chat", lambda session, stream: sessions.append(session))
    layer: Callable[..., Any] = lambda *more: main(  # noqa: E731
        ["chat", *words(parts, "llava"), "--image", str(parts["noise"]), *more]
    )
    layer()
    layer("--visual-select-layer", "-1")
    assert [s.model.visual_select_layer for s in sessions] == [-2, -1]
    assert [len(s.first_images) for s in sessions] == [1, 1]
