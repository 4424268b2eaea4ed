"""FedSA-LoRA: A is averaged, and every client keeps its own B."""

from __future__ import annotations

import torch

from fedloru import methods, tree
from fedloru.evaluate import shared_model
from fedloru.method import Values
from tests.laws.cases import world
from tests.methods.cohort import SHARES, close, small_net
from tests.methods.oracle import run_round

VALUES = {"factors": 68, "dense": 32, "statistics": 8}  # r·i of the two sites: 2·18 + 2·16


def test_a_is_averaged_and_b_never_leaves_the_client() -> None:
    net, method = small_net(), methods.fedsa()
    private = {site.b for site in net.sites}
    state = method.init(net, 3)
    assert not private & (state.shared.keys() | state.base.keys())
    state, _, ups = run_round(net, method, state)
    assert all(not private & up.shared.keys() for up in ups)
    assert close(
        state.shared, {k: sum(p * u.shared[k] for p, u in zip(SHARES, ups, strict=True)) for k in state.shared}
    )
    assert not any(bool(shared_model(net, method, state)[key].any()) for key in private)


def test_clients_continue_from_the_b_that_they_kept() -> None:
    cell = world("fedsa", "cnn-group")
    private = sorted(site.b for site in cell.net.sites)
    no_training = cell.recipe._replace(lr=0.0)
    for engine in ("sequential", "fused"):
        state = cell.method.init(cell.net, 3)
        outcome = cell.train(state, engine)
        assert all(sorted(client_state) == private for client_state in outcome.client_state.values())
        assert len({tree.digest(client_state) for client_state in outcome.client_state.values()}) == len(cell.jobs)
        later = [job._replace(client_state=outcome.client_state[job.client]) for job in cell.jobs[1:]]
        again = cell.train(state, engine, jobs=[cell.jobs[0], *later], recipe=no_training).client_state
        for client, kept in outcome.client_state.items():
            expected = kept if client else tree.map(torch.zeros_like, kept)  # client 0 lost its state
            assert close(again[client], expected, 1e-12)


def test_values() -> None:
    assert methods.fedsa().values(small_net(), 1, [()], ()) == Values(VALUES, VALUES)
