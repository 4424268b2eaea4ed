"""A method that uses all features of a method: ``begin``, ``expand``, ``penalty``, client states and ``aux``."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from fedloru import methods, tree
from fedloru.method import Down, Method, Profile, State, Total, Up
from fedloru.net import Net
from fedloru.tree import Params
from tests.engine.cohort import RECIPE, Cohort, built, close, jobs, near, vectors

GATE = "gate"


def gated_fedlora(*, penalized: bool = True) -> Method:
    """Return FedLoRA with a gate on B in each client's state, and the clients' mean B in ``aux``.

    The forward pass uses factors of twice the rank: [g·B, B/2] and [A; -A]. The penalty keeps the gate near the one in
    the client state, adds a linear term for every trained entry, and depends on ``aux``.
    """
    inner = methods.fedlora()

    def init(net: Net, seed: int) -> State:
        state = inner.init(net, seed)
        return state._replace(aux={key: torch.ones_like(state.shared[key]) for key in _bs(net)})

    def down(net: Net, state: State, profile: Profile) -> Down:
        return Down(state.shared, state.aux)

    def begin(net: Net, down: Down, own_state: Params, profile: Profile) -> Params:
        one = next(iter(down.shared.values())).new_ones(2)
        return down.shared | {GATE: own_state.get(GATE, one)}

    def expand(net: Net, train: Params, down: Down) -> Params:
        wide = tree.omit(train, [GATE])
        for site in net.sites:
            a, b = train[site.a], train[site.b]
            wide |= {site.a: torch.cat([a, -a]), site.b: torch.cat([train[GATE][0] * b, b / 2], 1)}
        return wide

    def penalty(net: Net, train: Params, down: Down, own_state: Params) -> Tensor:
        """Add terms of all kinds; the gradient of the linear one is an expanded scalar, and it reads statistics."""
        previous = own_state.get(GATE, torch.zeros_like(train[GATE]))
        term = 0.3 * (train[GATE] - previous).square().sum() + 0.01 * train[GATE].sum()
        for key, value in train.items():
            term = term + (0.01 * value.sum() if key not in net.statistics else 0.0 * value.sum())
        return term + sum(0.05 * (train[key] * down.aux[key]).sum() for key in down.aux)

    def up(net: Net, train: Params, down: Down, own_state: Params, steps: int) -> tuple[Up, Params]:
        kept = {GATE: train[GATE], "steps": own_state.get("steps", torch.zeros((), dtype=torch.int64)) + steps}
        return Up(tree.omit(train, [GATE]), {key: train[key] / steps for key in _bs(net)}), kept

    def server(net: Net, state: State, total: Total) -> State:
        return inner.server(net, state._replace(aux=tree.scale(total.sum.aux, 1 / total.weight)), total)

    changed = {"init": init, "down": down, "begin": begin, "expand": expand, "up": up, "server": server}
    return inner._replace(**changed, penalty=penalty if penalized else None)


def _bs(net: Net) -> list[str]:
    return [site.b for site in net.sites]


def model() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)),
        nn.Conv2d(1, 4, 2),
        nn.BatchNorm2d(4),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


COHORTS: Sequence[Sequence[int]] = ((0, 2), (1, 2), (0, 1, 2, 3), (3, 0), (0, 1, 2, 3))
"""Clients that have a state are trained with others that have none yet."""


def run_rounds(method: Method, engine: str, **settings: object) -> tuple[State, dict[int, Params]]:
    cohort = Cohort(built(model, rank=2, alpha=3.0), method, vectors(), RECIPE)
    state, own_state = method.init(cohort.net, 3), {}
    for clients in COHORTS:
        outcome = cohort.train(state, engine, jobs(own_state, clients), **settings)
        state, own_state = method.server(cohort.net, state, outcome.total), own_state | outcome.client_state
    return state, own_state


@pytest.mark.parametrize("penalized", [True, False])
@pytest.mark.parametrize("chunk", [1, 2, 4])
@pytest.mark.parametrize("path", ["activation", "weight"])
def test_engines_agree_on_a_method_that_uses_all_features(penalized: bool, chunk: int, path: str) -> None:
    reference, kept = run_rounds(gated_fedlora(penalized=penalized), "sequential")
    state, own_state = run_rounds(gated_fedlora(penalized=penalized), "fused", chunk=chunk, path=path)
    assert close(reference, state)
    assert own_state.keys() == kept.keys() == {0, 1, 2, 3}
    for client, tensors in own_state.items():
        assert near({GATE: tensors[GATE]}, {GATE: kept[client][GATE]})
        assert int(tensors["steps"]) == int(kept[client]["steps"])
    gates = torch.stack([each[GATE][0] for each in kept.values()])
    assert gates.unique().numel() == 4  # every client has its own_state


def test_client_states_do_not_keep_the_chunk_in_memory() -> None:
    for engine in ("sequential", "fused"):
        _, own_state = run_rounds(gated_fedlora(), engine)
        for value in (tensor for kept in own_state.values() for tensor in kept.values()):
            assert value.untyped_storage().nbytes() == value.nbytes and not value.requires_grad


def test_a_client_starts_from_its_own_state_only() -> None:
    """With a learning rate of 0, every client keeps its initial gate: 1 without a state, whatever the chunk."""
    cohort = Cohort(built(model, rank=2, alpha=3.0), gated_fedlora(), vectors(), RECIPE._replace(lr=0.0))
    kept = {2: {GATE: torch.tensor([7.0, 8.0], dtype=torch.float64)}}
    for engine in ("sequential", "fused"):
        own_state = cohort.train(cohort.method.init(cohort.net, 3), engine, jobs(kept)).client_state
        assert {client: each[GATE].tolist() for client, each in own_state.items()} == {
            0: [1, 1], 1: [1, 1], 2: [7, 8], 3: [1, 1]
        }  # fmt: skip
