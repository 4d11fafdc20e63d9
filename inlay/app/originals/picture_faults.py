"""Faults of the original with pictures: LLaVA rows, and F-LMM's training.

Facts: XTuner v0.1.23 ``dataset/map_fns``; F-LMM ``flmm/datasets``, ``flmm/models`` and
``scripts``; mmdet's ``RefCocoDataset``, read and run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from inlay.app.originals.finding import UNREAD, Case, Finding
from inlay.app.originals.settings import PNG, REFCOCO, node_name


def two_pictures(case: Case) -> Iterator[Finding]:
    """Several pictures in one message become one."""
    rows = case.data.rows
    if "llava_map_fn" in case.there.map_fns and rows is not None and rows.two_pictures:
        yield Finding(
            "two-pictures",
            "Pictures of a turn vanish",
            f"{rows.two_pictures:,} messages with two or more <image> become messages with one, "
            "without a word",
            "every <image> has its picture, and a row whose pictures do not match is named with "
            "file and line",
            {"messages": rows.two_pictures},
        )


def one_sentence(case: Case) -> Iterator[Finding]:
    """RefCOCO's references have several sentences, of which one is drawn when data are loaded."""
    there, data = case.there, case.data
    if not any(_draws_once(node) for node in there.datasets):
        return
    epochs = "all epochs" if there.max_epochs is None else f"all {there.max_epochs:g} epochs"
    figures: dict[str, float] = {}
    seen = ""
    if data.references:
        figures = {"sentences": data.sentences, "read": data.references}
        seen = f": {data.references:,} of {data.sentences:,} sentences are ever read"
    yield Finding(
        "one-sentence",
        "One sentence for each object",
        f"RefCocoDataset draws one sentence of an object when data are loaded, for {epochs}{seen}",
        "another one in every epoch: each is read after as many epochs as an object has sentences",
        figures,
        "" if data.references else UNREAD,
    )


def _draws_once(node: dict[str, Any]) -> bool:
    return node_name(node) in REFCOCO and node.get("text_mode", "random") == "random"


def replaced_narratives(case: Case) -> Iterator[Finding]:
    """Narratives without masks."""
    if any(node_name(node) in PNG for node in case.there.datasets):
        yield Finding(
            "replaced-narratives",
            "Narratives without a mask are replaced",
            "PNGDataset takes a random other narrative in their place, another one each time",
            "they are left out and counted",
        )


def frozen_again(case: Case) -> Iterator[Finding]:
    """SAM's image encoder is frozen, and computed in every iteration."""
    model = case.there.cfg.get("model") or {}
    if case.there.kind != "grounding" or not (model.get("sam") or model.get("refiner")):
        return
    epochs, lengths = case.there.max_epochs, case.data.lengths
    figures: dict[str, float] = {}
    count = "in every epoch"
    if epochs is not None and lengths is not None:
        passes = int(epochs * len(lengths))
        figures = {"passes": passes, "items": len(lengths)}
        count = f"{passes:,} times in this run, for {len(lengths):,} items"
    yield Finding(
        "frozen-again",
        "The frozen picture encoder runs again and again",
        f"SAM's image encoder, which does not learn, is run {count}",
        "a FeatureCache (`cache_dir` of the recipes) keeps what it gave: once for each picture",
        figures,
        case.unknown if epochs is not None else "",
    )


def all_attention(case: Case) -> Iterator[Finding]:
    """Maps of all tokens are kept for a few rows of them."""
    if case.there.kind == "grounding":
        yield Finding(
            "all-attention",
            "Attention is kept whole",
            "output_attentions=True turns fused attention off and keeps the maps of every layer, "
            "head and pair of tokens; lm_head is computed and thrown away",
            "the model runs on its own kernel; only the rows of words that name something are "
            "computed, merged at once; no lm_head",
        )


def two_prompts(case: Case) -> Iterator[Finding]:
    """Data sets that are not given the prompt that evaluation uses."""
    there = case.there
    if there.kind != "grounding" or "prompt" not in there.cfg:
        return
    silent = [node_name(n) for n in there.datasets if not _given_prompt(n)]
    if silent:
        names = " and ".join(dict.fromkeys(silent))
        yield Finding(
            "two-prompts",
            "Trained with one prompt, evaluated with another",
            f"{names} is not given `prompt` and asks 'What is shown in this image?'; evaluation "
            "reads the config's own",
            "one prompt for training, evaluation and chat",
        )


def _given_prompt(node: dict[str, Any]) -> bool:
    """Whether a data set of the original has a prompt; Inlay's take it elsewhere."""
    if node_name(node) == "PNGDataset":
        return "prompt" in node
    steps = node.get("pipeline") or []
    return all("prompt" in s for s in steps if node_name(s) == "RefCOCO2PNG")
