"""HetLoRA against explicit weighted sums of padded factors."""

from __future__ import annotations

import pytest
import torch

from fedloru import methods, tree
from fedloru.client import train
from fedloru.data import Dataset, Partition
from fedloru.errors import ConfigError
from fedloru.method import Down, Profile
from fedloru.methods.ranks import rank_of, with_rank
from fedloru.net import Net
from fedloru.run.checks import check
from fedloru.run.plan import Plan
from fedloru.session import Session
from tests.laws.cases import world
from tests.methods.ranked import FULL_RANK, MIXED_RANKS, SHARES, allclose, dense, run_rounds, square_net


@pytest.mark.parametrize("profiles", [MIXED_RANKS, FULL_RANK])
def test_factors_are_padded_and_weighted_by_the_norm_of_their_product(profiles: tuple[Profile, ...]) -> None:
    net, method = square_net(), methods.hetlora()
    for outcome in run_rounds(net, method, 3, profiles):
        for site in net.sites:
            norms = [torch.linalg.matrix_norm(dense(site, up.shared)) for up in outcome.ups]
            a, b = torch.zeros(site.rank, site.i).double(), torch.zeros(site.o, site.rank).double()
            for norm, up in zip(norms, outcome.ups, strict=True):
                rank = up.shared[site.a].shape[0]
                a[:rank] += norm / sum(norms) * up.shared[site.a].reshape(rank, site.i)
                b[:, :rank] += norm / sum(norms) * up.shared[site.b].reshape(site.o, rank)
            assert allclose(outcome.after.shared[site.a].flatten(1), a)
            assert allclose(outcome.after.shared[site.b].flatten(1), b)
        theta = sum(p * up.shared["4.weight"] for p, up in zip(SHARES, outcome.ups, strict=True))
        assert allclose(outcome.after.shared["4.weight"], theta)


def test_clients_receive_the_first_ranks() -> None:
    net, method = square_net(), methods.hetlora()
    outcome = run_rounds(net, method, 2, MIXED_RANKS)[1]
    for profile, down in zip(MIXED_RANKS, outcome.downs, strict=True):
        for site in net.sites:
            rank = rank_of(site, profile)
            assert torch.equal(down.shared[site.a], outcome.before.shared[site.a][:rank])
            assert torch.equal(down.shared[site.b], outcome.before.shared[site.b][:, :rank])


def with_tails(net: Net, down: Down, b: float) -> tree.Params:
    """Return factors whose values are 1, except for ``b`` in the last column of B."""
    train = dict(down.shared)
    for site in net.sites:
        train[site.a], train[site.b] = torch.ones_like(train[site.a]), torch.ones_like(train[site.b])
        train[site.b][:, -1] = b
    return train


@pytest.mark.parametrize(("tail", "last"), [(0.01, 1), (0.34, 2), (0.9, 2)])
def test_penalty_is_the_norm_of_the_tails_and_has_its_gradient(tail: float, last: int) -> None:
    """With t = ‖B^tail‖‖A^tail‖: ∂t/∂B^tail = ‖A^tail‖ B^tail/‖B^tail‖, and likewise for A; other gradients are 0."""
    net, method = square_net(), methods.hetlora(tail=tail, penalty=0.7)
    outcome = run_rounds(net, method, 2, FULL_RANK)[1]
    train = {key: value.clone().requires_grad_() for key, value in outcome.downs[0].shared.items()}
    assert method.penalty is not None
    term = method.penalty(net, train, outcome.downs[0], {})
    term.backward()
    expected = 0.0
    for site in net.sites:
        a, b = train[site.a].detach().flatten(1), train[site.b].detach().flatten(1)
        grad_a, grad_b = torch.zeros_like(a), torch.zeros_like(b)
        norm_a, norm_b = a[-last:].norm(), b[:, -last:].norm()
        grad_a[-last:] = 0.7 * norm_b / norm_a * a[-last:]
        grad_b[:, -last:] = 0.7 * norm_a / norm_b * b[:, -last:]
        assert allclose(train[site.a].grad.flatten(1), grad_a) and allclose(train[site.b].grad.flatten(1), grad_b)
        expected += 0.7 * float(norm_a * norm_b)
    assert float(term.detach()) == pytest.approx(expected)
    assert all(train[key].grad is None for key in train.keys() - net.factors)


