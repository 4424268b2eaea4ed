"""The summary's comparison with FedAvg, against bytes counted by hand."""

from __future__ import annotations

import pytest
import torch

from fedloru import methods
from fedloru import net as nets
from fedloru.data import Dataset, Partition
from fedloru.run.plan import Plan
from fedloru.run.summary import fedavg_bytes


@pytest.mark.parametrize(("codec", "width"), [("fp32", 4), ("bf16", 2)])
@pytest.mark.parametrize("dense", [["*"], []])
def test_fedavg_sends_every_weight_both_ways(codec: str, width: int, dense: list[str]) -> None:
    """Linear 6 → 4 with bias: 28 values, 2 clients per round, 3 rounds, down and up; frozen weights count too."""
    net = nets.attach(torch.nn.Sequential(torch.nn.Linear(6, 4)), rank=2, dense=dense)
    examples = {"x": torch.zeros(4, 6), "y": torch.zeros(4, dtype=torch.int64)}
    clients = Partition("hand", 0, (torch.arange(2), torch.arange(2, 4)), (), {})
    plan = Plan(
        net,
        methods.fedloru(recipe="paper", tau=2),
        Dataset("hand", examples, examples, ("a",)),
        clients,
        rounds=3,
        cohort=2,
        codec=codec,
    )
    assert fedavg_bytes(plan, [[0, 1]] * 3) == 3 * 2 * 2 * 28 * width
