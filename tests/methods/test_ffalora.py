"""FFA-LoRA: all participants draw A, and only B and θ are sent."""

from __future__ import annotations

import torch

from fedloru import lowrank, methods, tree
from fedloru.evaluate import shared_model
from fedloru.method import Values
from fedloru.wire import cost
from tests.methods.cohort import SHARES, close, small_net
from tests.methods.oracle import run_round

# r·o of the two sites: 2·4 + 2·5; θ 32 and statistics 8, as counted in test_fedloru.
VALUES = {"factors": 18, "dense": 32, "statistics": 8}


def test_a_is_drawn_and_neither_stored_nor_sent() -> None:
    net, method = small_net(), methods.ffalora()
    state = method.init(net, 3)
    frozen = {site.a for site in net.sites}
    drawn = tree.select(lowrank.init_factors(net.sites, 3, 0, net.params), sorted(frozen))
    for _ in range(3):
        assert not frozen & (state.base.keys() | state.shared.keys())
        assert close(tree.select(shared_model(net, method, state), sorted(frozen)), drawn)
        before = state
        state, _, ups = run_round(net, method, state)
        assert all(up.shared.keys() == before.shared.keys() for up in ups)
        expected = {k: sum(p * up.shared[k] for p, up in zip(SHARES, ups, strict=True)) for k in before.shared}
        assert close(state.shared, expected) and state.base is before.base and state.version == 0


def test_only_b_and_dense_weights_are_trained() -> None:
    net, method = small_net(), methods.ffalora()
    down = method.down(net, method.init(net, 3), ())
    assert method.phases is not None
    (phase,) = method.phases(net, method.begin(net, down, {}, ()))
    assert phase.keys == net.trainable - {site.a for site in net.sites} and phase.epochs is None


def test_values_and_first_download() -> None:
    """The base consists of the two adapted weights, 4·18 + 5·16 values, and no factors."""
    net, method = small_net(dtype=torch.float32), methods.ffalora()
    assert [method.values(net, round, [(), ()], ()) for round in (1, 2)] == [Values(VALUES, VALUES)] * 2
    first, second = cost(net, method, [[0], [0]])
    assert first.down["first_download"] == 4 * (4 * 18 + 5 * 16) and second.down["first_download"] == 0
    assert first.down["factors"] == second.up["factors"] == 4 * 18
