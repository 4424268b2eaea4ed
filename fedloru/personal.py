"""Per-client evaluation: the shared model and each personal model on the client's own test examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fedloru.data import Examples
from fedloru.evaluate import Score, evaluate, naming_examples, shared_model
from fedloru.inference import merged
from fedloru.method import Method, Profile, State
from fedloru.metrics import Metric
from fedloru.net import Net, constants
from fedloru.tree import Params


class Spread(NamedTuple):
    """Accuracies over clients: mean, standard deviation, and the mean of the worst tenth (at least one client).

    Without classes, such as in a regression, there are none. ``loss`` is the mean over clients of their mean losses per
    unit, and ``worst_loss`` that of the tenth of the clients with the largest.
    """

    mean: float | None
    std: float | None
    bottom_decile: float | None
    clients: int
    loss: float
    worst_loss: float


def personal_model(net: Net, method: Method, state: State, client_state: Params, profile: Profile) -> Params:
    """Return the forward tensors with which a client with ``client_state`` would start the next round."""
    down = method.down(net, state, profile)
    start = method.begin(net, down, client_state, profile)
    return constants(net, state.base) | (start if method.expand is None else method.expand(net, start, down))


Scores = dict[str, list[Score]]
"""The scores of clients, one per client, with the ``shared`` model and with the ``personal`` ones."""


def personal_scores(
    net: Net,
    method: Method,
    state: State,
    data: Examples,
    tests: Sequence[tuple[int, Tensor, Profile]],
    client_state: Callable[[int], Params],
    metrics: Mapping[str, Metric] | None = None,
) -> Scores:
    """Score clients, given as (client, test rows, profile): the ``shared`` model, and the ``personal`` ones if any.

    A client without state is scored with the shared model in both. If no client has any state, ``personal`` is omitted.
    ``metrics`` are further metrics by name.
    """
    examples = sum(len(rows) for _, rows, _ in tests)
    with naming_examples("training", data, tests[0][1][:1]):
        shared = merged(net, shared_model(net, method, state), data, examples)
    states = {client: client_state(client) for client, _, _ in tests}
    scores: Scores = {"shared": [], "personal": []}
    for client, rows, profile in tests:
        batch = {key: value[rows.to(value.device)] for key, value in data.items()}
        score = evaluate(net, shared, batch, metrics=metrics)
        scores["shared"].append(score)
        if states[client]:
            score = evaluate(net, personal_model(net, method, state, states[client], profile), batch, metrics=metrics)
        scores["personal"].append(score)
    if not any(states.values()):
        del scores["personal"]
    return scores


def entries(scores: Scores) -> Iterator[dict[str, Any]]:
    """Yield what a row records of each client: its scores by model, and on how many units they are."""
    for place, shared in enumerate(scores["shared"]):
        yield {"units": shared.units, **{model: digits(values[place].numbers) for model, values in scores.items()}}


def digits(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return numbers with six significant digits, which are enough to show, and shorter in JSON."""
    return {name: float(f"{value:.6g}") for name, value in numbers.items()}


def spreads(scores: Scores) -> dict[str, dict[str, float]]:
    """Return the spread of each kind of score, as a table."""
    found = {name: spread(values)._asdict() for name, values in scores.items()}
    return {name: {key: value for key, value in one.items() if value is not None} for name, one in found.items()}


def spread(scores: Sequence[Score]) -> Spread:
    """Return the spread of ``scores``, one per client."""
    count, worst = len(scores), max(1, math.floor(len(scores) / 10))
    losses = sorted((score.loss for score in scores), reverse=True)
    loss, worst_loss = sum(score.loss for score in scores) / count, sum(losses[:worst]) / worst
    accuracies = sorted(score.accuracy for score in scores if score.accuracy is not None)
    if len(accuracies) < count:
        return Spread(None, None, None, count, loss, worst_loss)
    values = torch.tensor(accuracies, dtype=torch.float64)
    bottom = float(values[:worst].mean())
    return Spread(float(values.mean()), float(values.std(correction=0)), bottom, count, loss, worst_loss)
