"""The wrappers against the formulas of their papers, in NumPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloru import methods, tree
from fedloru.client import train
from fedloru.errors import ConfigError
from fedloru.method import Down, Method
from fedloru.methods.wrappers.server_opt import FIRST, SECOND
from fedloru.net import losses, mode
from fedloru.recipe import Recipe
from fedloru.session import Job, Session
from tests.methods.cohort import close, keeps_dtypes, mean, run_rounds, small_net

Array = np.ndarray[Any, Any]
RULES = ("momentum", "adagrad", "adam", "yogi")
LR, BETA1, BETA2, EPS = 0.3, 0.6, 0.9, 1e-2


def reference_step(rule: str, delta: Array, m: Array, v: Array) -> tuple[Array, Array, Array]:
    """Return the change of x, m and v: algorithm 2 of Reddi et al., and momentum as in Hsu et al."""
    if rule == "momentum":
        m = BETA1 * m + delta
        return LR * m, m, v
    m = BETA1 * m + (1 - BETA1) * delta
    v = {
        "adagrad": v + delta**2,
        "adam": BETA2 * v + (1 - BETA2) * delta**2,
        "yogi": v - (1 - BETA2) * delta**2 * np.sign(v - delta**2),
    }[rule]
    return LR * m / (np.sqrt(v) + EPS), m, v


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "inner", [methods.fedavg(), methods.fedlora(), methods.fedloru(recipe="paper", tau=2)], ids=lambda m: m.name
)
def test_server_opt_matches_the_formulas(rule: str, inner: Method) -> None:
    net = small_net()
    method = methods.server_opt(inner, rule=rule, lr=LR, beta1=BETA1, beta2=BETA2, eps=EPS)
    m: dict[str, Array] = {}
    v: dict[str, Array] = {}
    for before, ups, after in run_rounds(net, method, 5):
        averaged = mean(ups)
        stepped = {}
        for key, value in before.shared.items():
            if key in net.statistics:  # averaged without the optimizer
                stepped[key] = averaged[key]
                continue
            x, zero = value.numpy(), np.zeros(value.shape)
            change, m[key], v[key] = reference_step(
                rule, averaged[key].numpy() - x, m.get(key, zero), v.get(key, zero + EPS**2)
            )
            stepped[key] = torch.from_numpy(x + change)
        if after.version > before.version:
            assert close(
                after.increment, tree.select(stepped, after.increment)
            )  # the increment is the result of the optimizer
            stepped |= tree.select(after.shared, net.factors)
            for key in net.factors:  # the moments of factors are reset
                del m[key], v[key]
        assert close(after.shared, stepped)
        for key in before.shared.keys() - net.statistics:
            shape = after.shared[key].shape
            for name, expected, start in ((FIRST, m, 0.0), (SECOND, v, EPS**2)):
                at_start = np.full(shape, start)
                np.testing.assert_allclose(after.aux[name + key].numpy(), expected.get(key, at_start), atol=1e-12)
    assert after.version == (2 if inner.name == "fedloru" else 0)


def test_momentum_without_memory_is_the_plain_average() -> None:
    net = small_net()
    plain, wrapped = (
        methods.fedloru(recipe="paper", tau=2),
        methods.server_opt(methods.fedloru(recipe="paper", tau=2), lr=1.0, beta1=0.0),
    )
    for (_, _, x), (_, _, y) in zip(run_rounds(net, plain, 4), run_rounds(net, wrapped, 4), strict=True):
        assert close(x.shared, y.shared) and close(x.base, y.base) and x.version == y.version


@pytest.mark.parametrize("rule", RULES)
def test_moments_of_bfloat16_models_are_float32(rule: str) -> None:
    """In bfloat16, rounding would keep the second moment, 0.99 v + 0.01 Δ², constant."""
    net = small_net(dtype=torch.bfloat16)
    method = methods.server_opt(methods.fedloru(recipe="paper", tau=2), rule=rule)
    for _, _, after in run_rounds(net, method, 3):
        assert {t.dtype for t in after.aux.values()} == {torch.float32}
        assert keeps_dtypes(net, after.shared | after.base)


def test_server_opt_rejects_methods_that_bypass_it() -> None:
    exact = methods.fedloru(recipe="paper", tau=2, accumulate="exact")
    for inner in (exact, methods.clip(exact, norm=1.0), methods.prox(exact, mu=1.0)):
        with pytest.raises(ConfigError, match="accumulate = 'factors'"):
            methods.server_opt(inner)


INVALID: dict[str, tuple[Any, dict[str, Any]]] = {
    "rule is 'sgd', expected 'momentum', 'adagrad', 'adam' or 'yogi'": (methods.server_opt, {"rule": "sgd"}),
    "lr is 0": (methods.server_opt, {"lr": 0.0}),
    "lr is inf": (methods.server_opt, {"lr": math.inf}),
    "beta1 is 1": (methods.server_opt, {"beta1": 1.0}),
    "beta2 is -0.1": (methods.server_opt, {"beta2": -0.1}),
    "eps is 0": (methods.server_opt, {"eps": 0.0}),
    "eps is nan": (methods.server_opt, {"eps": math.nan}),
    "mu is -1": (methods.prox, {"mu": -1.0}),
    "mu is nan": (methods.prox, {"mu": math.nan}),
    "norm is 0": (methods.clip, {"norm": 0.0}),
    "norm is nan": (methods.clip, {"norm": math.nan}),
}


@pytest.mark.parametrize("message", INVALID)
def test_invalid_settings_raise(message: str) -> None:
    wrapper, invalid = INVALID[message]
    with pytest.raises(ConfigError, match=message):
        wrapper(methods.fedavg(), **invalid)


def test_all_invalid_settings_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        methods.server_opt(methods.fedavg(), rule="sgd", lr=-1, beta1=2, beta2=2, eps=-1)  # type: ignore[arg-type]
    assert len(error.value.problems) == 5


@pytest.mark.parametrize("inner", [methods.fedavg(), methods.fedlora()], ids=lambda m: m.name)
def test_prox_gradient_points_to_the_received_tensors(inner: Method) -> None:
    net = small_net()
    state = inner.init(net, 3)
    method = methods.prox(methods.prox(inner, mu=0.75), mu=0.5)
    down = Down(state.shared)
    g = torch.Generator().manual_seed(0)
    train = {k: v + torch.randn(v.shape, generator=g, dtype=v.dtype) for k, v in state.shared.items()}
    train["own"] = torch.ones(3, dtype=torch.float64)  # not received, so without a proximal term
    for value in train.values():
        value.requires_grad_()
    assert method.penalty is not None
    term = method.penalty(net, train, down, {})
    term.backward()
    penalised = state.shared.keys() - net.statistics
    distance = sum(float((train[key].detach() - state.shared[key]).square().sum()) for key in penalised)
    assert float(term.detach()) == pytest.approx(0.5 * 1.25 * distance)
    for key, value in train.items():
        expected = 1.25 * (value - state.shared[key]).detach() if key in penalised else None
        assert value.grad is None if expected is None else torch.allclose(value.grad, expected, atol=1e-12)


def examples() -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(6, 2, 2, 2, generator=g, dtype=torch.float64)
    return {"x": x, "y": torch.randint(0, 3, (6,), generator=g)}


def test_training_with_prox_is_gradient_descent_on_the_sum() -> None:
    net = small_net()
    method = methods.prox(methods.fedlora(), mu=0.8)
    state = method.init(net, 3)
    recipe = Recipe(lr=0.1, momentum=0, clip=None, batch_size=6, steps=4)
    job, data = Job(0, torch.arange(6)), examples()
    done = train(Session(net, method, state.base, Down(state.shared), data, recipe, 3, 1), job)
    x = tree.clone(state.shared)
    for _ in range(4):  # one batch of all examples, whose order does not matter
        leaves = [x[key].requires_grad_() for key in x if key not in net.statistics]
        with mode(net, True):
            loss = losses(net, state.base | net.buffers | x, data).mean()
        gradients = torch.autograd.grad(loss, leaves)
        named = dict(zip([key for key in x if key not in net.statistics], gradients, strict=True))
        x = {
            key: (value - 0.1 * (named[key] + 0.8 * (value - state.shared[key])) if key in named else value).detach()
            for key, value in x.items()
        }
    trained = net.params.keys() & x.keys()
    assert close(tree.select(done.up.shared, trained), tree.select(x, trained))


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-3, 30), st.floats(1e-3, 30), st.booleans())
def test_clip_bounds_the_update_of_a_client(bound: float, size: float, low_rank: bool) -> None:
    net = small_net()
    inner = methods.fedlora() if low_rank else methods.fedavg()
    received = inner.init(net, 3).shared
    g = torch.Generator().manual_seed(2)
    change = {k: torch.randn(v.shape, generator=g, dtype=v.dtype) for k, v in received.items()}
    length = float(torch.cat([v.flatten() for k, v in change.items() if k not in net.statistics]).norm())
    trained = {k: v + change[k] * (size / length) for k, v in received.items()}
    sent, _ = methods.clip(inner, norm=bound).up(net, trained, Down(received), {}, 1)
    update = {k: sent.shared[k] - received[k] for k in received if k not in net.statistics}
    moved = float(torch.cat([v.flatten() for v in update.values()]).norm())
    assert moved == pytest.approx(min(bound, size), rel=1e-9)
    for key, value in update.items():  # the direction does not change
        torch.testing.assert_close(value, (trained[key] - received[key]) * min(1.0, bound / size), rtol=0, atol=1e-12)
    assert all(sent.shared[key] is trained[key] for key in net.statistics)  # statistics are not clipped


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_clip_keeps_small_updates_bit_for_bit(dtype: torch.dtype) -> None:
    net = small_net(dtype=dtype)
    received = methods.fedlora().init(net, 3).shared
    g = torch.Generator().manual_seed(3)
    trained = {k: v + (0.1 * torch.randn(v.shape, generator=g)).to(v) for k, v in received.items()}
    for update, expected in ((trained, trained), (received, received)):
        sent, _ = methods.clip(methods.fedlora(), norm=1e3).up(net, update, Down(received), {}, 1)
        assert tree.equal(sent.shared, expected)
    clipped, _ = methods.clip(methods.fedlora(), norm=1e-2).up(net, trained, Down(received), {}, 1)
    assert keeps_dtypes(net, clipped.shared)
    assert not tree.equal(clipped.shared, trained)
