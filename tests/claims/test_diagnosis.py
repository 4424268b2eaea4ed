"""The gain of factors and the ranks of what is learned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from claim import diagnose
from claim.runs import Job, Tuned, train

import fedloru as fl
from tests.claims.small import NOWHERE, SMALL, examples


def test_the_gain_of_factors_is_that_of_the_formula() -> None:
    whole = examples(NOWHERE, 0)
    model = fl.models.build("mlp", channels=12, size=1, classes=3, seed=0, hidden=(16,))
    net = fl.attach(model, rank=2, alpha=6, targets=["fc1"])
    settings: dict[str, Any] = {"rounds": 6, "cohort": 2, "recipe": fl.Recipe(epochs=5), "diagnostics": False}
    run = fl.run(net, fl.fedloru(recipe="paper", tau=3), whole, fl.data.iid(whole, 4), **settings)
    gains = []
    for _ in run:
        tensors = run.tensors
        a, b, s = tensors["fc1.a"], tensors["fc1.b"], 3.0
        weight = (tensors["fc1.weight"] + s * b @ a).requires_grad_()
        hidden = torch.relu(whole.train["x"] @ weight.T + tensors["fc1.bias"])
        logits = hidden @ tensors["fc2.weight"].T + tensors["fc2.bias"]
        loss = torch.nn.functional.cross_entropy(logits, whole.train["y"])
        (g,) = torch.autograd.grad(loss, weight)
        step = s**2 * (b @ b.T @ g + g @ a.T @ a)
        gains.append(diagnose.gain(net, run.plan.method, run.state, whole.train))
        assert gains[-1] == pytest.approx(float((step * g).sum() / g.square().sum()), rel=1e-4)
    assert gains[2] < gains[1] and gains[5] < gains[4]  # rounds 3 and 6 merge and reset


@pytest.mark.parametrize("method", ["fedlora", "fedpara", "fedlmt", "fedhm", "fedmud", "fedavg"])
def test_every_method_has_a_gain_and_ranks(method: str, small: None) -> None:
    job = Job(SMALL, method, None if method == "fedavg" else 2, Tuned(0.1), 0, diagnosed=True)
    result = train(job, NOWHERE)
    assert len(result["gains"]) == 4 and all(np.isfinite(gain) and gain > 0 for gain in result["gains"])
    assert all(0 < rank["numerical"] <= rank["full"] for rank in result["ranks"].values())
    if method == "fedlora":
        assert [rank["numerical"] for rank in result["ranks"].values()] == [2, 2]
