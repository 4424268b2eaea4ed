"""HetLoRA against weighted sums of padded factors, written out."""

from __future__ import annotations

import pytest
import torch

from fedloru import methods, tree
from fedloru.client import Session, train
from fedloru.data import Dataset, Partition
from fedloru.errors import ConfigError
from fedloru.method import Down, Profile
from fedloru.methods.ranks import rank_of, with_rank
from fedloru.net import Net
from fedloru.run.plan import Plan, check
from tests.laws.cases import world
from tests.methods.ranked import RANKED, SAME, SHARES, dense, play, same, square


@pytest.mark.parametrize("profiles", [RANKED, SAME])
def test_factors_are_padded_and_weighted_by_their_product(profiles: tuple[Profile, ...]) -> None:
    net, method = square(), methods.hetlora()
    for played in play(net, method, 3, profiles):
        for site in net.sites:
            norms = [torch.linalg.matrix_norm(dense(site, up.shared)) for up in played.ups]
            a, b = torch.zeros(site.rank, site.i).double(), torch.zeros(site.o, site.rank).double()
            for norm, up in zip(norms, played.ups, strict=True):
                rank = up.shared[site.a].shape[0]
                a[:rank] += norm / sum(norms) * up.shared[site.a].reshape(rank, site.i)
                b[:, :rank] += norm / sum(norms) * up.shared[site.b].reshape(site.o, rank)
            assert same(played.after.shared[site.a].flatten(1), a)
            assert same(played.after.shared[site.b].flatten(1), b)
        theta = sum(p * up.shared["4.weight"] for p, up in zip(SHARES, played.ups, strict=True))
        assert same(played.after.shared["4.weight"], theta)


def test_a_client_receives_the_first_ranks() -> None:
    net, method = square(), methods.hetlora()
    played = play(net, method, 2, RANKED)[1]
    for profile, down in zip(RANKED, played.downs, strict=True):
        for site in net.sites:
            rank = rank_of(site, profile)
            assert torch.equal(down.shared[site.a], played.before.shared[site.a][:rank])
            assert torch.equal(down.shared[site.b], played.before.shared[site.b][:, :rank])


def with_tails(net: Net, down: Down, b: float) -> tree.Params:
    """Return factors of ones, with ``b`` in place of the ones in the last column of B."""
    train = dict(down.shared)
    for site in net.sites:
        train[site.a], train[site.b] = torch.ones_like(train[site.a]), torch.ones_like(train[site.b])
        train[site.b][:, -1] = b
    return train


@pytest.mark.parametrize(("tail", "last"), [(0.01, 1), (0.34, 2), (0.9, 2)])
def test_the_penalty_is_the_norm_of_the_tails_and_has_its_gradient(tail: float, last: int) -> None:
    """With t = ‖B^tail‖‖A^tail‖: ∂t/∂B^tail = ‖A^tail‖ B^tail/‖B^tail‖, and the same for A; 0 before the tail."""
    net, method = square(), methods.hetlora(tail=tail, penalty=0.7)
    played = play(net, method, 2, SAME)[1]
    train = {key: value.clone().requires_grad_() for key, value in played.downs[0].shared.items()}
    assert method.penalty is not None
    term = method.penalty(net, train, played.downs[0], {})
    term.backward()
    expected = 0.0
    for site in net.sites:
        a, b = train[site.a].detach().flatten(1), train[site.b].detach().flatten(1)
        grad_a, grad_b = torch.zeros_like(a), torch.zeros_like(b)
        norm_a, norm_b = a[-last:].norm(), b[:, -last:].norm()
        grad_a[-last:] = 0.7 * norm_b / norm_a * a[-last:]
        grad_b[:, -last:] = 0.7 * norm_a / norm_b * b[:, -last:]
        assert same(train[site.a].grad.flatten(1), grad_a) and same(train[site.b].grad.flatten(1), grad_b)
        expected += 0.7 * float(norm_a * norm_b)
    assert float(term.detach()) == pytest.approx(expected)
    assert all(train[key].grad is None for key in train.keys() - net.factors)


