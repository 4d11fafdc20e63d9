"""Faults of the original between the rows of a data set and its batches: packing, templates, text.

Facts: XTuner v0.1.23, ``xtuner/dataset`` and ``xtuner/utils/templates.py``, read and run.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any

import numpy as np

from inlay.app.originals.finding import UNREAD, Case, Finding
from inlay.data.pack import best_fit
from inlay.data.templates import PROMPT_TEMPLATE

SYSTEM_MAP_FNS = (
    "arxiv_map_fn",
    "code_alpaca_map_fn",
    "colors_map_fn",
    "crime_kg_assitant_map_fn",
    "law_reference_map_fn",
    "medical_map_fn",
    "openorca_map_fn",
    "sql_map_fn",
    "stack_exchange_map_fn",
    "tiny_codes_map_fn",
)
"""Map functions that give every row a system text."""


def lost_tokens(case: Case) -> Iterator[Finding]:
    """The packer's workers throw their remainders away, and cut samples in two."""
    there, cuts = case.there, case.cuts
    if not there.packs:
        return
    title = "The packer loses tokens"
    rule = (
        f"up to {there.workers} map workers each concatenate their samples, cut every "
        f"{there.max_length:,} tokens and throw the rest away"
    )
    here = "packs are planned by best fit: no sample is cut, no token is lost"
    if cuts is None:
        yield Finding("lost-tokens", title, rule, here, unknown=case.unknown)
        return
    if not cuts.lost and not cuts.cut:
        return
    assert case.data.lengths is not None
    packs = len(best_fit(case.data.lengths, there.max_length))
    fill = cuts.tokens / (packs * there.max_length)
    yield Finding(
        "lost-tokens",
        title,
        f"{cuts.workers} map workers each concatenate their samples, cut every "
        f"{there.max_length:,} tokens and throw the rest away: {cuts.lost:,} of {cuts.tokens:,} "
        f"tokens lost ({cuts.lost / cuts.tokens:.1%}), {cuts.gone:,} of {cuts.samples:,} samples "
        f"whole, and {cuts.cut:,} cut in two; {cuts.packs:,} packs an epoch",
        f"{here}; {packs:,} packs an epoch, {fill:.1%} full",
        {
            "tokens": cuts.tokens,
            "tokens_lost": cuts.lost,
            "samples": cuts.samples,
            "samples_cut": cuts.cut,
            "samples_gone": cuts.gone,
            "workers": cuts.workers,
            "packs_there": cuts.packs,
            "packs_here": packs,
            "fill_here": round(fill, 4),
        },
    )


def mixed_samples(case: Case) -> Iterator[Finding]:
    """Without varlen attention the samples of a pack are one text to the model."""
    there, cuts = case.there, case.cuts
    if not there.packs or there.varlen or (cuts is not None and cuts.pieces_per_pack <= 1):
        return
    count, figures = "the samples of a pack are", {}
    if cuts is not None:
        count = f"the {cuts.pieces_per_pack:.1f} samples of an average pack are"
        figures = {"samples_per_pack": round(cuts.pieces_per_pack, 2)}
    yield Finding(
        "mixed-samples",
        "Samples see each other",
        f"{count} one text to the model: each attends to those before it, and positions run on "
        "(use_varlen_attn=False; True needs flash attention)",
        "attention ends at a sample's border and positions restart, with any attention kernel",
        figures,
        case.unknown,
    )


def beginning(case: Case) -> Iterator[Finding]:
    """BOS before every turn in training, before the first in chat."""
    template = case.there.template
    if case.there.kind == "grounding" or not template or template.get("SUFFIX_AS_EOS"):
        return
    if case.data.has_bos is False:
        return
    yield Finding(
        "bos-every-turn",
        "Training and chat begin turns differently",
        "the template has no SUFFIX_AS_EOS: training writes BOS before every turn, chat before the "
        "first one only",
        "one function writes the tokens for training and for chat",
        unknown="whether the tokenizer has a BOS" if case.data.has_bos is None else "",
    )


def ending(case: Case) -> Iterator[Finding]:
    """A suffix that stands for EOS and is empty."""
    template = case.there.template
    if template.get("SUFFIX_AS_EOS") and not template.get("SUFFIX"):
        yield Finding(
            "no-stop-token",
            "The stop token is never trained",
            "the template has SUFFIX_AS_EOS without a SUFFIX: nothing ends an answer, and the "
            "model talks on",
            "`inlay check` refuses such a template",
        )


