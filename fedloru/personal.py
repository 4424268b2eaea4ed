"""Evaluation client by client: the shared model and each personal model on the client's own test examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedloru.data import Examples
from fedloru.evaluate import Score, evaluate, shared_model
from fedloru.method import Method, Profile, State
from fedloru.net import Net, constants
from fedloru.tree import Params


class Spread(NamedTuple):
    """Accuracies over clients: mean, standard deviation, and the mean of the worst tenth (one client at least).

    ``loss`` is the mean over clients of their mean losses, in nats a unit.
    """

    mean: float
    std: float
    bottom_decile: float
    clients: int
    loss: float


def personal_model(net: Net, method: Method, state: State, client_state: Params, profile: Profile) -> Params:
    """Return the forward tensors with which a client that keeps ``client_state`` would begin the next round."""
    down = method.down(net, state, profile)
    begun = method.begin(net, down, client_state, profile)
    return constants(net, state.base) | (begun if method.expand is None else method.expand(net, begun, down))


def personal_scores(
    net: Net,
    method: Method,
    state: State,
    data: Examples,
    tests: Sequence[tuple[int, Tensor, Profile]],
    client_state: Callable[[int], Params],
) -> dict[str, Spread]:
    """Score clients (client, test rows, profile) under ``shared``, and where they keep anything, ``personal``.

    A client that has kept nothing yet has the shared model for its personal one.
    """
    shared = shared_model(net, method, state)
    kept = {client: client_state(client) for client, _, _ in tests}
    scores: dict[str, list[Score]] = {"shared": [], "personal": []}
    for client, rows, profile in tests:
        batch = {key: value[rows.to(value.device)] for key, value in data.items()}
        common = evaluate(net, shared, batch)
        scores["shared"].append(common)
        if kept[client]:
            mine = personal_model(net, method, state, kept[client], profile)
            common = evaluate(net, mine, batch)
        scores["personal"].append(common)
    if not any(kept.values()):
        del scores["personal"]
    return {name: spread(values) for name, values in scores.items()}


def spread(scores: Sequence[Score]) -> Spread:
    """Return the spread of ``scores``, one a client."""
    values = torch.tensor(sorted(score.accuracy for score in scores), dtype=torch.float64)
    worst = values[: max(1, math.floor(len(values) / 10))]
    loss = sum(score.loss for score in scores) / len(scores)
    return Spread(float(values.mean()), float(values.std(correction=0)), float(worst.mean()), len(values), loss)
