"""FlexLoRA against dense sums and the SVD of dense matrices."""

from __future__ import annotations

import torch

from fedloru import lowrank, methods, tree
from fedloru.methods.ranks import rank_of, with_rank
from fedloru.net import Net
from tests.methods.ranked import (
    RANKED,
    SAME,
    SHARES,
    Played,
    best,
    dense,
    effective,
    play,
    same,
    served,
    square,
    with_factors,
)


def exact_sums(played: Played, net: Net) -> dict[str, torch.Tensor]:
    """Return Σ p_k s_k B_k A_k with s_k = α/r_k, for α = 4.5."""
    return {
        site.weight: sum(
            p * 4.5 / up.shared[site.a].shape[0] * dense(site, up.shared)
            for p, up in zip(SHARES, played.ups, strict=True)
        )
        for site in net.sites
    }


def test_the_server_keeps_the_exact_sum() -> None:
    net, method = square(), methods.flexlora()
    for profiles in (RANKED, SAME):
        for played in play(net, method, 3, profiles):
            expected = exact_sums(played, net)
            model = served(net, method, played.after)
            for site in net.sites:
                assert same(model[site.weight] - net.params[site.weight].flatten(1), expected[site.weight])
                assert tree.equal(played.after.base, played.before.base)
                theta = sum(p * up.shared["4.bias"] for p, up in zip(SHARES, played.ups, strict=True))
                assert same(played.after.shared["4.bias"], theta)


def test_a_client_computes_with_the_nearest_of_its_rank() -> None:
    net, method = square(), methods.flexlora()
    first, second = play(net, method, 2, RANKED)
    expected = exact_sums(first, net)
    for profile, down in zip(RANKED, second.downs, strict=True):
        weights = effective(net, with_factors(net, method, second.before, down, profile))
        for site in net.sites:
            rank = rank_of(site, profile)
            assert down.shared[site.a].shape[0] == down.shared[site.b].shape[1] == rank
            assert same(weights[site.weight] - net.params[site.weight].flatten(1), best(expected[site.weight], rank))


def test_unused_ranks_are_drawn_and_can_be_trained() -> None:
    net, method = square(), methods.flexlora()
    state = method.init(net, 3)
    down = method.down(net, state, with_rank(1))
    up, _ = method.up(net, method.begin(net, down, {}, ()), down, {}, 1)
    up.shared.update({site.b: torch.ones_like(up.shared[site.b]) for site in net.sites})
    after = method.server(net, state, method.reduce(net, state, down, [up], [2.0]))
    fresh = lowrank.fresh(net.sites, 3, 0, net.params)
    for site in net.sites:
        a, b = after.shared[site.a], after.shared[site.b]
        assert a.shape[0] == b.shape[1] == site.rank
        assert same(a[1:], fresh[site.a][1:]) and not b[:, 1:].any()
        assert same(site.scale * dense(site, after.shared), 4.5 * dense(site, up.shared))


def test_nothing_trained_keeps_the_first_factors() -> None:
    net, method = square(), methods.flexlora()
    (played,) = play(net, method, 1, RANKED, size=0.0)
    assert tree.equal(played.after.shared, played.before.shared)


def test_values_by_hand() -> None:
    """Sites 4 × 36, 6 × 36 and 6 × 6 of rank 3: r_k(40 + 42 + 12) = 94 r_k; θ: biases 4 + 6 + 6, head 18 + 3."""
    net, method = square(), methods.flexlora()
    for round, rank, down in ((1, 3, 0), (1, 1, 0), (2, 3, 282), (2, 1, 94), (2, 9, 282)):
        counted = method.values(net, round, [()], with_rank(rank))
        assert counted.up == {"dense": 37, "statistics": 0, "factors": 94 * min(rank, 3)}
        assert counted.down == counted.up | {"factors": down} and counted.increment == 0
    assert method.stacks
    for played in play(net, method, 2, RANKED):
        for profile, down, up in zip(RANKED, played.downs, played.ups, strict=True):
            counted = method.values(net, 2, RANKED, profile)
            assert tree.size(down.shared) == sum(counted.down.values())
            assert tree.size(up.shared) == sum(counted.up.values())
