"""Methods whose aggregate is, or is not, the exact mean of the clients' weights."""

from __future__ import annotations

import pytest

from fedloru import methods
from fedloru.method import Method
from tests.methods.cohort import small_net
from tests.methods.oracle import forward_weights, max_difference, run_round


@pytest.mark.parametrize(
    "method",
    [methods.ffalora(), methods.rolora(), methods.flora(), methods.fedex(), methods.fedex(init="both")],
    ids=lambda m: m.name,
)
def test_aggregate_is_the_exact_mean_of_products(method: Method) -> None:
    net = small_net()
    state = method.init(net, 3)
    for _ in range(4):
        state, exact, _ = run_round(net, method, state)
        assert max_difference(forward_weights(net, method, state), exact) < 1e-9


@pytest.mark.parametrize("method", [methods.fedlora(), methods.fedloru(recipe="paper", tau=2)], ids=lambda m: m.name)
def test_averaging_factors_is_inexact(method: Method) -> None:
    """The aggregation gap ‖Σ p_k B_k A_k − B̄Ā‖ is not small."""
    net = small_net()
    state, exact, _ = run_round(net, method, method.init(net, 3))
    assert max_difference(forward_weights(net, method, state), exact) > 0.05
