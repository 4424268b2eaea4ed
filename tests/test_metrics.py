from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, r2_score, roc_auc_score
from torch import Tensor

from fedloru import metrics
from fedloru.errors import ConfigError
from fedloru.metrics import METRICS, measure, named, recorded

G = torch.Generator().manual_seed(0)
LOGITS, Y = torch.randn(60, 3, generator=G), torch.randint(0, 3, (60,), generator=G)
OUT, TARGETS = torch.randn(60, generator=G), torch.randn(60, generator=G)


def of(name: str, outputs: Tensor, targets: Tensor) -> float:
    return float(METRICS[name](outputs, targets))


def test_metrics_of_a_regression() -> None:
    errors = OUT.double() - TARGETS.double()
    for outputs in (OUT, OUT[:, None]):
        assert of("mse", outputs, TARGETS) == pytest.approx(float((errors**2).mean()))
        assert of("rmse", outputs, TARGETS) == pytest.approx(math.sqrt(float((errors**2).mean())))
        assert of("mae", outputs, TARGETS) == pytest.approx(float(errors.abs().mean()))
        assert of("r2", outputs, TARGETS) == pytest.approx(r2_score(TARGETS, OUT))
    two, true = torch.stack([OUT, OUT], 1), torch.stack([TARGETS, 2 * TARGETS], 1)
    assert of("r2", two, true) == pytest.approx(r2_score(true, two))


def test_metrics_of_classes() -> None:
    predicted, shares = LOGITS.argmax(1), LOGITS.double().softmax(1)
    assert of("f1", LOGITS, Y) == pytest.approx(f1_score(Y, predicted, average="macro"))
    assert of("balanced_accuracy", LOGITS, Y) == pytest.approx(balanced_accuracy_score(Y, predicted))
    assert of("auc", LOGITS, Y) == pytest.approx(roc_auc_score(Y, shares, multi_class="ovr"))
    two, binary = LOGITS[:, :2], (Y > 0).long()
    margin = two[:, 1] - two[:, 0]
    assert of("auc", two, binary) == pytest.approx(roc_auc_score(binary, margin.double()))
    for single in (margin, margin[:, None]):
        assert of("auc", single, binary) == pytest.approx(of("auc", two, binary))
        assert of("f1", single, binary) == pytest.approx(of("f1", two, binary))
    several = (LOGITS + torch.randn(60, 3, generator=G) > 0).float()
    assert of("auc", LOGITS, several) == pytest.approx(roc_auc_score(several, LOGITS.double()))


def test_a_class_without_examples_does_not_count_for_auc() -> None:
    kept = Y < 2
    areas = [roc_auc_score(Y[kept] == c, LOGITS.double().softmax(1)[kept, c]) for c in (0, 1)]
    assert of("auc", LOGITS[kept], Y[kept]) == pytest.approx(sum(areas) / 2)


def broken(outputs: Tensor, targets: Tensor) -> float:
    raise KeyError("width")


def test_a_metric_without_a_value_is_missing_with_the_reason() -> None:
    chosen = {
        "auc": METRICS["auc"],
        "mine": lambda outputs, targets: outputs.sum(),
        "nan": lambda outputs, targets: float("nan"),
        "broken": broken,
        "many": lambda outputs, targets: outputs,
    }
    found = measure(chosen, LOGITS[:, :2], torch.zeros(60, dtype=torch.int64))
    assert found.values == {"mine": pytest.approx(float(LOGITS[:, :2].sum()))}
    assert not found.missing["nan"].raised and found.missing["nan"].reason == "it is nan"
    assert found.missing["broken"].raised and "KeyError: 'width'" in found.missing["broken"].reason
    assert "auc" in found.missing and found.missing["many"].raised


def test_names_and_functions() -> None:
    assert named(["auc", "python:tests.test_metrics:broken"]) == {"auc": METRICS["auc"], "broken": broken}
    assert named({"area": "auc", "mine": broken}) == {"area": METRICS["auc"], "mine": broken}
    assert recorded({"area": "auc", "mine": broken}) == {"area": "auc", "mine": "broken"}
    with pytest.raises(ConfigError, match="has no function nothing"):
        named(["python:tests.test_metrics:nothing"])


@pytest.mark.parametrize(
    ("name", "task", "has_labels", "message"),
    [
        ("r2", "classification", True, "'r2', which is not defined for a classification: use 'auc', 'f1'"),
        ("f1", "regression", True, "'f1', which is not defined for a regression: use 'rmse', 'mae' or 'r2'"),
        ("auc", "classification", False, "examples have no label each"),
    ],
)
def test_metrics_that_do_not_fit(name: str, task: str, has_labels: bool, message: str) -> None:
    (problem,) = metrics.problems(named([name]), task, has_labels)
    assert message in problem


@pytest.mark.parametrize("value", ["auc", ["acu"], {"loss": "auc"}, {"a": 3}, {"": "auc"}, 3])
def test_what_is_no_choice_of_metrics(value: Any) -> None:
    with pytest.raises(ValueError, match=r"list|name"):
        metrics._known(value)
