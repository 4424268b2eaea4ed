"""Diagnostics compared with dense matrices and with explicit pairs."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch

from fedloru import lowrank, methods, tree
from fedloru import net as nets
from fedloru.method import Down, Up
from fedloru.net import Net
from fedloru.run.diagnostics import UpdateStatistics, gap, increment_ranks, overlaps, total_ranks
from fedloru.run.loop import Run
from tests.laws.cases import world
from tests.laws.test_runs import plan

WEIGHTS = [3.0, 1.0, 6.0, 2.0]


def net() -> Net:
    layers = [torch.nn.Conv2d(2, 5, 3), torch.nn.BatchNorm2d(5), torch.nn.Flatten(), torch.nn.Linear(20, 4)]
    return nets.attach(torch.nn.Sequential(*layers).double(), rank=2, alpha=3.0, targets=["*"])


def messages(n: Net) -> tuple[Down, list[Up]]:
    state = methods.fedlora().init(n, 0)
    g = torch.Generator().manual_seed(4)
    ups = [Up({k: v + torch.randn(v.shape, generator=g).to(v) for k, v in state.shared.items()}) for _ in WEIGHTS]
    return Down(state.shared), ups


def statistics(n: Net) -> UpdateStatistics:
    down, ups = messages(n)
    collected = UpdateStatistics(n)
    collected.add(down, ups[:3], WEIGHTS[:3])
    collected.add(down, ups[3:], WEIGHTS[3:])
    return collected


def test_the_gap_is_the_distance_of_two_dense_matrices() -> None:
    n = net()
    _, ups = messages(n)
    shares = [w / sum(WEIGHTS) for w in WEIGHTS]
    for site in n.sites:
        exact = sum(p * lowrank.delta(site, up.shared) for p, up in zip(shares, ups, strict=True))
        mean = tree.weighted_sum([up.shared for up in ups], shares)
        assert statistics(n).gaps()[site.weight] == pytest.approx(float((exact - lowrank.delta(site, mean)).norm()))


def test_identical_clients_have_no_gap_and_agree() -> None:
    n = net()
    down, ups = messages(n)
    collected = UpdateStatistics(n)
    collected.add(down, [ups[0]] * 3, [1.0, 2.0, 3.0])
    assert collected.cosine() == pytest.approx(1.0)
    assert max(collected.gaps().values()) < 1e-6
    assert gap(n.sites[0], [(1.0, ups[0].shared)]) < 1e-6


def test_the_cosine_is_the_mean_over_pairs_without_statistics() -> None:
    n = net()
    down, ups = messages(n)
    changes = [
        torch.cat([(up.shared[k] - down.shared[k]).flatten() for k in sorted(up.shared) if k not in n.buffers])
        for up in ups
    ]
    pairs = [float(torch.nn.functional.cosine_similarity(x, y, dim=0)) for x, y in combinations(changes, 2)]
    assert statistics(n).cosine() == pytest.approx(sum(pairs) / len(pairs))


def test_one_client_has_no_cosine() -> None:
    n = net()
    down, ups = messages(n)
    collected = UpdateStatistics(n)
    collected.add(down, ups[:1], [1.0])
    assert collected.cosine() is None


def test_ranks_of_an_increment_are_those_of_the_dense_product() -> None:
    n = net()
    _, ups = messages(n)
    for site, ranks in zip(n.sites, increment_ranks(n.sites, ups[0].shared).values(), strict=True):
        sigma = torch.linalg.svdvals(lowrank.delta(site, ups[0].shared).flatten(1))[: site.rank]
        p = sigma / sigma.sum()
        assert ranks["stable"] == pytest.approx(float(sigma.square().sum() / sigma[0] ** 2))
        assert ranks["effective"] == pytest.approx(float((-(p * p.log()).sum()).exp()))


def test_total_ranks_grow_from_0_with_merges() -> None:
    n = net()
    _, ups = messages(n)
    state = methods.fedlora().init(n, 0)
    assert all(ranks == {"stable": 0.0, "effective": 0.0} for ranks in total_ranks(n, state, state).values())
    merged = state._replace(base=lowrank.merge(n.sites, state.base, ups[0].shared), shared=state.shared | ups[1].shared)
    for site, ranks in zip(n.sites, total_ranks(n, state, merged).values(), strict=True):
        both = sum(lowrank.delta(site, up.shared).flatten(1) for up in ups[:2])
        sigma = torch.linalg.svdvals(both)
        assert ranks["stable"] == pytest.approx(float(sigma.square().sum() / sigma[0] ** 2), rel=1e-6)
        assert 2 < ranks["effective"] <= 4


def ranks_of(matrix: torch.Tensor, limit: int) -> dict[str, float]:
    sigma = torch.linalg.svdvals(matrix)[:limit]
    p = sigma / sigma.sum()
    return {"stable": float(sigma.square().sum() / sigma[0] ** 2), "effective": float((-(p * p.log()).sum()).exp())}


def test_client_ranks_are_those_of_the_first_clients_update() -> None:
    n = net()
    _, (received, *ups) = messages(n)
    collected = UpdateStatistics(n)
    collected.add(Down(received.shared), ups[:1], WEIGHTS[:1])
    collected.add(Down(received.shared), ups[1:], WEIGHTS[1:3])
    for site in n.sites:
        change = lowrank.delta(site, ups[0].shared) - lowrank.delta(site, received.shared)
        assert collected.client_ranks()[site.weight] == pytest.approx(ranks_of(change.flatten(1), 2 * site.rank))


def test_ranks_if_dense_weights_are_trained() -> None:
    n = net()
    state = methods.fedavg().init(n, 0)
    g = torch.Generator().manual_seed(4)
    moved = {key: value + torch.randn(value.shape, generator=g).to(value) for key, value in state.shared.items()}
    collected = UpdateStatistics(n)
    collected.add(Down(state.shared), [Up(moved)], [1.0])
    total = total_ranks(n, state, state._replace(shared=moved))
    for site in n.sites:
        expected = ranks_of((moved[site.weight] - state.shared[site.weight]).flatten(1), min(site.o, site.i))
        assert collected.client_ranks()[site.weight] == pytest.approx(expected)
        assert total[site.weight] == pytest.approx(expected)


def test_increments_overlap_in_the_spaces_they_share() -> None:
    n = net()
    _, ups = messages(n)
    one, other = ups[0].shared, ups[1].shared
    mixed = {key: one[key] if key in {site.b for site in n.sites} else other[key] for key in n.factors}
    for site in n.sites:
        found = overlaps(n, one, mixed)[site.weight]
        assert found["overlap_columns"] == pytest.approx(1)
        x, y = (torch.linalg.qr(factors[site.a].flatten(1).T).Q for factors in (one, other))
        chance = site.rank / site.i
        assert found["overlap_rows"] == pytest.approx(
            (float((x.T @ y).norm()) ** 2 / site.rank - chance) / (1 - chance)
        )


def test_increments_of_full_rank_have_no_overlap() -> None:
    n = nets.attach(torch.nn.Linear(6, 2).double(), rank=2)
    g = torch.Generator().manual_seed(1)
    drawn = [{key: torch.randn(n.params[key].shape, generator=g) for key in n.factors} for _ in range(2)]
    assert overlaps(n, *drawn)["weight"].keys() == {"overlap_rows"}


@pytest.mark.parametrize("method", ["fedavg", "fedloru", "fedloru-paper", "fedloru-exact", "pfedloru", "mfedloru"])
def test_a_run_records_diagnostics_and_they_do_not_change_training(method: str) -> None:
    cell = world(method, "cnn-batch", torch.float32)
    noted, plain = Run(plan(cell, diagnostics_every=1)), Run(plan(cell, diagnostics=False))
    rows, bare = list(noted), list(plain)
    assert tree.equal(noted.state.shared, plain.state.shared)
    assert all(row["sites"] == {} and "update_cosine" not in row["diagnostics"] for row in bare)
    cosines = [row["diagnostics"]["update_cosine"] for row in rows if "update_cosine" in row["diagnostics"]]
    assert all(-1 <= cosine <= 1 for cosine in cosines)
    assert len(cosines) == (0 if method == "mfedloru" else len(rows))  # updates of different ranks have no cosine
    for row in rows:
        merge = "loss_before_merge" in row["diagnostics"]
        assert merge == row["merged"]
    if method == "fedloru":  # the fixed factor is that of the previous increment, and averages are exact
        for row in rows:
            site = row["sites"]["conv2.weight"]
            assert site["aggregation_gap"] == pytest.approx(0, abs=1e-9)
            assert site["effective_rank_increment"] > 1 and site["effective_rank_client"] > 1
            assert "overlap_columns" not in site
    if method in ("fedloru-paper", "pfedloru"):
        merges = [row["diagnostics"] for row in rows if row["merged"]]
        assert all(m["loss_after_merge"] == pytest.approx(m["loss_before_merge"], abs=1e-5) for m in merges)
        first, second = (row["sites"]["conv2.weight"] for row in rows if row["merged"] and row["version"] < 3)
        known = {f"{kind}_rank_{of}" for kind in ("stable", "effective") for of in ("increment", "total", "client")}
        assert known <= first.keys() and second.keys() - first.keys() == {"overlap_columns", "overlap_rows"}
        assert all(-1 < second[name] <= 1 for name in ("overlap_columns", "overlap_rows"))


def test_compressed_factors_have_no_gap_and_no_ranks() -> None:
    n = net()
    down, ups = messages(n)
    sparse = [Up(up.shared | {key: up.shared[key].flatten()[:3] for key in n.factors}) for up in ups]
    collected = UpdateStatistics(n)
    collected.add(down, sparse, [1.0] * len(sparse))
    assert collected.gaps() == {} and collected.client_ranks() == {}


@pytest.mark.parametrize("clients", [2, 30])
def test_the_gap_equals_the_dense_distance_from_gram_matrices_and_from_the_product(clients: int) -> None:
    """With 2 clients of rank 1 the Gram matrices are smaller, with 30 the product."""
    n = nets.attach(torch.nn.Linear(20, 10).double(), rank=1)
    site, g = n.sites[0], torch.Generator().manual_seed(2)
    parts = [(1 / clients, {k: torch.randn(n.params[k].shape, generator=g) for k in site.keys}) for _ in range(clients)]
    exact = sum(p * lowrank.delta(site, f).double() for p, f in parts)
    mean = tree.weighted_sum([f for _, f in parts], [p for p, _ in parts])
    assert gap(site, parts) == pytest.approx(float((exact - lowrank.delta(site, mean).double()).norm()), rel=1e-5)


def test_an_unmerged_total_has_the_ranks_of_the_dense_difference() -> None:
    n = net()
    _, (up, *_) = messages(n)
    first = methods.fedlora().init(n, 0)
    for site, found in zip(n.sites, total_ranks(n, first, first._replace(shared=up.shared)).values(), strict=True):
        assert found == pytest.approx(ranks_of(lowrank.delta(site, up.shared).flatten(1), site.rank))


def test_clients_without_an_update_and_of_other_shapes_are_told_apart() -> None:
    n = net()
    down, (one, other, *_) = messages(n)
    collected = UpdateStatistics(n)
    collected.add(down, [Up(down.shared), one, Up(down.shared), other], [1.0] * 4)
    alone = UpdateStatistics(n)
    alone.add(down, [one, other], [1.0] * 2)
    assert collected.clients == 2 and collected.cosine() == pytest.approx(alone.cosine())
