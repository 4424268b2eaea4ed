"""HetLoRA against weighted sums of padded factors, written out."""

from __future__ import annotations

import pytest
import torch

from fedloru import methods, tree
from fedloru.data import Dataset, Partition
from fedloru.engine.plan import Plan, check
from fedloru.errors import ConfigError
from fedloru.method import Profile
from fedloru.methods.ranks import rank_of, with_rank
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


def test_pruning_drops_the_last_ranks_that_are_small() -> None:
    net = square()
    down = methods.hetlora().down(net, methods.hetlora().init(net, 3), ())
    train = dict(down.shared)
    for site in net.sites:  # shares of the three ranks: 1/1.3, 0.1/1.3, 0.2/1.3 and so on
        train[site.a] = torch.ones_like(train[site.a])
        size = torch.tensor([1.0, 0.1, 0.2]).double().view(1, 3, *(1 for _ in site.shape[2:]))
        train[site.b] = torch.ones_like(train[site.b]) * size
    for prune, left in ((0.0, 3), (0.15, 3), (0.16, 1), (0.9, 1)):
        up, _ = methods.hetlora(prune=prune).up(net, train, down, {}, 1)
        assert {up.shared[site.a].shape[0] for site in net.sites} == {left}
        assert {up.shared[site.b].shape[1] for site in net.sites} == {left}
    joined = play(net, methods.hetlora(prune=0.4), 2, RANKED)[1]
    assert joined.after.shared[net.sites[0].a].shape[0] == 3


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
    for prune in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError, match="prune is"):
            methods.hetlora(prune=prune)
    with pytest.raises(ConfigError, match="hetlora weighs clients in its own way"):
        methods.server_opt(methods.hetlora())