def test_a_tail_of_zeros_has_no_gradient() -> None:
    net, method = square(), methods.hetlora()
    down = method.down(net, method.init(net, 3), ())
    train = {key: value.clone().requires_grad_() for key, value in down.shared.items()}
    assert method.penalty is not None
    method.penalty(net, train, down, {}).backward()
    assert not any(train[key].grad.any() for key in net.factors)  # B = 0 at first


def test_tails_that_training_made_smaller_are_pruned() -> None:
    net, method = square(), methods.hetlora()
    received = method.down(net, method.init(net, 3), ())
    received = received._replace(shared=with_tails(net, received, 0.5))
    for b, left in ((0.49, 2), (0.5, 3), (0.51, 3)):
        train = with_tails(net, received, b)
        for tail, rank in ((0.01, left), (0.0, 3)):
            up, _ = methods.hetlora(tail=tail).up(net, train, received, {}, 1)
            for site in net.sites:
                assert torch.equal(up.shared[site.a], train[site.a][:rank])
                assert torch.equal(up.shared[site.b], train[site.b][:, :rank])
    up, _ = methods.hetlora(tail=0.99).up(net, with_tails(net, received, 0.0), received, {}, 1)
    assert {len(up.shared[site.a]) for site in net.sites} == {1}  # one rank is always left


def test_a_strong_penalty_shrinks_the_tail_and_the_client_sends_less() -> None:
    """From a second round on, where B is not 0: the penalty outweighs the loss, and the last rank is dropped."""
    cell = world("hetlora", "cnn-group")
    state, job = cell.rounds(1), cell.jobs[0]
    left = {}
    for penalty in (0.0, 10.0):
        method = methods.hetlora(penalty=penalty)
        down = method.down(cell.net, state, ())
        recipe = cell.recipe._replace(optimizer="sgd", lr=0.001, steps=5)
        sent = train(Session(cell.net, method, state.base, down, cell.data, recipe, 3, 2), job).up.shared
        left[penalty] = {len(sent[site.a]) for site in cell.net.sites}
    assert left[10.0] == {1} and 2 in left[0.0]


def test_nothing_trained_keeps_the_factors() -> None:
    (played,) = play(square(), methods.hetlora(), 1, RANKED, size=0.0)
    assert tree.equal(played.after.shared, played.before.shared)


def test_values_by_hand() -> None:
    net, method = square(), methods.hetlora()
    for round, rank, down in ((1, 3, 0), (1, 2, 0), (2, 3, 282), (2, 2, 188)):
        counted = method.values(net, round, [()], with_rank(rank))
        assert counted.up == {"dense": 37, "statistics": 0, "factors": 94 * rank}
        assert counted.down == counted.up | {"factors": down}


def test_clients_of_one_rank_are_refused_before_training() -> None:
    data = {"x": torch.zeros(2, 4, 3, 3), "y": torch.zeros(2, dtype=torch.int64)}
    dataset = Dataset("zeros", data, data, ("a", "b", "c"))
    rows = (torch.tensor([0]), torch.tensor([1]))
    plan = Plan(square(), methods.hetlora(), dataset, Partition("one", 0, rows, (), {}), 1, 2)
    for profiles in ((), ((), ())):
        with pytest.raises(ConfigError, match=r"hetlora is made for clients of different rank.*or use 'fedlora'"):
            check(plan._replace(profiles=profiles))
    check(plan._replace(profiles=((), with_rank(1))))


def test_bad_settings_are_refused() -> None:
    for tail in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="tail is"):
            methods.hetlora(tail=tail)
    for penalty in (-0.1, float("inf"), float("nan")):
        with pytest.raises(ConfigError, match="penalty is"):
            methods.hetlora(penalty=penalty)
    with pytest.raises(ConfigError, match="hetlora weighs clients in its own way"):
        methods.server_opt(methods.hetlora())
