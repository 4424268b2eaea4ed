"""The layers that get factors by default, and the layers that stay dense with a reason."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import pytest
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import fedloru as fl
from fedloru import lowrank, models
from fedloru.errors import ModelError
from fedloru.lowrank.choice import default_alpha, default_choice, globs


def adapted(model: nn.Module, **settings: object) -> list[str]:
    return [site.weight.removesuffix(".weight") for site in fl.attach(model, **settings).sites]  # type: ignore[arg-type]


def perceptron(*widths: int) -> nn.Sequential:
    layers = [(f"fc{n}", nn.Linear(i, o)) for n, (i, o) in enumerate(pairwise(widths), 1)]
    return nn.Sequential(OrderedDict(layers))


@pytest.mark.parametrize(
    ("name", "rank", "expected"),
    [
        ("cnn", 4, ["conv1", "conv2", "fc1"]),
        ("cnn", 8, ["conv2", "fc1"]),  # conv1 is 32 × 25: rank 8 has 456 of 800 values
        ("mlp", 8, ["fc1"]),
    ],
)
def test_the_output_layer_and_layers_that_save_little_stay_dense(name: str, rank: int, expected: list[str]) -> None:
    settings = {} if name == "mlp" else {"width": 32}
    model = models.build(name, channels=1, size=28, classes=10, seed=0, **settings)
    net = fl.attach(model, rank=rank)
    assert [site.weight.removesuffix(".weight") for site in net.sites] == expected
    dense = {layer for layer, module in model.named_modules() if hasattr(module, "weight")} - set(expected)
    assert net.skipped.keys() == dense
    assert {f"{layer}.weight" for layer in dense} <= net.trainable


def test_without_a_layer_below_half_those_that_save_at_all_are_adapted() -> None:
    assert adapted(perceptron(13, 32, 2), rank=8) == ["fc1"]  # 360 of 416 values


def test_a_model_of_one_layer_is_adapted() -> None:
    assert adapted(nn.Sequential(nn.Flatten(), nn.Linear(784, 100)), rank=4) == ["1"]


def test_if_factors_save_nothing_all_but_the_output_layer_are_adapted() -> None:
    assert adapted(perceptron(6, 4, 4, 3), rank=3) == ["fc1", "fc2"]


def test_if_every_layer_is_smaller_than_the_rank_the_error_names_them() -> None:
    with pytest.raises(ModelError, match=r"fc1: got rank 8.* 4 × 6 .*fc2: .*Lower the rank"):
        fl.attach(perceptron(6, 4, 3), rank=8)


@pytest.mark.parametrize("targets", [None, ["*"], ["fc*"]])
def test_a_layer_that_is_smaller_than_the_rank_stays_dense_with_a_reason(targets: list[str] | None) -> None:
    net = fl.attach(perceptron(64, 64, 1), rank=8, targets=targets)
    assert [site.weight for site in net.sites] == ["fc1.weight"] and "fc2.weight" in net.trainable
    assert net.skipped == {"fc2": "got rank 8, but a matrix of 1 × 64 has rank 1 to 1; it stays dense"}


def test_a_rank_that_is_set_for_a_layer_must_fit_it() -> None:
    with pytest.raises(ModelError, match=r"fc2.weight: got rank 2, but a matrix of 1 × 64 has rank 1 to 1"):
        fl.attach(perceptron(64, 64, 1), rank=8, ranks={"fc2": 2})


def test_the_reason_names_the_share_of_the_values() -> None:
    model = perceptron(20, 10, 64, 64)
    skipped = default_choice(dict(model.named_children()), lambda name: 4, "fc3")
    assert skipped["fc1"] == "its factors would have 60% of its values; it stays dense"
    assert skipped["fc3"] == "it is the output layer; it stays dense"


def test_alpha_is_twice_the_rank_of_the_site() -> None:
    net = fl.attach(perceptron(64, 64, 64, 9), rank=2, ranks={"fc2": 3})
    assert {site.rank: site.scale for site in net.sites} == {2: 2.0, 3: 2.0} and default_alpha(8) == 16.0


def test_globs_match_the_chosen_layers_and_no_other() -> None:
    model = nn.ModuleDict({"blocks": nn.ModuleList([perceptron(8, 8, 8) for _ in range(3)]), "head": nn.Linear(8, 2)})
    assert globs(["blocks.0.fc1", "blocks.1.fc1", "blocks.2.fc1"], model) == [
        "blocks.0.fc1",
        "blocks.1.fc1",
        "blocks.2.fc1",
    ]  # blocks.*.fc* would match fc2 too
    every = [f"blocks.{n}.fc{k}" for n in range(3) for k in (1, 2)]
    assert globs(every, model) == ["blocks.*.fc*"]
    assert globs([*every, "head"], model) == ["blocks.*.fc*", "head"]
    adapted = lowrank.attach(model, rank=2, targets=globs(every, model)).model
    assert [site.weight for site in lowrank.sites(adapted)] == [f"{name}.weight" for name in every]


@pytest.mark.parametrize("head", [nn.Linear(64, 2), nn.Conv1d(64, 10, 1), weight_norm(nn.Linear(64, 10))])
def test_the_layer_before_an_output_layer_that_cannot_be_adapted_is_adapted(head: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64), head)
    net = fl.attach(model, rank=4)
    assert [site.weight for site in net.sites] == ["0.weight", "1.weight"]


@pytest.mark.parametrize("setting", [{"ranks": {"fc3": 2}}, {"alphas": {"fc3": 4.0}}])
def test_a_rank_or_an_alpha_of_a_layer_that_stays_dense_by_default_is_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ModelError, match=r"'fc3' in \w+ matches no layer that gets factors; these do: fc1, fc2"):
        fl.attach(perceptron(64, 64, 64, 9), rank=4, **setting)  # type: ignore[arg-type]
    assert adapted(perceptron(64, 64, 64, 9), rank=4, targets=["fc*"], **setting) == ["fc1", "fc2", "fc3"]
