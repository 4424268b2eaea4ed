"""RoLoRA: clients train and send one half per round, and receive both halves."""

from __future__ import annotations

from fedloru import lowrank, methods, tree
from fedloru.method import Values
from fedloru.session import Job
from tests.laws.cases import world
from tests.methods.cohort import SHARES, close, small_net
from tests.methods.oracle import run_round

REST = {"dense": 32, "statistics": 8}


def test_rounds_match_the_equations() -> None:
    net, method = small_net(), methods.rolora()
    state = method.init(net, 3)
    expected = state.shared
    assert close(tree.select(expected, net.factors), lowrank.init_factors(net.sites, 3, 0, net.params))
    for round in range(1, 5):
        halves = {site.b if round % 2 else site.a for site in net.sites}
        state, _, ups = run_round(net, method, state)
        assert all(up.shared.keys() & net.factors == halves for up in ups)
        mean = {key: sum(p * up.shared[key] for p, up in zip(SHARES, ups, strict=True)) for key in ups[0].shared}
        expected = expected | mean
        assert close(state.shared, expected) and (state.round, state.version) == (round, 0)
        assert list(state.shared) == sorted(state.shared)


def test_clients_use_the_frozen_half_of_the_server_after_missed_rounds() -> None:
    """Client 3 trains only in round 4, with weight decay; it receives the B of round 3 and does not change it."""
    cell = world("rolora", "cnn-group")
    state = cell.method.init(cell.net, 3)
    for cohort in ((0, 1), (1, 2), (0, 2), (3,)):
        before = state
        jobs: list[Job] = [cell.jobs[client] for client in cohort]
        state = cell.method.server(cell.net, state, cell.train(state, "fused", jobs=jobs).total)
    for site in cell.net.sites:
        assert tree.equal({"": state.shared[site.b]}, {"": before.shared[site.b]})
        assert not tree.equal({"": state.shared[site.a]}, {"": before.shared[site.a]})


def test_values() -> None:
    """A: 2·18 + 2·16 = 68 values, B: 2·4 + 2·5 = 18."""
    net, method = small_net(), methods.rolora()
    expected = [(0, 18), (86, 68), (86, 18), (86, 68)]
    for round, (down, up) in enumerate(expected, 1):
        assert method.values(net, round, [()], ()) == Values(REST | {"factors": down}, REST | {"factors": up})
