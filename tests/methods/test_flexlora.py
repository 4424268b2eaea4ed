"""FlexLoRA against dense sums and the SVD of dense matrices."""

from __future__ import annotations

import torch

from fedloru import lowrank, methods, tree
from fedloru.methods.ranks import rank_of, with_rank
from fedloru.net import Net
from tests.methods.ranked import (
    FULL_RANK,
    MIXED_RANKS,
    SHARES,
    Round,
    allclose,
    best_approximation,
    client_tensors,
    dense,
    effective,
    run_rounds,
    server_weights,
    square_net,
)


def exact_means(outcome: Round, net: Net) -> dict[str, torch.Tensor]:
    """Return Σ p_k s_k B_k A_k with s_k = α/r_k, for α = 4.5."""
    return {
        site.weight: sum(
            p * 4.5 / up.shared[site.a].shape[0] * dense(site, up.shared)
            for p, up in zip(SHARES, outcome.ups, strict=True)
        )
        for site in net.sites
    }


def test_server_model_has_the_exact_mean_of_products() -> None:
    net, method = square_net(), methods.flexlora()
    for profiles in (MIXED_RANKS, FULL_RANK):
        for outcome in run_rounds(net, method, 3, profiles):
            expected = exact_means(outcome, net)
            model = server_weights(net, method, outcome.after)
            for site in net.sites:
                assert allclose(model[site.weight] - net.params[site.weight].flatten(1), expected[site.weight])
                assert tree.equal(outcome.after.base, outcome.before.base)
                theta = sum(p * up.shared["4.bias"] for p, up in zip(SHARES, outcome.ups, strict=True))
                assert allclose(outcome.after.shared["4.bias"], theta)


def test_clients_use_the_best_approximation_of_their_rank() -> None:
    net, method = square_net(), methods.flexlora()
    first, second = run_rounds(net, method, 2, MIXED_RANKS)
    expected = exact_means(first, net)
    for profile, down in zip(MIXED_RANKS, second.downs, strict=True):
        weights = effective(net, client_tensors(net, method, second.before, down, profile))
        for site in net.sites:
            rank = rank_of(site, profile)
            assert down.shared[site.a].shape[0] == down.shared[site.b].shape[1] == rank
            assert allclose(
                weights[site.weight] - net.params[site.weight].flatten(1),
                best_approximation(expected[site.weight], rank),
            )


def test_unused_ranks_contain_fresh_factors() -> None:
    net, method = square_net(), methods.flexlora()
    state = method.init(net, 3)
    down = method.down(net, state, with_rank(1))
    up, _ = method.up(net, method.begin(net, down, {}, ()), down, {}, 1)
    up.shared.update({site.b: torch.ones_like(up.shared[site.b]) for site in net.sites})
    after = method.server(net, state, method.reduce(net, state, down, [up], [2.0]))
    fresh = lowrank.init_factors(net.sites, 3, 0, net.params)
    for site in net.sites:
        a, b = after.shared[site.a], after.shared[site.b]
        assert a.shape[0] == b.shape[1] == site.rank
        assert allclose(a[1:], fresh[site.a][1:]) and not b[:, 1:].any()
        assert allclose(site.scale * dense(site, after.shared), 4.5 * dense(site, up.shared))


def test_round_without_training_keeps_the_initial_factors() -> None:
    net, method = square_net(), methods.flexlora()
    (outcome,) = run_rounds(net, method, 1, MIXED_RANKS, size=0.0)
    assert tree.equal(outcome.after.shared, outcome.before.shared)


def test_values() -> None:
    """Sites 4 × 36, 6 × 36 and 6 × 6 of rank 3: r_k(40 + 42 + 12) = 94 r_k; θ: biases 4 + 6 + 6, head 18 + 3."""
    net, method = square_net(), methods.flexlora()
    for round, rank, down in ((1, 3, 0), (1, 1, 0), (2, 3, 282), (2, 1, 94), (2, 9, 282)):
        counted = method.values(net, round, [()], with_rank(rank))
        assert counted.up == {"dense": 37, "statistics": 0, "factors": 94 * min(rank, 3)}
        assert counted.down == counted.up | {"factors": down} and counted.increment == 0
    assert method.traits.stacks
    for outcome in run_rounds(net, method, 2, MIXED_RANKS):
        for profile, down, up in zip(MIXED_RANKS, outcome.downs, outcome.ups, strict=True):
            counted = method.values(net, 2, MIXED_RANKS, profile)
            assert tree.size(down.shared) == sum(counted.down.values())
            assert tree.size(up.shared) == sum(counted.up.values())
