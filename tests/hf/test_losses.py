"""Losses and metrics of texts, compared with loops over their tokens."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fedloru import net as nets
from fedloru.evaluate import evaluate
from fedloru.hf import losses
from fedloru.net import Batch
from fedloru.run.record import perplexity
from tests.hf.tiny import WORDS, net, texts

SHAPE = (4, 6, 10)


def batch() -> tuple[Any, Batch]:
    """Return logits of four texts of six tokens over a vocabulary of ten; the last text has no labels."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 10, SHAPE[:2], generator=g)
    labels[torch.rand(SHAPE[:2], generator=g) < 0.4] = -100
    labels[-1] = -100
    labels[0, 0] = 3  # the first token has no predecessor, so it is not predicted
    return SimpleNamespace(logits=torch.randn(SHAPE, generator=g, dtype=torch.float64)), {"labels": labels}


def predicted(outputs: Any, batch: Batch) -> list[list[tuple[torch.Tensor, int]]]:
    """Return the logits and the label of each predicted token, text by text."""
    return [
        [(row[t - 1], int(label)) for t, label in enumerate(own) if t and label != -100]
        for row, own in zip(outputs.logits, batch["labels"], strict=True)
    ]


def test_the_loss_of_a_text_is_the_mean_over_its_labeled_tokens() -> None:
    outputs, made = batch()
    pairs = predicted(outputs, made)
    assert [len(pair) for pair in pairs[:3]] != [0, 0, 0] and not pairs[3]
    each = [sum(-float(F.log_softmax(row, 0)[label]) for row, label in pair) / max(len(pair), 1) for pair in pairs]
    torch.testing.assert_close(losses.token_losses(outputs, made), torch.tensor(each, dtype=torch.float64))


def test_metrics_of_a_causal_model_count_tokens() -> None:
    outputs, made = batch()
    tokens = [pair for pairs in predicted(outputs, made) for pair in pairs]
    loss, right, count, _ = losses.token_score(outputs, made)
    assert float(loss) == pytest.approx(sum(-float(F.log_softmax(row, 0)[label]) for row, label in tokens))
    assert int(right) == sum(int(row.argmax()) == label for row, label in tokens)
    assert int(count) == len(tokens)


def test_metrics_of_a_classifier_count_texts() -> None:
    scores, y = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]), torch.tensor([0, 1, 1])
    loss, right, count, _ = losses.class_score(SimpleNamespace(logits=scores), {"y": y})
    each = [math.log(1 + math.exp(-1)), math.log(1 + math.exp(-2)), math.log(1 + math.exp(3))]
    assert float(loss) == pytest.approx(sum(each)) and (int(right), int(count)) == (2, 3)
    assert losses.class_losses(SimpleNamespace(logits=scores), {"y": y}).tolist() == pytest.approx(each)


def test_losses_in_bfloat16_are_computed_in_float32() -> None:
    outputs, made = batch()
    narrow = SimpleNamespace(logits=outputs.logits.bfloat16())
    wide = SimpleNamespace(logits=outputs.logits.bfloat16().float())
    assert torch.equal(losses.token_losses(narrow, made), losses.token_losses(wide, made))


def test_inputs_mask_the_padding() -> None:
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 9, 9]])
    given = losses.inputs({"input_ids": ids, "length": torch.tensor([4, 2])}, pad=1)
    assert given["input_ids"].tolist() == [[5, 6, 7, 8], [5, 6, 1, 1]]
    assert given["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]


@pytest.mark.hf
@pytest.mark.parametrize("family", ["llama", "bert"])
def test_evaluation_counts_the_units_of_the_model(family: str) -> None:
    """In batches of any size, each cut to its longest text; the mean is over tokens, not texts."""
    made, data = net(family, dropout=0.0), texts(family)
    tensors = nets.constants(made, made.params) | made.buffers
    whole, parts = (evaluate(made, tensors, data, size) for size in (1000, 3))
    assert whole.units == parts.units == (int((data["labels"][:, 1:] >= 0).sum()) if family == "llama" else 32)
    assert whole.loss == pytest.approx(parts.loss, abs=1e-9) and whole.accuracy == parts.accuracy
    with nets.mode(made, False), torch.no_grad():
        each = nets.losses(made, tensors, data)
    weights = (data["labels"][:, 1:] >= 0).sum(1) if family == "llama" else torch.ones(32)
    assert whole.loss == pytest.approx(float((each * weights).sum() / weights.sum()), abs=1e-6)


def test_perplexity() -> None:
    assert perplexity(math.log(WORDS)) == pytest.approx(WORDS) and perplexity(0.0) == 1.0
    assert math.isfinite(perplexity(1e6))
