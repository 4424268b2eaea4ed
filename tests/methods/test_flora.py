"""FLoRA: the stacked products of clients of any rank are increments."""

from __future__ import annotations

import pytest
import torch

from fedloru import lowrank, methods, tree
from fedloru.evaluate import shared_model
from fedloru.method import Down, Profile
from fedloru.methods.ranks import with_rank
from fedloru.session import Job
from fedloru.wire import MessageSpec, cost, decode_down, encode_down
from tests.laws.cases import world
from tests.methods.catching_up import sync_kinds
from tests.methods.cohort import close, small_net
from tests.methods.oracle import FULL_RANK, forward_weights, max_difference, run_round

MIXED_RANKS: tuple[Profile, ...] = (with_rank(1), (), with_rank(2))


@pytest.mark.parametrize("profiles", [FULL_RANK, MIXED_RANKS, (with_rank(1),) * 3], ids=["full", "mixed", "low"])
def test_server_model_is_the_exact_mean_of_scaled_products(profiles: tuple[Profile, ...]) -> None:
    net, method = small_net(rank=3), methods.flora()
    state = method.init(net, 3)
    for version in range(1, 4):
        state, exact, _ = run_round(net, method, state, profiles)
        assert max_difference({site.weight: state.base[site.weight].flatten(1) for site in net.sites}, exact) < 1e-9
        assert max_difference(forward_weights(net, method, state), exact) < 1e-9  # fresh factors add nothing
        assert state.version == state.round == version
        assert close(tree.select(state.shared, net.factors), lowrank.init_factors(net.sites, 3, version, net.params))
        ranks = [int(dict(profile).get("rank", 3)) for profile in profiles]
        assert {state.increment[site.a].shape[0] for site in net.sites} == {sum(ranks)}


def test_receivers_draw_fresh_factors_of_any_rank() -> None:
    net, method = small_net(rank=3), methods.flora()
    state, _, _ = run_round(net, method, method.init(net, 3), MIXED_RANKS)
    for profile, rank in (((), 3), (with_rank(2), 2), (with_rank(1), 1)):
        down: Down = method.down(net, state, profile)
        data = encode_down(net, down, state, method="flora", run="run", codec="exact")
        header, received = decode_down(data, MessageSpec(net, method, "run", profile))
        assert header.fresh == "a" and tree.equal(received.shared, down.shared) and received.version == 1
        assert {received.shared[site.a].shape[0] for site in net.sites} == {rank}
        for site in net.sites:  # clients share one draw, and use its first rows
            assert torch.equal(received.shared[site.a], state.shared[site.a][:rank])
        trained = sum(down.shared[key].numel() for key in net.trainable)
        assert len(data) < 8 * (trained - sum(down.shared[key].numel() for key in net.factors)) + 4000


def test_engines_agree_for_clients_of_different_ranks() -> None:
    cell = world("flora", "cnn-batch")
    profiles: list[Profile] = [with_rank(1), (), (), with_rank(1)]
    jobs = [Job(job.client, job.rows, {}, profile) for job, profile in zip(cell.jobs, profiles, strict=True)]
    states = [cell.rounds(3, engine, jobs=jobs) for engine in ("sequential", "fused")]
    assert close(states[0].base, states[1].base, 1e-9) and close(states[0].shared, states[1].shared, 1e-9)
    assert not close(states[0].base, cell.rounds(3, jobs=[job._replace(profile=()) for job in jobs]).base, 1e-3)


def test_scale_of_a_client_is_alpha_over_its_rank() -> None:
    """Clients of rank 1 train as if the model had factors of rank 1; the draw of A is the same."""
    small_rank, full = small_net(rank=1), small_net(rank=2)
    method = methods.flora()
    weights = []
    for net, profile in ((small_rank, ()), (full, with_rank(1))):
        state, _, _ = run_round(net, method, method.init(net, 3), (profile,) * 3)
        model = shared_model(net, method, state)
        weights.append({site.weight: model[site.weight] for site in net.sites})
    assert close(weights[0], weights[1], 1e-12)


def test_values() -> None:
    """At rank 2 factors are 86 values, at rank 1 43; θ 32 and statistics 8."""
    net, method = small_net(), methods.flora()
    rest = {"dense": 32, "statistics": 8}
    cohort: list[Profile] = [(), with_rank(1), with_rank(1)]
    for profile, factors in (((), 86), (with_rank(1), 43)):
        counted = method.values(net, 5, cohort, profile)
        assert counted == (rest | {"factors": 0}, rest | {"factors": factors}, 86 + 43 + 43)
    traffic = cost(net, method, [[0, 1], [0, 1]], profiles=[(), with_rank(1)], codec="exact")
    assert traffic[1].up["factors"] == 8 * (86 + 43)
    assert traffic[1].down["increments"] == 2 * 8 * (86 + 43)  # below 8·(72 + 80) each


def test_bases_are_bit_exact_after_missed_rounds() -> None:
    kinds = sync_kinds(methods.flora(), [(), with_rank(1)])
    assert kinds == {"first", "increments", "dense"}
