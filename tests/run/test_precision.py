"""The precision of local training in a run: what is refused, what is noted, and what stays in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import fedloru as fl
from fedloru import net as nets
from fedloru.config.trial import try_out
from fedloru.errors import ConfigError, ModelError
from fedloru.net import Net, precision_problem
from fedloru.recipe import Recipe
from fedloru.run import notes as all_notes
from fedloru.run.checks import check
from fedloru.run.plan import Plan

BF16 = Recipe(precision="bf16")
DIGITS = fl.data.load("digits")
CLIENTS = fl.data.iid(DIGITS, 10, 0)


def plan(net: Net, recipe: Recipe = BF16, device: str = "cpu") -> Plan:
    return Plan(net, fl.methods.fedavg(), DIGITS, CLIENTS, rounds=2, cohort=3, recipe=recipe, device=device)


def net(dtype: torch.dtype = torch.float32) -> Net:
    return fl.make(fl.models.build("mlp", channels=1, size=8, classes=10, seed=0).to(dtype))


def test_a_run_trains_in_bf16_and_evaluates_in_float32() -> None:
    seen: list[torch.dtype] = []
    model = net().model
    model.fc1.register_forward_hook(lambda layer, args, out: seen.append((layer.training, out.dtype)))
    made = plan(fl.make(model))
    rows = list(fl.run(made.net, made.method, DIGITS, CLIENTS, rounds=2, cohort=3, recipe=BF16, engine="sequential"))
    assert (True, torch.bfloat16) in seen
    assert {dtype for training, dtype in seen if not training} == {torch.float32}
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


@pytest.mark.parametrize(
    ("dtype", "device", "message"),
    [(torch.float64, "cpu", "fc1.weight is float64"), (torch.float32, "meta", "the device is 'meta'")],
)
def test_what_autocast_does_not_support_is_refused(dtype: torch.dtype, device: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check(plan(net(dtype), device=device))
    assert precision_problem("full", torch.device(device), net(dtype).params) is None


def test_a_device_without_instructions_for_bf16_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    for emulated, count in ((True, 1), (False, 0)):
        monkeypatch.setattr(nets, "emulates_bf16", lambda device, emulated=emulated: emulated)
        assert sum("no instructions for products in bf16" in note for note in all_notes.notes(plan(net()))) == count
        assert not any("bf16" in note for note in all_notes.notes(plan(net(), Recipe())))


def test_the_instructions_of_a_cpu_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for found, emulated in (
        ({"avx512_bf16": True}, False),
        ({"avx2": True}, True),
        ({"bf16": True}, False),
        ({}, False),
    ):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda found=found: found, raising=False)
        assert nets.emulates_bf16(torch.device("cpu")) is emulated


class Strict(nn.Module):
    """A model with an operation that needs operands of one dtype."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(64, 16), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.hidden(x.flatten(1))
        return self.head(torch.zeros(hidden.shape).scatter(0, torch.zeros_like(hidden).long(), hidden))


def test_a_model_that_fails_in_bf16_is_refused_before_the_run() -> None:
    made = fl.make(Strict())
    try_out(made, DIGITS, CLIENTS, Recipe())
    with pytest.raises(ModelError, match=r"set client\.precision to 'full'"):
        try_out(made, DIGITS, CLIENTS, BF16)
