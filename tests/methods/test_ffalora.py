"""FFA-LoRA: A is everybody's own draw, and only B and θ travel."""

from __future__ import annotations

import torch

from fedloru import lowrank, methods, tree
from fedloru.evaluate import shared_model
from fedloru.method import Values
from fedloru.wire import cost
from tests.methods.cohort import SHARES, close, small
from tests.methods.oracle import client_round

# r·o of the two sites: 2·4 + 2·5; θ 32 and statistics 8, as counted in test_fedloru.
EACH = {"factors": 18, "dense": 32, "statistics": 8}


def test_a_is_drawn_and_never_held_or_sent() -> None:
    net, method = small(), methods.ffalora()
    state = method.init(net, 3)
    frozen = {site.a for site in net.sites}
    drawn = tree.select(lowrank.fresh(net.sites, 3, 0, net.params), sorted(frozen))
    for _ in range(3):
        assert not frozen & (state.base.keys() | state.shared.keys())
        assert close(tree.select(shared_model(net, method, state), sorted(frozen)), drawn)
        before = state
        state, _, ups = client_round(net, method, state)
        assert all(up.shared.keys() == before.shared.keys() for up in ups)
        expected = {k: sum(p * up.shared[k] for p, up in zip(SHARES, ups, strict=True)) for k in before.shared}
        assert close(state.shared, expected) and state.base is before.base and state.version == 0


def test_only_b_and_dense_weights_are_trained() -> None:
    net, method = small(), methods.ffalora()
    down = method.down(net, method.init(net, 3), ())
    assert method.phases is not None
    (phase,) = method.phases(net, method.begin(net, down, {}, ()))
    assert phase.keys == net.trainable - {site.a for site in net.sites} and phase.epochs is None


def test_values_and_the_first_download_by_hand() -> None:
    """The base is the two adapted weights, 4·18 + 5·16 values, and no factor."""
    net, method = small(dtype=torch.float32), methods.ffalora()
    assert [method.values(net, round, [(), ()], ()) for round in (1, 2)] == [Values(EACH, EACH)] * 2
    first, second = cost(net, method, [[0], [0]])
    assert first.down["first_download"] == 4 * (4 * 18 + 5 * 16) and second.down["first_download"] == 0
    assert first.down["factors"] == second.up["factors"] == 4 * 18
