"""Every command line that the documents print, with ``inlay`` for ``xtuner``, as one session at a
terminal: tiny local models and data lie where the documents have theirs."""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import runs
import torch
from evaluation.tables import COLOURS, rotations, write_table
from PIL import Image
from tiny_internlm2 import write_internlm2
from tiny_vlms import clip

PRINTED = Path(__file__).parents[1] / "config" / "printed"
EMO = "internlm2_chat_1_8b_qlora_emo_e3"
ALPACA = "internlm2_1_8b_qlora_alpaca_e3"
PRETRAIN = "llava_internlm2_chat_1_8b_clip_vit_large_p14_336_e1_gpu8_pretrain"
FINETUNE = "llava_internlm2_chat_1_8b_qlora_clip_vit_large_p14_336_lora_e1_gpu{}_finetune"
HELLO = "你好\n\nRESET\n\n你是谁？\n\nEXIT\n\n"
PROMPT = "double enter to end input (EXIT: exit chat, RESET: reset history) >>> "

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


class Shell:
    """Types command lines as the documents print them; ``/root`` is a folder of the test.

    Attributes:
        cwd: where the next command runs.
    """

    def __init__(self, home: Path) -> None:
        self.home = self.cwd = home

    def path(self, text: str) -> Path:
        """A path of the documents."""
        return Path(re.sub(r"^/root", str(self.home), text))

    def __call__(self, line: str, stdin: str = "", code: int = 0) -> str:
        """Run a line, which must end with ``code``; return all that it has written."""
        words = [str(self.path(word)) for word in shlex.split(line)]
        assert words.pop(0) == "inlay"
        output = self.home.parent / "output"
        output.mkdir(exist_ok=True)

        def before() -> None:
            runs.look_here()
            os.chdir(self.cwd)
            sys.stdin = io.StringIO(stdin)

        found = runs.start(words, output, before=before)
        ended = found.wait(600)
        text = found.text
        assert ended == code, f"{line}\n{text}"
        assert "Traceback" not in text, f"{line}\n{text}"
        return text

    def several(self, line: str, **env: str) -> str:
        """Run a line that starts processes of its own."""
        words = [str(self.path(word)) for word in shlex.split(line)][1:]
        done = subprocess.run(
            [sys.executable, "-m", "inlay", *words],
            cwd=self.cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", **env},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def internlm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "internlm2-chat-1_8b"
    write_internlm2(folder, folder.parent / "canary", max_position_embeddings=320)
    return folder


@pytest.fixture
def shell(tmp_path: Path, internlm2: Path) -> Any:
    home = tmp_path / "root"
    home.mkdir()
    yield Shell(home)
    assert not (internlm2.parent / "canary").exists(), "code of the model's folder has run"


def answers(text: str) -> list[str]:
    """What stands behind each prompt of a chat."""
    return [part.strip() for part in text.split(PROMPT)[1:]]


def check_chat(text: str) -> None:
    """Two answers, the history removed between them, a good end."""
    first, log, second, end = answers(text)
    assert first and second, text
    assert log == "Log: History responses have been removed!" and end == "Log: Exit!"


def check_work_dir(folder: Path, config: str) -> list[str]:
    """The files of a run as the documents show them; return the names of its checkpoints."""
    names = {path.name for path in folder.iterdir()}
    saves = sorted(name for name in names if re.fullmatch(r"(iter|epoch)_\d+", name))
    stamps = {name for name in names if re.fullmatch(r"\d{8}_\d{6}\S*", name)}
    assert {f"{config}.py", "last_checkpoint"} <= names and saves and stamps
    for stamp in stamps:
        inside = {path.name for path in (folder / stamp / "vis_data").iterdir()}
        assert {"config.py", "scalars.json"} <= inside
        assert (folder / stamp / f"{stamp}.log").is_file()
    answered = list(folder.glob("*/vis_data/eval_outputs_iter_*.txt"))
    assert bool(answered) == saves[0].startswith("iter"), "written at saves by iteration"
    return sorted(saves, key=lambda name: int(name.split("_")[1]))


def conversations(path: Path, turns: int = 1) -> None:
    """Rows of XTuner's own form."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"conversation": [{"input": f"问{i}，{j}", "output": f"答{i}"} for j in range(turns)]}
        for i in range(40)
    ]
    rows[0]["conversation"][0]["system"] = "现在你是一个心理专家"
    path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")


def edited(path: Path, **settings: str) -> None:
    """Change settings of PART 1, as the documents tell to."""
    text = path.read_text(encoding="utf-8")
    for name, value in settings.items():
        text, count = re.subn(rf"^{name} = .*$", f"{name} = {value}", text, count=1, flags=re.M)
        assert count == 1, f"{path} has no setting {name}"
    path.write_text(text, encoding="utf-8")


def test_help_and_recipes(shell: Shell) -> None:
    assert shell("inlay --help") == shell("inlay help") == shell("inlay -h")
    assert shell("inlay version") == shell("inlay -v")
    modes = "list-cfg copy-cfg train test chat convert mmbench eval_refcoco log-dataset"
    for mode in (*modes.split(), "check-custom-dataset", "preprocess", "list-dataset-format"):
        assert f"\n  {mode} " in shell("inlay --help")
        assert "usage: inlay" in shell(f"inlay {mode} --help")
    for job in ("pth_to_hf", "merge", "split"):
        assert "--help" in shell(f"inlay convert {job} --help")
    frame = "==========================CONFIGS===========================\nPATTERN: {}\n"
    frame += "-------------------------------\n{}\n"
    frame += "=============================================================\n"
    llava = [PRETRAIN, FINETUNE.format(8)]
    for pattern, names in {
        "internlm2_chat_1_8b": [
            "internlm2_chat_1_8b_full_alpaca_e3",
            "internlm2_chat_1_8b_qlora_alpaca_e3",
            *llava,
        ],
        "internlm2_1_8b": ["internlm2_1_8b_full_alpaca_e3", ALPACA],
        "llava_internlm2_chat_1_8b": llava,
    }.items():
        listed = frame.format(pattern, "\n".join(names))
        assert shell(f"inlay list-cfg -p {pattern}") == listed
    name = "internlm2_chat_1_8b_qlora_alpaca_e3"
    assert shell(f"inlay copy-cfg {name} ./") == f"Copy to ./{name}_copy.py\n"
    assert (shell.home / f"{name}_copy.py").is_file()
    assert "\nalpaca\n" in shell("inlay list-dataset-format")


def test_psychologist(shell: Shell, internlm2: Path) -> None:
    """The printed config stands as it is, the commands as its first lines have them."""
    (shell.home / "models").mkdir()
    (shell.home / "models" / "internlm2-chat-1_8b").symlink_to(internlm2)
    conversations(shell.home / "data" / "emo_1234_xtuner.json", turns=2)
    (shell.home / "train").mkdir()
    (shell.home / "train" / f"{EMO}.py").write_text((PRINTED / f"{EMO}.py").read_text())
    work_dir = f"work_dirs/{EMO}"

    text = shell(f"inlay check-custom-dataset train/{EMO}.py")
    assert "dataset after `dataset_map_fn`" in text and "encoded labels" in text
    assert "40 rows read, 40 kept" in text
    text = shell(f"inlay log-dataset train/{EMO}.py --show all")
    assert all(f"   {kind}   " in text for kind in ("text", "masked_text", "input_ids", "labels"))
    shell(f"inlay train train/{EMO}.py --deepspeed deepspeed_zero2")
    saves = check_work_dir(shell.home / work_dir, EMO)
    assert saves == ["epoch_1", "epoch_2", "epoch_3"]
    shell(
        f"inlay convert pth_to_hf train/{EMO}.py {work_dir}/epoch_3.pth {work_dir}/hf "
        "--max-shard-size 2GB"
    )
    exported = {path.name for path in (shell.home / work_dir / "hf").iterdir()}
    assert {"adapter_config.json", "xtuner_config.py", "README.md"} <= exported
    adapter = json.loads((shell.home / work_dir / "hf" / "adapter_config.json").read_text())
    assert sorted(adapter["target_modules"]) == ["w1", "w2", "w3", "wo", "wqkv"]
    shell(
        f"inlay convert merge models/internlm2-chat-1_8b {work_dir}/hf {work_dir}/merged "
        "--max-shard-size 2GB"
    )
    shell("inlay convert split models/internlm2-chat-1_8b work_dirs/internlm2-chat-1_8b-sft-split")
    index = shell.home / "work_dirs/internlm2-chat-1_8b-sft-split/model.safetensors.index.json"
    assert len(set(json.loads(index.read_text())["weight_map"].values())) > 10
    system = "现在你是一个心理专家，我有一些心理问题，请你用专业的知识帮我解决。"
    check_chat(
        shell(
            f"inlay chat models/internlm2-chat-1_8b --adapter {work_dir}/hf --bits 8 "
            f"--temperature 0.7 --top-k 50 --top-p 0.9 --system {system}",
            HELLO,
        )
    )
    line = f"inlay chat {work_dir}/merged --prompt-template internlm2_chat --max-new-tokens 16"
    check_chat(shell(f"{line} --no-streamer --system-template medical --stop-words 。", HELLO))
    tools = "--with-plugins calculate solve --answer-stop-word END --command-stop-word <eoc>"
    shell(f"inlay chat {work_dir}/merged {tools} --max-new-tokens 8", HELLO)
    assert "--lagent was removed" in shell(f"inlay chat {work_dir}/merged --lagent", code=1)


def test_self_cognition(shell: Shell, internlm2: Path) -> None:
    """Training in the usual way, with DeepSpeed, resumed; convert, merge, chat."""
    base = shell.path("/root/ft")
    base.mkdir()
    (base / "model").symlink_to(internlm2)
    rows = [{"instruction": f"问{i}", "input": "", "output": "我是小助手" * 3} for i in range(40)]
    (base / "data.json").write_text(json.dumps(rows))
    copied = shell(f"inlay copy-cfg {ALPACA} /root/ft/config")
    config = base / "config" / f"{ALPACA}_copy.py"
    assert copied == f"Copy to {config}\n"
    edited(
        config,
        pretrained_model_name_or_path=repr(str(base / "model")),
        data_path=repr(str(base / "data.json")),
        max_length="64",
        save_steps="50",
        save_total_limit="3",
    )
    run = f"inlay train /root/ft/config/{config.name}"
    shell(f"{run} --work-dir /root/ft/train")
    saves = check_work_dir(base / "train", config.stem)
    assert len(saves) == 3 and saves[:2] == ["iter_50", "iter_100"]
    text = shell(f"{run} --work-dir /root/ft/train --resume /root/ft/train/{saves[-2]}.pth")
    assert "resume" in text.lower()
    assert len(list((base / "train").glob("*/vis_data"))) == 2, "a folder more, by its time"
    assert check_work_dir(base / "train", config.stem)[-1] == saves[-1]
    shell(f"{run} --work-dir /root/ft/train_deepspeed --deepspeed deepspeed_zero2")
    assert check_work_dir(base / "train_deepspeed", config.stem)[-1] == saves[-1]

    checkpoint = f"/root/ft/train/{saves[-1]}.pth"
    export = (
        f"inlay convert pth_to_hf /root/ft/train/{config.name} {checkpoint} /root/ft/huggingface"
    )
    shell(export)
    shell(f"{export} --fp32 --max-shard-size 2GB")
    shell("inlay convert merge /root/ft/model /root/ft/huggingface /root/ft/final_model")
    names = {path.name for path in (base / "final_model").iterdir()}
    assert {"config.json", "tokenizer.model", "tokenizer_config.json"} <= names
    assert "generation_config.json" in names and list((base / "final_model").glob("*.safetensors"))
    check_chat(shell("inlay chat /root/ft/final_model --prompt-template internlm2_chat", HELLO))
    adapter = "--adapter /root/ft/huggingface --prompt-template internlm2_chat"
    check_chat(shell(f"inlay chat /root/ft/model {adapter}", HELLO))
    held_out = f"inlay test /root/ft/config/{config.name} --checkpoint {checkpoint}"
    assert "perplexity" in shell(f"{held_out} --cfg-options val_fraction=0.2 --launcher none")


def test_the_exercise_on_several_processes(shell: Shell, internlm2: Path) -> None:
    """The printed config of the exercise, on one process with DeepSpeed and on two without."""
    ft = shell.path("/root/xtuner0117/ft")
    ft.mkdir(parents=True)
    (ft / "internlm2-chat-1_8b").symlink_to(internlm2)
    shell.cwd = ft
    rows = [
        {"messages": [{"role": r, "content": f"{r} {i} 小助手"} for r in ("user", "assistant")]}
        for i in range(40)
    ]
    (ft / "data").mkdir()
    (ft / "data" / "personal_assistant.json").write_text(json.dumps(rows))
    name = "internlm2_1_8b_qlora_self_e2"
    copied = shell(f"inlay copy-cfg {ALPACA} /root/xtuner0117/ft/config")
    assert copied == f"Copy to {ft}/config/{ALPACA}_copy.py\n"
    (ft / "config" / f"{ALPACA}_copy.py").rename(ft / "config" / f"{name}.py")
    printed = (PRINTED / "internlm2_chat_1_8b_qlora_alpaca_e3_copy.py").read_text()
    (ft / "config" / f"{name}.py").write_text(printed.replace("'/root", f"'{shell.home}"))
    one = f"inlay train config/{name}.py --work-dir ./train_deepspeed --deepspeed deepspeed_zero2"
    shell(one)
    check_work_dir(ft / "train_deepspeed", name)
    assert list((ft / "train_deepspeed").glob("*/vis_data/events.out.tfevents.*")), "TensorBoard"
    place = {"NPROC_PER_NODE": "2", "NNODES": "1", "NODE_RANK": "0", "ADDR": "127.0.0.1"}
    options = "--cfg-options max_epochs=1 max_length=64"
    shell.several(f"inlay dist_train config/{name}.py 2 --work-dir two {options}", **place)
    check_work_dir(ft / "two", name)


def llava_home(shell: Shell, internlm2: Path) -> Path:
    """The folder of the LLaVA exercise, with the projector of its first stage."""
    home = shell.path("/root/Tutorial/xtuner/llava")
    pictures = home / "llava_data" / "test_img"
    pictures.mkdir(parents=True)
    (home / "internlm2-chat-1_8b").symlink_to(internlm2)
    clip(home / "clip-vit-large-patch14-336")
    Image.effect_noise((80, 60), 90).convert("RGB").save(pictures / "oph.jpg")
    turns = [("human", "<image>\nDescribe this image."), ("gpt", "A slit lamp.")]
    row = {"image": "test_img/oph.jpg"}
    row["conversations"] = [{"from": f, "value": v} for f, v in turns]
    data = [{**row, "id": str(i)} for i in range(12)]
    (home / "llava_data" / "repeated_data.json").write_text(json.dumps(data))
    torch.manual_seed(0)
    width = json.loads((internlm2 / "config.json").read_text())["hidden_size"]
    shapes = {"0.weight": (width, 32), "0.bias": (width,), "2.weight": (width, width)}
    shapes["2.bias"] = (width,)
    state = {f"projector.model.{k}": torch.randn(s) / 8 for k, s in shapes.items()}
    torch.save({"meta": {"iter": 2181}, "state_dict": state}, home / "iter_2181.pth")
    return home


def test_llava(shell: Shell, internlm2: Path) -> None:
    """Before and after fine-tuning, as the exercise compares them."""
    home = shell.cwd = llava_home(shell, internlm2)
    old, new = FINETUNE.format(8), FINETUNE.format(1)
    shell(f"inlay copy-cfg {old} /root/Tutorial/xtuner/llava")
    (home / f"{old}_copy.py").rename(home / f"{new}.py")
    printed = (PRINTED / f"{old}_copy.py").read_text().replace("'/root", f"'{shell.home}")
    (home / f"{new}.py").write_text(printed)
    edited(home / f"{new}.py", evaluation_images="data_root + 'test_img/oph.jpg'", save_steps="5")
    local = "llm_name_or_path=./internlm2-chat-1_8b "
    local += "visual_encoder_name_or_path=./clip-vit-large-patch14-336 "
    local += "data_path=llava_data/repeated_data.json image_folder=llava_data"
    shell(
        f"inlay convert pth_to_hf {PRETRAIN} ./iter_2181.pth ./iter_2181_hf --cfg-options {local}"
    )
    chat = (
        "inlay chat ./internlm2-chat-1_8b --visual-encoder ./clip-vit-large-patch14-336 "
        "--llava {} --prompt-template internlm2_chat --image ./llava_data/test_img/oph.jpg"
    )
    questions = "Describe this image.\n\nWhat is the equipment in the image?\n\nEXIT\n\n"
    before = answers(shell(chat.format("./iter_2181_hf"), questions))
    assert len(before) == 3 and before[0] and before[1]

    shell(f"inlay train {new}.py --deepspeed deepspeed_zero2")
    last = check_work_dir(home / "work_dirs" / new, new)[-1]
    out = f"./work_dirs/{new}/{last}"
    shell(f"inlay convert pth_to_hf ./{new}.py {out}.pth {out}_hf")
    parts = {path.name for path in (home / "work_dirs" / new / f"{last}_hf").iterdir()}
    assert {"llm_adapter", "visual_encoder_adapter", "projector"} <= parts
    after = answers(shell(chat.format(f"./work_dirs/{new}//{last}_hf"), questions))
    assert len(after) == 3 and after[0] != before[0], "training has changed the answer"
    shell(
        "inlay convert merge ./clip-vit-large-patch14-336 "
        f"{out}_hf/visual_encoder_adapter ./clip_merged --is-clip"
    )
    evaluate_llava(shell, home, f"{out}_hf")


def evaluate_llava(shell: Shell, home: Path, parts: str) -> None:
    """MMBench, and RefCOCO from its annotations to text boxes."""
    write_table(home / "mmbench.tsv", [r for i, c in enumerate(COLOURS) for r in rotations(i, c)])
    model = (
        f"./internlm2-chat-1_8b --llava {parts} --visual-encoder ./clip-vit-large-patch14-336 "
        "--prompt-template internlm2_chat --max-new-tokens 4"
    )
    shell(f"inlay mmbench {model} --data-path mmbench.tsv --work-dir mmbench")
    (folder,) = (home / "mmbench").glob("2*_*")  # by its time
    assert {"args.json", "mmbench_result.json"} <= {path.name for path in folder.iterdir()}

    images = home / "data/llava_data/llava_images/coco/train2017"
    images.mkdir(parents=True)
    Image.new("RGB", (200, 100)).save(images / "000000000042.jpg")
    refcoco = home / "data" / "refcoco_annotations" / "refcoco"
    refcoco.mkdir(parents=True)
    image = {"id": 42, "file_name": "x.jpg", "width": 200, "height": 100}
    instances = {"images": [image], "annotations": [{"id": 7, "bbox": [20, 10, 40, 30]}]}
    (refcoco / "instances.json").write_text(json.dumps(instances))
    ref = {"split": "train", "image_id": 42, "ann_id": 7, "sentences": [{"raw": "the cat"}]}
    (refcoco / "refs(unc).p").write_bytes(pickle.dumps([ref]))
    assert "train.json with 1 items." in shell("inlay preprocess refcoco --save-path ./")
    text = shell(f"inlay eval_refcoco {model} --data-path train.json")
    assert re.search(r"^Acc: 0\.0$", text, re.M), "four tokens are no box"


def test_arxiv(shell: Shell) -> None:
    paper = {"categories": "cs.CL", "title": "T", "abstract": "A"}
    lines = [json.dumps({**paper, "update_date": f"{year}-06-01"}) for year in (2019, 2021, 2023)]
    (shell.home / "arxiv.json").write_text("\n".join(lines))
    out = shell("inlay preprocess arxiv arxiv.json out.json")
    assert out == "Save to out.json\n2 items\n"
    line = "inlay preprocess arxiv arxiv.json new.json --start-date 2022-01-01 --categories cs.CL"
    assert "1 items" in shell(line)
    assert json.loads((shell.home / "new.json").read_text())[0]["title"] == "T"
