"""The material that ships with the demo: whole, ours to ship, and made for the model beside it."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "inlay" / "app" / "demo_data"


def test_conversations_are_what_their_script_writes() -> None:
    made = runpy.run_path(str(ROOT / "tools" / "make_demo_conversations.py"))["text"]()
    assert (FOLDER / "conversations.json").read_bytes() == made.encode()


def test_conversations_are_different_and_fit_the_model() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "stories260k")
    context = json.loads((FOLDER / "stories260k" / "config.json").read_text())
    rows = [r["messages"] for r in json.loads((FOLDER / "conversations.json").read_text())]
    assert len({json.dumps(r) for r in rows}) == len(rows) >= 300
    for row in rows:
        assert [m["role"] for m in row] == ["user", "assistant"] * (len(row) // 2)
        ids = tokenizer("\n".join(m["content"] for m in row))["input_ids"]
        assert len(ids) + 20 * len(row) <= context["max_position_embeddings"]
        assert tokenizer.unk_token_id not in ids


def test_the_model_carries_its_licence() -> None:
    text = (FOLDER / "stories260k" / "LICENSE").read_text()
    assert "MIT License" in text and "karpathy/tinyllamas" in text
