"""Tokenise + template + loss mask, against the bare tokenizer's batch encoding of the same text.

Both run on one thread; the peer gets its text already rendered by the chat template. Rows: the
demo's conversations, and the alpaca rows of ../shared/data where that folder is.

    python benchmarks/tokenise.py TOKENIZER        (a folder or hub name with a chat template)
"""

from __future__ import annotations

import argparse
import json
import os
from importlib import resources
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

from _ratio import best_in_turns, cpu_seconds, header, row

from inlay.core.types import Conversation, Message
from inlay.data.chat import ChatEncoder

ALPACA = Path(__file__).resolve().parents[2] / "shared" / "data" / "text" / "alpaca_en_demo.json"


def chats() -> dict[str, list[Conversation]]:
    """Return the conversations to encode, by the name of their source."""
    demo = resources.files("inlay.app") / "demo_data" / "conversations.json"
    found = {"demo conversations": [r["messages"] for r in json.loads(demo.read_text("utf-8"))]}
    if ALPACA.is_file():
        found["alpaca rows"] = [
            [
                {"role": "user", "content": f"{r['instruction']}\n{r['input']}"},
                {"role": "assistant", "content": r["output"]},
            ]
            for r in json.loads(ALPACA.read_text("utf-8"))
        ]
    return {
        name: [
            Conversation([Message(**m, trained=m["role"] == "assistant") for m in messages])
            for messages in rows
        ]
        for name, rows in found.items()
    }


def main() -> None:
    from transformers import AutoTokenizer

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    if not tokenizer.chat_template:
        parser.error(f"{args.tokenizer} has no chat template to render the peer's text with")
    encoder = ChatEncoder(tokenizer)
    header()
    for name, rows in chats().items():
        plain = [[{"role": m.role, "content": m.content} for m in c.messages] for c in rows]
        texts = tokenizer.apply_chat_template(plain, tokenize=False)
        ours, peer = best_in_turns(
            [
                lambda rows=rows: cpu_seconds(lambda: encoder.encode(rows)),
                lambda texts=texts: cpu_seconds(lambda: tokenizer(texts, add_special_tokens=False)),
            ],
            args.repeats,
        )
        row(f"{name}, rows per CPU-second", len(rows) / ours, len(rows) / peer, ">= 0.85")


if __name__ == "__main__":
    main()
