"""Which aggregates are the exact mean of the clients' weights, and which are not."""

from __future__ import annotations

import pytest

from fedloru import methods
from fedloru.method import Method
from tests.methods.cohort import small
from tests.methods.oracle import client_round, forward_weights, gap


@pytest.mark.parametrize(
    "method",
    [methods.ffalora(), methods.rolora(), methods.flora(), methods.fedex(), methods.fedex(init="both")],
    ids=lambda m: m.name,
)
def test_exact_aggregates(method: Method) -> None:
    net = small()
    state = method.init(net, 3)
    for _ in range(4):
        state, exact, _ = client_round(net, method, state)
        assert gap(forward_weights(net, method, state), exact) < 1e-9


@pytest.mark.parametrize("method", [methods.fedlora(), methods.fedloru(tau=2)], ids=lambda m: m.name)
def test_means_of_factors_are_inexact(method: Method) -> None:
    """The gap is ‖Σ p_k B_k A_k − B̄Ā‖, and not small."""
    net = small()
    state, exact, _ = client_round(net, method, method.init(net, 3))
    assert gap(forward_weights(net, method, state), exact) > 0.05
