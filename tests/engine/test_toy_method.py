"""A method that uses everything a method may: ``begin``, ``expand``, ``penalty``, ``own`` and ``aux``."""

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


def gated(*, penalised: bool = True) -> Method:
    """Return FedLoRA whose clients each keep a gate on B, and know what the others' mean B was.

    The forward pass sees factors of twice the rank: [g·B, B/2] and [A; -A]. The penalty holds the gate near the one
    that the client kept, pushes every trained entry, and pulls towards ``aux``.
    """
    inner = methods.fedlora()

    def init(net: Net, seed: int) -> State:
        state = inner.init(net, seed)
        return state._replace(aux={key: torch.ones_like(state.shared[key]) for key in _bs(net)})

    def down(net: Net, state: State, profile: Profile) -> Down:
        return Down(state.shared, state.aux)

    def begin(net: Net, down: Down, own: Params, profile: Profile) -> Params:
        one = next(iter(down.shared.values())).new_ones(2)
        return down.shared | {GATE: own.get(GATE, one)}

    def expand(net: Net, train: Params, down: Down) -> Params:
        wide = tree.omit(train, [GATE])
        for site in net.sites:
            a, b = train[site.a], train[site.b]
            wide |= {site.a: torch.cat([a, -a]), site.b: torch.cat([train[GATE][0] * b, b / 2], 1)}
        return wide

    def penalty(net: Net, train: Params, down: Down, own: Params) -> Tensor:
        """Add a term of every kind; its linear one has an expanded gradient, and it sees statistics."""
        kept = own.get(GATE, torch.zeros_like(train[GATE]))
        term = 0.3 * (train[GATE] - kept).square().sum() + 0.01 * train[GATE].sum()
        for key, value in train.items():
            term = term + (0.01 * value.sum() if key not in net.statistics else 0.0 * value.sum())
        return term + sum(0.05 * (train[key] * down.aux[key]).sum() for key in down.aux)

    def up(net: Net, train: Params, down: Down, own: Params, steps: int) -> tuple[Up, Params]:
        kept = {GATE: train[GATE], "steps": own.get("steps", torch.zeros((), dtype=torch.int64)) + steps}
        return Up(tree.omit(train, [GATE]), {key: train[key] / steps for key in _bs(net)}), kept

    def server(net: Net, state: State, total: Total) -> State:
        return inner.server(net, state._replace(aux=tree.scale(total.sum.aux, 1 / total.weight)), total)

    changed = {"init": init, "down": down, "begin": begin, "expand": expand, "up": up, "server": server}
    return inner._replace(**changed, penalty=penalty if penalised else None)


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
"""Clients that kept something last time train beside others that have nothing yet."""


def play(method: Method, engine: str, **settings: object) -> tuple[State, dict[int, Params]]:
    cohort = Cohort(built(model, rank=2, alpha=3.0), method, vectors(), RECIPE)
    state, own = method.init(cohort.net, 3), {}
    for clients in COHORTS:
        outcome = cohort.train(state, engine, jobs(own, clients), **settings)
        state, own = method.server(cohort.net, state, outcome.total), own | outcome.client_state
    return state, own


@pytest.mark.parametrize("penalised", [True, False])
@pytest.mark.parametrize("chunk", [1, 2, 4])
@pytest.mark.parametrize("path", ["activation", "weight"])
def test_engines_agree_on_a_method_that_uses_everything(penalised: bool, chunk: int, path: str) -> None:
    oracle, kept = play(gated(penalised=penalised), "sequential")
    state, own = play(gated(penalised=penalised), "fused", chunk=chunk, path=path)
    assert close(oracle, state)
    assert own.keys() == kept.keys() == {0, 1, 2, 3}
    for client, mine in own.items():
        assert near({GATE: mine[GATE]}, {GATE: kept[client][GATE]})
        assert int(mine["steps"]) == int(kept[client]["steps"])
    gates = torch.stack([each[GATE][0] for each in kept.values()])
    assert gates.unique().numel() == 4  # they are the clients' own


def test_what_a_client_keeps_does_not_hold_the_chunk_in_memory() -> None:
    for engine in ("sequential", "fused"):
        _, own = play(gated(), engine)
        for value in (tensor for kept in own.values() for tensor in kept.values()):
            assert value.untyped_storage().nbytes() == value.nbytes and not value.requires_grad


def test_a_client_starts_from_what_it_kept_and_from_nothing_else() -> None:
    """With a learning rate of 0 everybody ends where it began: a newcomer at 1, whoever else is in the chunk."""
    cohort = Cohort(built(model, rank=2, alpha=3.0), gated(), vectors(), RECIPE._replace(lr=0.0))
    kept = {2: {GATE: torch.tensor([7.0, 8.0], dtype=torch.float64)}}
    for engine in ("sequential", "fused"):
        own = cohort.train(cohort.method.init(cohort.net, 3), engine, jobs(kept)).client_state
        assert {client: each[GATE].tolist() for client, each in own.items()} == {
            0: [1, 1], 1: [1, 1], 2: [7, 8], 3: [1, 1]
        }  # fmt: skip