def test_gradient_of_a_zero_tail_is_zero() -> None:
    net, method = square_net(), methods.hetlora()
    down = method.down(net, method.init(net, 3), ())
    train = {key: value.clone().requires_grad_() for key, value in down.shared.items()}
    assert method.penalty is not None
    method.penalty(net, train, down, {}).backward()
    assert not any(train[key].grad.any() for key in net.factors)  # initially B = 0


def test_tails_whose_norm_decreased_are_pruned() -> None:
    net, method = square_net(), methods.hetlora()
    received = method.down(net, method.init(net, 3), ())
    received = received._replace(shared=with_tails(net, received, 0.5))
    for b, ranks_sent in ((0.49, 2), (0.5, 3), (0.51, 3)):
        train = with_tails(net, received, b)
        for tail, rank in ((0.01, ranks_sent), (0.0, 3)):
            up, _ = methods.hetlora(tail=tail).up(net, train, received, {}, 1)
            for site in net.sites:
                assert torch.equal(up.shared[site.a], train[site.a][:rank])
                assert torch.equal(up.shared[site.b], train[site.b][:, :rank])
    up, _ = methods.hetlora(tail=0.99).up(net, with_tails(net, received, 0.0), received, {}, 1)
    assert {len(up.shared[site.a]) for site in net.sites} == {1}  # at least one rank remains


def test_strong_penalty_leads_to_pruning() -> None:
    """In round 2, when B is not 0, the penalty outweighs the loss, and the last rank is dropped."""
    cell = world("hetlora", "cnn-group")
    state, job = cell.rounds(1), cell.jobs[0]
    ranks_sent = {}
    for penalty in (0.0, 10.0):
        method = methods.hetlora(penalty=penalty)
        down = method.down(cell.net, state, ())
        recipe = cell.recipe._replace(optimizer="sgd", lr=0.001, steps=5)
        sent = train(Session(cell.net, method, state.base, down, cell.data, recipe, 3, 2), job).up.shared
        ranks_sent[penalty] = {len(sent[site.a]) for site in cell.net.sites}
    assert ranks_sent[10.0] == {1} and 2 in ranks_sent[0.0]


def test_round_without_training_keeps_the_factors() -> None:
    (outcome,) = run_rounds(square_net(), methods.hetlora(), 1, MIXED_RANKS, size=0.0)
    assert tree.equal(outcome.after.shared, outcome.before.shared)


def test_values() -> None:
    net, method = square_net(), methods.hetlora()
    for round, rank, down in ((1, 3, 0), (1, 2, 0), (2, 3, 282), (2, 2, 188)):
        counted = method.values(net, round, [()], with_rank(rank))
        assert counted.up == {"dense": 37, "statistics": 0, "factors": 94 * rank}
        assert counted.down == counted.up | {"factors": down}


def test_clients_of_equal_rank_raise_before_training() -> None:
    data = {"x": torch.zeros(2, 4, 3, 3), "y": torch.zeros(2, dtype=torch.int64)}
    dataset = Dataset("zeros", data, data, ("a", "b", "c"))
    rows = (torch.tensor([0]), torch.tensor([1]))
    plan = Plan(square_net(), methods.hetlora(), dataset, Partition("one", 0, rows, (), {}), rounds=1, cohort=2)
    for profiles in ((), ((), ())):
        with pytest.raises(ConfigError, match=r"hetlora requires clients of different ranks.*or use 'fedlora'"):
            check(plan.replace(profiles=profiles))
    check(plan.replace(profiles=((), with_rank(1))))


def test_invalid_settings_raise() -> None:
    for tail in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="tail is"):
            methods.hetlora(tail=tail)
    for penalty in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="penalty is"):
            methods.hetlora(penalty=penalty)
    with pytest.raises(ConfigError, match="hetlora has its own weights"):
        methods.server_opt(methods.hetlora())
