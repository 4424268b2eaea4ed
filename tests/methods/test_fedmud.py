"""FedMUD against its equations, with the fixed halves drawn independently of the method."""

from __future__ import annotations

import math

import pytest
import torch

from fedloru import lowrank, methods, tree
from fedloru.errors import ConfigError
from tests.methods import cohort
from tests.methods.ranked import SAME, SHARES, play, same, served, square


@pytest.mark.parametrize("interval", [1, 2, math.inf])
def test_updates_are_two_products_with_fixed_halves(interval: float) -> None:
    net, method = square(), methods.fedmud(interval=interval)
    weights = {site.weight: net.params[site.weight].flatten(1) for site in net.sites}
    version = 0
    for played in play(net, method, 4, SAME):
        fixed = lowrank.fresh(net.sites, 3, version, net.params, "both")
        model = served(net, method, played.after)
        due = math.isfinite(interval) and played.after.round % interval == 0
        for site in net.sites:
            l_fixed, r_fixed = fixed[site.b].flatten(1), fixed[site.a].flatten(1)
            updates = [
                l_fixed @ up.shared[site.a].flatten(1) + up.shared[site.b].flatten(1) @ r_fixed for up in played.ups
            ]
            exact = weights[site.weight] + site.scale * sum(p * u for p, u in zip(SHARES, updates, strict=True))
            assert same(model[site.weight], exact)
            if due:
                weights[site.weight] = exact
                assert same(played.after.base[site.weight].flatten(1), exact)
                assert played.after.increment[site.a].shape[0] == 2 * site.rank
                assert not played.after.shared[site.a].any() and not played.after.shared[site.b].any()
        version += due
        assert played.after.version == version and bool(played.after.increment) is due
        increment = method.values(net, played.after.round, [()], ()).increment
        assert increment == tree.size(played.after.increment) == (2 * 282 if due else 0)


def test_first_gradients_reach_both_halves() -> None:
    net, method = square(), methods.fedmud()
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
    up, own = method.up(net, train, down, {}, 1)
    assert up.shared.keys() == state.shared.keys() and own == {}


def test_without_aad_it_is_fedloru() -> None:
    net = cohort.small()
    pairs = zip(
        cohort.play(net, methods.fedmud(interval=2, aad=False), 4),
        cohort.play(net, methods.fedloru(tau=2), 4),
        strict=True,
    )
    for (_, _, mine), (_, _, theirs) in pairs:
        assert mine.version == theirs.version
        assert all(tree.equal(x, y) for x, y in zip(mine[3:7], theirs[3:7], strict=True))


def test_values_by_hand() -> None:
    net = square()
    each = {"dense": 37, "statistics": 0, "factors": 282}
    method = methods.fedmud(interval=2)
    assert method.values(net, 1, [()], ()) == (each, each, 0)
    assert method.values(net, 2, [()], ()) == (each, each, 564)
    plain = methods.fedmud(interval=2, aad=False)
    assert plain.values(net, 3, [()], ()) == (each | {"factors": 0}, each, 0)
    assert plain.values(net, 4, [()], ()) == (each, each, 282)


def test_bad_settings_are_refused() -> None:
    for interval in (0, 1.5, -1, math.nan, -math.inf):
        for aad in (True, False):
            with pytest.raises(ConfigError, match="interval is"):
                methods.fedmud(interval=interval, aad=aad)
