"""FedMUD against its equations, with fixed factors that are drawn independently of the method."""

from __future__ import annotations

import math

import pytest
import torch

from fedloru import lowrank, methods, tree
from fedloru.errors import ConfigError
from tests.methods import cohort
from tests.methods.ranked import FULL_RANK, SHARES, allclose, run_rounds, server_weights, square_net


@pytest.mark.parametrize("interval", [1, 2, math.inf])
def test_updates_are_sums_of_two_products_with_a_fixed_factor(interval: float) -> None:
    net, method = square_net(), methods.fedmud(interval=interval)
    weights = {site.weight: net.params[site.weight].flatten(1) for site in net.sites}
    version = 0
    for outcome in run_rounds(net, method, 4, FULL_RANK):
        fixed = lowrank.init_factors(net.sites, 3, version, net.params, "both")
        model = server_weights(net, method, outcome.after)
        merges = math.isfinite(interval) and outcome.after.round % interval == 0
        for site in net.sites:
            l_fixed, r_fixed = fixed[site.b].flatten(1), fixed[site.a].flatten(1)
            updates = [
                l_fixed @ up.shared[site.a].flatten(1) + up.shared[site.b].flatten(1) @ r_fixed for up in outcome.ups
            ]
            exact = weights[site.weight] + site.scale * sum(p * u for p, u in zip(SHARES, updates, strict=True))
            assert allclose(model[site.weight], exact)
            if merges:
                weights[site.weight] = exact
                assert allclose(outcome.after.base[site.weight].flatten(1), exact)
                assert outcome.after.increment[site.a].shape[0] == 2 * site.rank
                assert not outcome.after.shared[site.a].any() and not outcome.after.shared[site.b].any()
        version += merges
        assert outcome.after.version == version and bool(outcome.after.increment) is merges
        increment = method.values(net, outcome.after.round, [()], ()).increment
        assert increment == tree.size(outcome.after.increment) == (2 * 282 if merges else 0)


def test_both_trained_factors_have_gradients_initially() -> None:
    net, method = square_net(), methods.fedmud()
    state = method.init(net, 3)
    down = method.down(net, state, ())
    train = method.begin(net, down, {}, ())
    assert method.phases is not None and method.expand is not None
    (phase,) = method.phases(net, train)
    assert phase.keys == net.trainable
    leaves = {key: train[key].detach().requires_grad_() for key in sorted(net.factors)}
    whole = method.expand(net, train | leaves, down)
    assert whole.keys() == net.trainable
    loss = sum((whole[s.b].flatten(1) @ whole[s.a].flatten(1)).sum() for s in net.sites)
    assert all(bool(g.any()) for g in torch.autograd.grad(loss, list(leaves.values())))
    up, client_state = method.up(net, train, down, {}, 1)
    assert up.shared.keys() == state.shared.keys() and client_state == {}


def test_fedmud_without_aad_is_fedloru() -> None:
    net = cohort.small_net()
    pairs = zip(
        cohort.run_rounds(net, methods.fedmud(interval=2, aad=False), 4),
        cohort.run_rounds(net, methods.fedloru(recipe="paper", tau=2), 4),
        strict=True,
    )
    for (_, _, fedmud_state), (_, _, fedloru_state) in pairs:
        assert fedmud_state.version == fedloru_state.version
        assert all(tree.equal(x, y) for x, y in zip(fedmud_state[3:7], fedloru_state[3:7], strict=True))


def test_values() -> None:
    net = square_net()
    each = {"dense": 37, "statistics": 0, "factors": 282}
    method = methods.fedmud(interval=2)
    assert method.values(net, 1, [()], ()) == (each, each, 0)
    assert method.values(net, 2, [()], ()) == (each, each, 564)
    plain = methods.fedmud(interval=2, aad=False)
    assert plain.values(net, 3, [()], ()) == (each | {"factors": 0}, each, 0)
    assert plain.values(net, 4, [()], ()) == (each, each, 282)


def test_invalid_settings_raise() -> None:
    for interval in (0, 1.5, -1, math.nan, -math.inf):
        for aad in (True, False):
            with pytest.raises(ConfigError, match="interval is"):
                methods.fedmud(interval=interval, aad=aad)
