"""The keyword selector: its score, its loss, its phrases."""

from __future__ import annotations

import math

import pytest
import torch

from inlay.models import KeywordSelector
from inlay.models.grounding.selector import spans


def logit(score: float) -> float:
    return math.log(score / (1 - score))


def test_spans_join_neighbours_above_the_threshold() -> None:
    scores = [0.31, 0.9, 0.29, 0.05, 0.6, 0.1, 0.1, 0.99, 0.99, 0.5]
    logits = torch.tensor([logit(s) for s in scores])
    assert spans(logits) == [(0, 2), (4, 5), (7, 10)]
    assert spans(logits, threshold=0.55) == [(1, 2), (4, 5), (7, 9)]
    assert spans(logits, threshold=0.999) == []
    assert spans(torch.tensor([])) == []


def test_loss_is_binary_cross_entropy() -> None:
    torch.manual_seed(0)
    selector = KeywordSelector(5)
    hidden, keywords = torch.randn(6, 5), torch.tensor([1, 0, 0, 1, 1, 0]).bool()
    logits = selector(hidden)
    weight, bias = selector.linear.weight[0].tolist(), selector.linear.bias.item()
    expected = 0.0
    for h, k, found in zip(hidden.tolist(), keywords.tolist(), logits.tolist(), strict=True):
        x = sum(a * b for a, b in zip(h, weight, strict=True)) + bias
        assert found == pytest.approx(x, abs=1e-5)
        p = 1 / (1 + math.exp(-x))
        expected -= math.log(p if k else 1 - p) / 6
    assert selector.loss(logits, keywords).item() == pytest.approx(expected, abs=1e-6)
    assert selector.loss(logits[:0], keywords[:0]) == 0


def test_learns_which_tokens_name_something() -> None:
    torch.manual_seed(0)
    vocabulary, ids = torch.randn(20, 16), torch.randint(0, 20, (400,))
    keywords = ids % 4 == 0
    selector = KeywordSelector(16)
    optimizer = torch.optim.Adam(selector.parameters(), lr=0.1)
    for _ in range(200):
        loss = selector.loss(selector(vocabulary[ids]), keywords)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    answer = torch.tensor([1, 4, 8, 3, 12, 5])
    assert selector.select(vocabulary[answer]) == [(1, 3), (4, 5)]
    assert selector(vocabulary[answer].bfloat16()).dtype == torch.float32
