"""Every mode and option of XTuner 0.1.23's help, as the documents print it, is understood."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

import inlay
from inlay import cli

COMMANDS = {
    "list-cfg": ["-p chat", "--pattern chat"],
    "copy-cfg": ["name ./"],
    "log-dataset": [
        "c.py",
        *(f"c.py --show {what}" for what in ("text", "masked_text", "input_ids", "labels", "all")),
    ],
    "check-custom-dataset": ["c.py"],
    "list-dataset-format": [""],
    "train": [
        "c.py",
        "c.py --work-dir w --deepspeed deepspeed_zero2 --resume x.pth --seed 1",
        "c.py --resume",
        "c.py --cfg-options a.b=1 c=[1,2] --launcher none --local_rank 0",
        *(f"c.py --launcher {name} --local-rank 0" for name in ("none", "pytorch", "slurm", "mpi")),
    ],
    "dist_train": ["c.py", "c.py 8", "c.py 2 --work-dir w --deepspeed deepspeed_zero3"],
    "test": ["c.py --checkpoint x.pth --work-dir w --cfg-options a=1 --launcher none"],
    "chat": [
        "m --adapter a --bits 8 --temperature 0.7 --top-k 50 --top-p 0.9 --system s",
        "m --llava l --visual-encoder v --visual-select-layer -2 --image i.jpg",
        "m --torch-dtype fp16 --prompt-template internlm2_chat --system-template alpaca",
        "m --bits None --bot-name B --with-plugins calculate solve search --no-streamer",
        "m --lagent --stop-words a b --offload-folder o --max-new-tokens 9 --seed 3",
        "m --repetition-penalty 1.1 --command-stop-word <eoc> --answer-stop-word <eom>",
    ],
    "convert": [
        "pth_to_hf c.py x.pth d --fp32 --max-shard-size 2GB --safe-serialization",
        "pth_to_hf c.py x.pth d --cfg-options a=1 b=2",
        *(
            f"pth_to_hf c.py x.pth d --save-format {f}"
            for f in ("xtuner", "official", "huggingface")
        ),
        "merge m a d --max-shard-size 2GB --is-clip --safe-serialization",
        *(f"merge m a d --device {d}" for d in ("cuda", "cpu", "auto")),
        "split m d",
    ],
    "preprocess": [
        "arxiv a b --start-date 2020-01-01 --categories cs.AI cs.CL",
        "refcoco --ann-path a --image-path i --save-path s",
    ],
    "mmbench": [
        "m --llava l --visual-encoder v --prompt-template vicuna --data-path d.tsv --work-dir w",
        "m --data-path d --visual-select-layer -2 --stop-words a --torch-dtype fp16 --bits 4",
        "m --data-path d --bot-name B --offload-folder o --max-new-tokens 9 --seed 0",
        "m --data-path d --launcher pytorch",
    ],
    "eval_refcoco": [
        "m --llava l --visual-encoder v --prompt-template vicuna --data-path d.json --work-dir w",
        "m --data-path d --visual-select-layer -2 --stop-words a --torch-dtype fp16 --bits 4",
        "m --data-path d --bot-name B --offload-folder o --max-new-tokens 9 --seed 0",
        "m --data-path d --launcher pytorch",
    ],
}
LINES = [(name, line) for name, lines in COMMANDS.items() for line in lines]


def parsed(name: str, line: str) -> argparse.Namespace:
    command = cli._find(name)
    assert command is not None
    return cli._parse(command, name, line.split())


@pytest.mark.parametrize(("name", "line"), LINES)
def test_a_command_line_of_the_original_is_understood(name: str, line: str) -> None:
    parsed(name, line)


def test_defaults_are_those_of_the_original() -> None:
    chat = vars(parsed("chat", "m"))
    wanted = {"temperature": 0.1, "top_k": 40, "top_p": 0.75, "max_new_tokens": 2048, "seed": 0}
    wanted |= {"repetition_penalty": 1.0, "bot_name": "BOT", "bits": None, "stop_words": []}
    assert {name: chat[name] for name in wanted} == wanted
    assert parsed("chat", "m --bits 4").bits == 4 and parsed("chat", "m --bits None").bits is None
    export = parsed("convert", "pth_to_hf c x d")
    assert (export.fp32, export.max_shard_size, export.save_format) == (False, "2GB", "xtuner")
    arxiv = parsed("preprocess", "arxiv a b")
    assert arxiv.categories == ["cs.AI", "cs.CL", "cs.CV"]
    assert str(arxiv.start_date) == "2020-01-01"
    refcoco = parsed("preprocess", "refcoco")
    assert refcoco.ann_path == "data/refcoco_annotations" and refcoco.save_path == "./"
    assert refcoco.image_path == "data/llava_data/llava_images/coco/train2017"
    assert parsed("mmbench", "m --data-path d").max_new_tokens == 100


@pytest.mark.parametrize("name", COMMANDS)
def test_hyphens_underscores_and_capitals(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for other in (name.replace("-", "_"), name.replace("_", "-"), name.upper()):
        with pytest.raises(SystemExit) as stop:
            cli.main([other, "--help"])
        assert stop.value.code == 0
    assert "usage: inlay" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["help", "-h", "--help", "version", "-v", "--version"])
def test_special_words(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([word]) == 0
    out = capsys.readouterr().out
    assert out == f"inlay {inlay.__version__}\n" if "v" in word else "dist_train" in out


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["trian", "c.py"], 2, "Did you mean 'train'?"),
        (["check-custom-datset", "c.py"], 2, "Did you mean 'check-custom-dataset'?"),
        (["train", "none.py"], 1, "none.py"),
        (["train", "internlm2_chat_1_8b_qlora_alpaca"], 1, "internlm2_chat_1_8b_qlora_alpaca_e3"),
        (["copy-cfg", "internlm2_chat_1_8b", "."], 1, "internlm2_chat_1_8b"),
        (["convert", "split", "none", "d"], 1, "none"),
        (["convert", "merge", "none", "a", "d"], 1, "none"),
        (["mmbench", "none", "--data-path", "none.tsv"], 1, "none.tsv"),
        (["chat", "none", "--prompt-template", "internlm2"], 1, "internlm2_chat"),
    ],
)
def test_failures_have_codes_and_one_message(
    words: list[str],
    code: int,
    expected: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and expected in err
    assert "Traceback" not in err and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    [
        ["train"],
        ["train", "c.py", "--launcher", "ssh"],
        ["convert", "pth2hf", "a", "b", "c"],
        ["preprocess"],
        ["chat", "m", "--bits", "3"],
        ["chat", "m", "--with-plugins", "shell"],
        ["chat", "m", "--adapter", "a", "--llava", "b"],
        ["log-dataset", "c.py", "--show", "tokens"],
    ],
)
def test_wrong_usage_is_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("usage: inlay")