def templates(case: Case) -> Iterator[Finding]:
    """System texts that two of the original's templates cannot carry."""
    there, rows = case.there, case.data.rows
    in_rows = any(name in SYSTEM_MAP_FNS for name in there.map_fns)
    in_rows = in_rows or (rows is not None and rows.systems > 0)
    has_place = "SYSTEM" in there.template and there.template != dict(PROMPT_TEMPLATE["minicpm"])
    if in_rows and there.template and not has_place:
        yield Finding(
            "template-without-system",
            "The template has no place for a system text",
            "the run stops at the first row with a system text: the template has no SYSTEM",
            "`minicpm` puts it before the instruction; the default is the model's own template",
        )
    if there.template == dict(PROMPT_TEMPLATE["llama2_chat"]) and (in_rows or there.system):
        yield Finding(
            "template-llama2",
            "The system text is not where Llama 2 expects it",
            "`llama2_chat` writes it in an [INST] of its own, behind a text that is not Meta's",
            "`llama2_chat` is Meta's format: inside the first instruction",
        )


def braces(case: Case) -> Iterator[Finding]:
    """The chat hook formats system and instruction together."""
    missing = _unknown_fields(case.there.system, {*case.there.cfg, "input", "round"})
    if missing:
        yield Finding(
            "braces-in-system",
            "Braces in the system text stop the run",
            f"EvaluateChatHook reads {missing} in the system text as a field to fill in, and fails "
            "before the first iteration",
            "a system text is a text",
        )


def _unknown_fields(text: str, known: set[str]) -> str:
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(text) if name is not None]
    except ValueError:
        return "a single brace"
    unknown = [name for name in fields if name not in known]
    return f"'{{{unknown[0]}}}'" if unknown else ""


def row_faults(case: Case) -> Iterator[Finding]:
    """Rows that the original's map functions lose or stumble over."""
    rows, there = case.data.rows, case.there
    if rows is not None and rows.unmarked_turns and not any(there.map_fns):
        yield Finding(
            "lost-loss",
            "Turns lose their loss",
            f"some turns say output_with_loss, so that the {rows.unmarked_turns:,} that do not get "
            "an empty one, which counts as false: they are not trained",
            "a turn that says nothing is trained",
            {"turns": rows.unmarked_turns},
        )
    if "openai_map_fn" in there.map_fns and (rows is None or rows.untexted_loss):
        figures: dict[str, float] = {}
        count = ""
        if rows is not None:
            figures = {"answers": rows.untexted_loss}
            count = f": {rows.untexted_loss:,} of {rows.answers:,}"
        yield Finding(
            "openai-loss",
            "OpenAI rows stop the run",
            "0.1.23 takes `loss` for a text and stops at an answer whose loss is true, false or "
            f"not given{count}",
            "true, false, texts, and nothing at all are understood",
            figures,
            "" if rows is not None else UNREAD,
        )
    if "msagent_react_map_fn" in there.map_fns:
        yield Finding(
            "eval-of-rows",
            "Text of the data set is executed",
            "msagent_react_map_fn runs `eval` on the rows",
            "it is read as literals",
        )


def unequal_tokens(case: Case) -> Iterator[Finding]:
    """Means of micro-batches are averaged, whatever they hold."""
    there = case.there
    parts = there.accumulate * case.devices
    if parts == 1 or there.kind == "grounding":
        return
    figures: dict[str, float] = {"micro_batches": parts}
    weight = ""
    trained = case.data.trained
    if trained is not None and len(trained) and not there.packs and there.batch_size == 1:
        low, high = (float(v) for v in np.percentile(trained, (10, 90)))
        if low and high > low:
            figures |= {"short": low, "long": high, "weight": round(high / low, 2)}
            weight = (
                f": a token of an answer of {low:.0f} counts {high / low:.1f} times one of an "
                f"answer of {high:.0f}"
            )
    yield Finding(
        "mean-of-means",
        "Tokens do not count alike",
        f"an update averages the means of {parts} micro-batches, whatever number of trained tokens "
        f"they have{weight}",
        "the sum of losses over the update's trained tokens, on all devices: 1x8, 2x4 and 8x1 "
        "give the same gradient",
        figures,
    )


def code_of_models(case: Case) -> Iterator[Finding]:
    """Python files of model folders."""
    if _trusts(case.there.cfg.get("model")) or _trusts(case.there.cfg.get("tokenizer")):
        yield Finding(
            "remote-code",
            "Files of the model folder are executed",
            "trust_remote_code=True imports and runs the Python files that lie beside the weights",
            "nothing of it is run, unless you set INLAY_TRUST_REMOTE_CODE=1",
        )


def _trusts(node: Any) -> bool:
    if isinstance(node, dict):
        return bool(node.get("trust_remote_code")) or any(map(_trusts, node.values()))
    return False
