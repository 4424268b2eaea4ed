"""SCAFFOLD against a NumPy implementation of the algorithm, on least squares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedloru import methods, tree
from fedloru import net as nets
from fedloru.engine import Task, choose
from fedloru.errors import ConfigError
from fedloru.method import Method, State
from fedloru.methods.ranks import with_rank
from fedloru.methods.wrappers.variates import VERSION, C
from fedloru.net import Batch, Net
from fedloru.recipe import Recipe
from fedloru.session import Job
from fedloru.wire import Channel
from tests.methods.cohort import close, small_net

Array = np.ndarray[Any, Any]
LR, STEPS = 0.05, 3
SIZES = (4, 7, 2, 5)
STARTS = (0, 4, 11, 13)
RECIPE = Recipe(lr=LR, momentum=0, clip=None, batch_size=16, steps=STEPS)  # every step uses all examples of a client


def squared_error(outputs: Tensor, batch: Batch) -> Tensor:
    return (outputs[:, 0] - batch["y"]).square()


def data() -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(2)
    x = torch.randn(sum(SIZES), 3, generator=g, dtype=torch.float64)
    return {"x": x, "y": x.sum(1) + torch.randn(sum(SIZES), generator=g, dtype=torch.float64)}


def least_squares() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return nets.make(nn.Linear(3, 1, bias=False).double(), losses=squared_error)


def engine_rounds(
    net: Net, method: Method, cohorts: Sequence[Sequence[int]], engine: str
) -> list[tuple[State, dict[int, tree.Params]]]:
    state, client_states, history = method.init(net, 3), {}, []
    for cohort in cohorts:
        jobs = [Job(k, torch.arange(STARTS[k], STARTS[k] + SIZES[k]), client_states.get(k, {})) for k in cohort]
        chosen = choose(engine, net, method, state, data(), RECIPE)
        channel = Channel(net, method.name, "run", "exact")
        outcome = chosen.run(Task(state, jobs, RECIPE, 3, channel))
        state, client_states = method.server(net, state, outcome.total), client_states | outcome.client_state
        history.append((state, client_states))
    return history


def reference_rounds(
    x: Array, cohorts: Sequence[Sequence[int]], clients: int
) -> list[tuple[Array, Array, dict[int, Array]]]:
    """Return x, c and all c_k after every round of algorithm 1, option II, with averages weighted by examples."""
    examples = {key: value.numpy() for key, value in data().items()}
    c, kept = np.zeros_like(x), {k: np.zeros_like(x) for k in range(clients)}
    history = []
    for cohort in cohorts:
        ends, changes = {}, []
        for k in cohort:
            rows = slice(STARTS[k], STARTS[k] + SIZES[k])
            inputs, targets, y = examples["x"][rows], examples["y"][rows], x.copy()
            for _ in range(STEPS):
                gradient = 2 * ((inputs @ y[0] - targets) @ inputs) / SIZES[k]
                y = y - LR * (gradient[None] - kept[k] + c)
            new = kept[k] - c + (x - y) / (STEPS * LR)
            changes.append(new - kept[k])
            ends[k], kept[k] = y, new
        total = sum(SIZES[k] for k in cohort)
        x = sum(SIZES[k] / total * y for k, y in ends.items())
        c = c + len(cohort) / clients * np.mean(changes, axis=0)
        history.append((x, c, dict(kept)))
    return history


@pytest.mark.parametrize("engine", ["sequential", "fused"])
@pytest.mark.parametrize(
    "cohorts", [[(0, 1, 2, 3)] * 5, [(0, 1), (1, 3), (2,), (0, 3), (1, 2)]], ids=["all", "partial"]
)
def test_rounds_match_the_algorithm(engine: str, cohorts: Sequence[Sequence[int]]) -> None:
    net = least_squares()
    method = methods.scaffold(methods.fedavg(), lr=LR, clients=4)
    expected = reference_rounds(net.params["weight"].numpy(), cohorts, 4)
    for (state, client_states), (x, c, kept) in zip(engine_rounds(net, method, cohorts, engine), expected, strict=True):
        np.testing.assert_allclose(state.shared["weight"].numpy(), x, rtol=0, atol=1e-12)
        np.testing.assert_allclose(state.aux[C + "weight"].numpy(), c, rtol=0, atol=1e-12)
        for k, client_state in client_states.items():
            np.testing.assert_allclose(client_state[C + "weight"].numpy(), kept[k], rtol=0, atol=1e-12)
        np.testing.assert_allclose(c, np.mean(list(kept.values()), axis=0), atol=1e-12)  # c is the mean of all c_k


@pytest.mark.parametrize(
    "inner", [methods.fedlora(), methods.rolora(), methods.fedloru(recipe="paper", tau=3)], ids=lambda m: m.name
)
def test_c_is_the_mean_of_the_current_client_variates(inner: Method) -> None:
    """The variates of factors are 0 on a client that has not taken part since the last merge."""
    net = nets.attach(
        nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).double(), rank=1, targets=("0",), losses=squared_error
    )
    method = methods.scaffold(inner, lr=LR, clients=4)
    cohorts = [(0, 1, 2, 3), (0, 2), (1, 2, 3), (0, 3), (1,), (0, 1, 2, 3)]
    merged = 0
    for state, client_states in engine_rounds(net, method, cohorts, "sequential"):
        for key in state.shared:
            current = [
                k
                for k, client_state in client_states.items()
                if key not in net.factors or int(client_state[VERSION]) == state.version
            ]
            sent = [client_states[k][C + key] for k in current if C + key in client_states[k]]
            mean = sum(sent, torch.zeros_like(state.shared[key])) / 4
            assert torch.allclose(state.aux[C + key], mean, rtol=0, atol=1e-12)
        if state.version > merged:
            merged = state.version
            assert not any(bool(state.aux[C + key].any()) for key in net.factors)
            assert any(bool(state.aux[C + key].any()) for key in net.trainable - net.factors)
    assert merged == (2 if inner.name == "fedloru" else 0)


def test_variates_of_merged_factors_are_0_on_a_client_that_missed_the_merge() -> None:
    net = small_net()
    method = methods.scaffold(methods.fedloru(recipe="paper", tau=1), lr=LR, clients=4)
    state = method.init(net, 3)
    down = method.down(net, state._replace(version=2), ())
    variates = {key: torch.ones_like(value) for key, value in down.aux.items()}
    train = {key: value.clone().requires_grad_() for key, value in down.shared.items()}
    assert method.penalty is not None
    for version, current in ((2, True), (1, False)):
        term = method.penalty(net, train, down, variates | {VERSION: torch.tensor(version)})
        keys = sorted(net.trainable)
        gradients = torch.autograd.grad(term, [train[key] for key in keys], allow_unused=True)
        for key, gradient in zip(keys, gradients, strict=True):
            expected = -1.0 if current or key not in net.factors else 0.0  # c − c_k
            assert gradient is not None and bool((gradient == expected).all())


def test_first_round_equals_the_wrapped_method() -> None:
    net, cohorts = least_squares(), [(0, 1, 2, 3)]
    plain = engine_rounds(net, methods.fedavg(), cohorts, "fused")[0][0]
    wrapped = engine_rounds(net, methods.scaffold(methods.fedavg(), lr=LR, clients=4), cohorts, "fused")[0][0]
    assert close(plain.shared, wrapped.shared, 1e-12)


def test_scaffold_wraps_server_opt_but_not_the_reverse() -> None:
    net, cohorts = least_squares(), [(0, 1), (2, 3), (0, 2)]
    method = methods.scaffold(methods.server_opt(methods.fedavg(), lr=1.0, beta1=0.0), lr=LR, clients=4)
    plain = methods.scaffold(methods.fedavg(), lr=LR, clients=4)
    for (x, _), (y, _) in zip(
        engine_rounds(net, method, cohorts, "fused"), engine_rounds(net, plain, cohorts, "fused"), strict=True
    ):
        assert close(x.shared, y.shared, 1e-12) and torch.allclose(x.aux[C + "weight"], y.aux[C + "weight"])
    with pytest.raises(ConfigError, match="wrap scaffold around server_opt"):
        methods.server_opt(plain)


def test_values() -> None:
    """θ (32) and factors (86) have variates, statistics do not; clients of RoLoRA send those of one half, 18 values."""
    net = small_net()
    for inner, down, up in (
        (methods.fedavg(), 184, 184),
        (methods.fedloru(recipe="paper", tau=1), 118, 118),
        (methods.rolora(), 118, 50),
        (methods.ffalora(), 50, 50),
        (methods.fedsa(), 100, 100),
    ):
        counted = methods.scaffold(inner, lr=LR, clients=4).values(net, 1, [()], ())
        plain = inner.values(net, 1, [()], ())
        assert counted == plain._replace(down=plain.down | {"aux": down}, up=plain.up | {"aux": up})


def test_invalid_settings_raise() -> None:
    for message, invalid in {
        "lr is 0": {"lr": 0.0, "clients": 3},
        "lr is nan": {"lr": math.nan, "clients": 3},
        "clients is 0": {"lr": 0.1, "clients": 0},
    }.items():
        with pytest.raises(ConfigError, match=message):
            methods.scaffold(methods.fedavg(), **invalid)


def test_different_ranks_and_several_phases_raise() -> None:
    net = small_net()
    method = methods.scaffold(methods.fedlora(), lr=LR, clients=4)
    with pytest.raises(ConfigError, match="clients of one rank"):
        method.down(net, method.init(net, 3), with_rank(1))
    with pytest.raises(ConfigError, match="several phases"):
        methods.scaffold(methods.pfedloru(tau=2), lr=LR, clients=4)


def test_clients_that_send_tensors_unknown_to_the_server_raise() -> None:
    with pytest.raises(ConfigError, match=r"fedhm's clients send 0\.a, which the server does not have"):
        methods.scaffold(methods.fedhm(), lr=LR, clients=4).init(small_net(), 3)
