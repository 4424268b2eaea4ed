"""Images are trained on with their channels last in memory, unless the model depends on the other order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fedloru import methods
from fedloru import net as nets
from fedloru.data import Examples
from fedloru.engine.fused.engine import Fused, approve
from fedloru.method import Method
from fedloru.recipe import Recipe
from tests.engine.cohort import SIZES, Cohort, vectors

SMOOTH = Recipe(lr=0.05, momentum=0.9, batch_size=4, epochs=2, clip=1.0)


ORDERS: list[bool] = []
"""Whether the channels were last in memory in each forward pass through ``Orders``."""


class Orders(nn.Module):
    """A layer that records the order of the channels that it receives."""

    def forward(self, x: Tensor) -> Tensor:
        ORDERS.append(x.stride(1) == 1)
        return x


class View(nn.Module):
    """A layer that flattens images by a view, which fails if their channels are last in memory."""

    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)


def images(channels: int) -> Examples:
    flat = vectors(channels * 36)
    return flat | {"x": flat["x"].float().view(-1, channels, 6, 6)}


def model(channels: int, flatten: Callable[[], nn.Module]) -> nn.Module:
    first, second = nn.Conv2d(channels, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
    return nn.Sequential(first, nn.Tanh(), Orders(), second, nn.Tanh(), nn.MaxPool2d(2), flatten(), nn.Linear(36, 3))


METHODS: dict[str, tuple[Callable[[], Method], list[str] | None]] = {
    "dense": (methods.fedavg, None),
    "low rank": (methods.fedlora, ["3"]),
}


@pytest.mark.parametrize("flatten", [nn.Flatten, View])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("method", METHODS)
def test_a_chunk_in_either_order_equals_the_sequential_engine(
    method: str, channels: int, flatten: Callable[[], nn.Module]
) -> None:
    make, targets = METHODS[method]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = model(channels, flatten)
    net = nets.make(module) if targets is None else nets.attach(module, rank=2, targets=targets, alpha=4)
    cohort = Cohort(net, make(), images(channels), SMOOTH)
    state = cohort.rounds("sequential")
    ORDERS.clear()
    fused = cohort.rounds("fused")
    assert ORDERS[-1] == (flatten is nn.Flatten)
    for key, value in fused.shared.items():
        torch.testing.assert_close(value, state.shared[key], rtol=2e-4, atol=2e-5)


def test_vectors_have_no_order() -> None:
    net = nets.make(nn.Sequential(nn.Linear(6, 3)))
    data = vectors() | {"x": vectors()["x"].float()}
    assert len(data["x"]) == sum(SIZES)
    found = approve(net, methods.fedavg(), methods.fedavg().init(net, 3), data, SMOOTH)
    assert isinstance(found, Fused) and found.how == "fold"


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (nn.Conv2d(3, 4, 1, stride=2), False),
        (nn.Conv2d(32, 4, 1, stride=(1, 2), groups=4), False),
        (nn.Conv2d(16, 4, 1, stride=2), True),
        (nn.Conv2d(3, 4, 1), True),
        (nn.Conv2d(3, 4, 3, stride=2), True),
        (nn.Conv2d(3, 4, 1, stride=2).double(), False),
    ],
)
def test_a_convolution_whose_gradient_is_written_out_of_bounds_has_its_channels_first(
    layer: nn.Conv2d, expected: bool
) -> None:
    assert nets.prefers_channels_last(nets.make(layer), torch.device("cpu")) is expected


@pytest.mark.parametrize("method", METHODS)
def test_a_narrow_shortcut_with_a_stride_is_trained_by_both_engines(method: str) -> None:
    """On a processor with AVX2, its gradient with the channels last corrupts the heap."""
    make, targets = METHODS[method]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), Orders(), nn.Conv2d(4, 8, 1, stride=2))
        module.extend([nn.Tanh(), nn.Flatten(), nn.Linear(72, 3)])
    net = nets.make(module) if targets is None else nets.attach(module, rank=2, targets=targets, alpha=4)
    cohort = Cohort(net, make(), images(3), SMOOTH)
    one = cohort.rounds("sequential")
    ORDERS.clear()
    other = cohort.rounds("fused")
    assert ORDERS and not any(ORDERS)
    for key, value in other.shared.items():
        torch.testing.assert_close(value, one.shared[key], rtol=2e-4, atol=2e-5)
