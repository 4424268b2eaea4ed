"""Robust aggregation: rules by hand, outliers, clipped norms, engines, and which methods allow it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import fedloru as fl
from fedloru import methods, tree
from fedloru.config.parts import planned_method
from fedloru.engine import Task, choose
from fedloru.errors import ConfigError, ModelError
from fedloru.laws.rehearsal import Stage, rehearse
from fedloru.method import Down, Method, State, Total, Up
from fedloru.methods.wrappers import rules
from fedloru.methods.wrappers.robust import clipped
from fedloru.wire import Channel
from tests.laws.cases import METHODS, world
from tests.methods.cohort import close, replies, run_rounds, small_net, step

RULES = ("median", "trimmed_mean")
VALUES = torch.tensor([[3.0, 1.0], [-2.0, 1.0], [1.0, 1.0], [1e6, 1.0], [0.0, 1.0]])


def of_engine(method: Method, engine: str, model: str = "cnn-batch", **options: Any) -> State:
    """Return the state after two rounds, without encoded messages, so that tensors are those of the engine."""
    cell = world("fedavg" if not method.traits.low_rank else "fedloru", model)
    state = method.init(cell.net, 3)
    for _ in range(2):
        channel = Channel(cell.net, method.name, "run", "exact", round_trip=False)
        run = choose(engine, cell.net, method, state, cell.data, cell.recipe, **options).run
        total = run(Task(state, cell.jobs, cell.recipe, 3, channel)).total
        state = method.server(cell.net, state, total)
    return state


def test_rules_by_hand() -> None:
    assert rules.median(VALUES).tolist() == [1.0, 1.0]
    assert rules.median(VALUES[:4]).tolist() == [2.0, 1.0]
    assert rules.trimmed_mean(VALUES, trim=0.2).tolist() == pytest.approx([4 / 3, 1.0])
    assert rules.trimmed_mean(VALUES, trim=0.01).tolist() == pytest.approx([4 / 3, 1.0]), "one on each side at least"
    assert rules.trimmed_mean(VALUES, trim=0.49).tolist() == [1.0, 1.0], "one remains at least"
    assert rules.trimmed_mean(torch.arange(100.0)[:, None] ** 2, trim=0.07).tolist() == pytest.approx(
        [float(np.mean(np.arange(7, 93) ** 2.0))]
    )
    assert rules.median(torch.tensor([[1.0], [float("nan")], [2.0], [float("inf")], [3.0]])).tolist() == [3.0]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=9), st.randoms())
def test_rules_do_not_depend_on_the_order(values: list[float], random: Any) -> None:
    shuffled = random.sample(values, len(values))
    column, other = torch.tensor(values)[:, None], torch.tensor(shuffled)[:, None]
    assert float(rules.median(column)) == pytest.approx(float(np.median(np.float32(values))), rel=1e-6)
    assert torch.equal(rules.median(column), rules.median(other))
    assert torch.equal(rules.trimmed_mean(column), rules.trimmed_mean(other))


def test_long_tensors_are_combined_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    trees = [{"x": torch.randn(7, 5), "y": torch.tensor(float(k)), "z": torch.ones(0, 3)} for k in range(5)]
    whole = rules.combined("median", rules.median, trees)
    monkeypatch.setattr(rules, "BLOCK", 4)
    assert tree.equal(whole, rules.combined("median", rules.median, trees))
    assert torch.equal(whole["x"], torch.stack([t["x"] for t in trees]).median(0).values) and float(whole["y"]) == 2.0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("inner", [methods.fedavg(), methods.fedloru(recipe="paper", tau=2)], ids=lambda m: m.name)
def test_every_coordinate_is_combined_and_clients_count_once(rule: str, inner: Method) -> None:
    """Of three clients, both rules leave the middle one."""
    net = small_net()
    for before, ups, after in run_rounds(net, methods.robust(inner, rule=rule), 3):
        middle = {k: torch.stack([up.shared[k] for up in ups]).median(0).values for k in before.shared}
        fresh = net.factors if after.version > before.version else ()
        assert close(tree.omit(after.shared, fresh), tree.omit(middle, fresh))
        if after.increment:
            assert close(after.increment, tree.select(middle, after.increment))


def five(state: State, last: Callable[[Tensor], Tensor]) -> list[Up]:
    """Return five replies near the state, the last of which is changed by ``last``."""
    ups = [Up(tree.map(lambda t, k=k: t + 0.01 * k, state.shared)) for k in range(4)]
    return [*ups, Up(tree.map(last, state.shared))]


def total(method: Method, net: Any, state: State, ups: Sequence[Up], weights: Sequence[float]) -> Total:
    return method.reduce(net, state, method.down(net, state, ()), ups, weights)


@pytest.mark.parametrize("garbage", [1e6, -1e6, 3e38])
@pytest.mark.parametrize("rule", RULES)
def test_an_outlier_with_most_of_the_examples_does_not_move_the_result(rule: str, garbage: float) -> None:
    net, method = small_net(dtype=torch.float32), methods.robust(methods.fedavg(), rule=rule)
    state = method.init(net, 3)
    ups, weights = five(state, lambda t: torch.full_like(t, garbage)), [1.0, 1.0, 1.0, 1.0, 1e9]
    after = method.server(net, state, total(method, net, state, ups, weights))
    moved = torch.cat([(after.shared[key] - value).flatten() for key, value in state.shared.items()])
    assert float(moved.min()) > -1e-5 and float(moved.max()) < 0.03 + 1e-5
    plain = methods.fedavg()
    untouched = plain.server(net, state, total(plain, net, state, ups, weights)).shared
    assert float(tree.norm(untouched)) > 1e5


@pytest.mark.parametrize("inner", [methods.fedavg(), methods.fedex(), methods.fedlora()], ids=lambda m: m.name)
def test_an_outlier_moves_a_clipped_mean_by_at_most_its_share(inner: Method) -> None:
    net, method = small_net(), methods.robust(inner, max_norm=0.5)
    state = method.init(net, 3)
    ups = [*[Up(state.shared)] * 4, Up(tree.map(lambda t: t + 1e6, state.shared))]
    after = method.server(net, state, total(method, net, state, ups, [1.0] * 5))
    for keys in (net.buffers.keys() & state.shared.keys(), state.shared.keys() - net.buffers.keys()):
        change = tree.sub(tree.select(after.shared, keys), state.shared)
        assert float(tree.norm(change)) == pytest.approx(0.1, rel=1e-6)


def test_an_update_within_the_bound_is_not_touched() -> None:
    net = small_net(dtype=torch.float32)
    state = methods.fedavg().init(net, 3)
    (up, *_) = replies(state)
    assert clipped(net, state.shared, up.shared, 1e3).items() <= up.shared.items()
    near = clipped(net, state.shared, up.shared, 1e-3)
    assert list(near) == list(up.shared) and all(near[k].dtype == up.shared[k].dtype for k in near)
    update = tree.sub(tree.omit(near, net.buffers), state.shared)
    assert float(tree.norm(update)) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("inner", [methods.fedloru(recipe="paper", tau=2), methods.fedsa(), methods.fedmud(interval=2)])
def test_identical_clients_give_the_mean(rule: str, inner: Method) -> None:
    net, method = small_net(), methods.robust(inner, rule=rule, max_norm=100.0)
    state = plain = inner.init(net, 3)
    for _ in range(3):
        ups = [Up(tree.map(lambda t: t * 1.1 + 0.1, state.shared))] * 3
        state, plain = step(net, method, state, ups), step(net, inner, plain, ups)
        assert close(state.shared, plain.shared) and close(state.base, plain.base)


def test_a_server_optimizer_steps_along_the_median() -> None:
    net = small_net()
    method = methods.robust(methods.server_opt(methods.fedavg(), lr=0.5, beta1=0.0), rule="median")
    ((before, ups, after),) = run_rounds(net, method, 1)
    for key in before.shared.keys() - net.statistics:
        middle = torch.stack([up.shared[key] for up in ups]).median(0).values
        torch.testing.assert_close(after.shared[key], before.shared[key] + 0.5 * (middle - before.shared[key]))


@pytest.mark.parametrize("setting", [{"rule": "median"}, {"rule": "trimmed_mean", "trim": 0.3}, {"max_norm": 0.1}])
@pytest.mark.parametrize("inner", [methods.fedavg(), methods.fedloru(recipe="paper", tau=2)], ids=lambda m: m.name)
def test_engines_agree_without_encoded_messages(setting: dict[str, Any], inner: Method) -> None:
    method = methods.robust(inner, **setting)
    reference = of_engine(method, "sequential")
    for chunk in (2, 4):
        assert close(reference.shared, of_engine(method, "fused", chunk=chunk).shared, 1e-9)


def test_the_mean_is_the_method_itself() -> None:
    inner = methods.fedloru(recipe="paper", tau=2)
    method, net = methods.robust(inner), small_net()
    assert (method.server, method.traits) == (inner.server, inner.traits)
    for (before, ups, x), (_, _, y) in zip(run_rounds(net, method, 3), run_rounds(net, inner, 3), strict=True):
        assert tree.equal(x.shared, y.shared) and tree.equal(x.base, y.base)
        assert total(method, net, before, ups, [1.0] * 3).replies == ()
    assert "wrap" not in planned_method(fl.config.load("small"), clients=3).config, "the default applies no wrapper"


UNFIT = {"fedloru-exact", "fedloru-truncated", "mfedloru-exact", "flora", "fedex", "fedhm", "flexlora", "hetlora"}
AUX = {"scaffold", "scaffold-rolora"}
ALREADY = {"robust"}


@pytest.mark.parametrize("setting", [{"rule": "median"}, {"rule": "trimmed_mean"}, {"max_norm": 0.05}], ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_and_wrapper_has_it_or_refuses_it(name: str, setting: dict[str, Any]) -> None:
    made = METHODS[name]()
    refused = AUX | ALREADY | ({"hetlora"} if "max_norm" in setting else UNFIT)
    if name in refused:
        with pytest.raises(ConfigError):
            methods.robust(made, **setting)
        return
    method = methods.robust(made, **setting)
    nested = name.startswith("mfedloru")
    stage = Stage(method._replace(traits=method.traits._replace(ranks="one")), small_net(dtype=torch.float32))
    if method.traits.ranks == "many" and not nested and not method.traits.keeps_replies:
        stage = Stage(method, stage.net)
    for done in rehearse(stage, rounds=3):
        assert len(done.total.replies) == (3 if "rule" in setting else 0)
        assert all(bool(value.isfinite().all()) for value in (done.after.shared | done.after.base).values())


def test_wrappers_around_it() -> None:
    median = methods.robust(methods.fedloru(recipe="paper", tau=2), rule="median")
    for wrapped in (methods.prox(median, mu=0.1), methods.clip(median, norm=0.1)):
        assert sum(1 for _ in rehearse(Stage(wrapped, small_net(dtype=torch.float32)), rounds=2)) == 2
    with pytest.raises(ConfigError, match="wrap robust around server_opt"):
        methods.server_opt(median)
    with pytest.raises(ConfigError, match="remove robust"):
        methods.scaffold(median, lr=0.1, clients=4)
    clipping = methods.robust(methods.fedloru(recipe="paper", tau=2), max_norm=0.1)
    assert methods.server_opt(clipping).traits == clipping.traits


def test_a_total_without_replies_is_refused() -> None:
    """As of an engine that joins sums."""
    net, inner = small_net(), methods.fedavg()
    method, state = methods.robust(inner, rule="median"), inner.init(net, 3)
    with pytest.raises(ModelError, match="the engine returned a sum"):
        method.server(net, state, total(inner, net, state, replies(state), [1.0] * 3))
    kept = total(method, net, state, replies(state), [1.0] * 3)
    with pytest.raises(ModelError, match="needs the replies of all clients"):
        method.server(net, state, kept._replace(replies=kept.replies[:2]))
    first, *others = kept.replies
    short = first._replace(up=Up(tree.map(lambda t: t[:1], first.up.shared)))
    with pytest.raises(ModelError, match="different shapes"):
        method.server(net, state, kept._replace(replies=(short, *others)))


def test_few_replies_are_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    net, method = small_net(), methods.robust(methods.fedavg(), rule="median")
    state = method.init(net, 3)
    ups = replies(state)[:2]
    after = method.server(net, state, total(method, net, state, ups, [1.0, 5.0]))
    assert "round 1: with 2 replies, rule 'median' protects against none of them" in caplog.text
    assert close(after.shared, tree.scale(tree.add(ups[0].shared, ups[1].shared), 0.5))


def middle_half(values: Tensor) -> Tensor:
    return values.quantile(0.5, dim=0)


def of_another_shape(values: Tensor) -> Tensor:
    return values[:2]


def failing(values: Tensor) -> Tensor:
    raise KeyError("no rule")


def test_a_rule_of_another_package() -> None:
    net, here = small_net(), f"python:{__name__}:"
    own = methods.robust(methods.fedavg(), rule=f"{here}middle_half")
    median = methods.robust(methods.fedavg(), rule="median")
    for (_, _, x), (_, _, y) in zip(run_rounds(net, own, 2), run_rounds(net, median, 2), strict=True):
        assert close(x.shared, y.shared)
    again = methods.rebuild(own.name, own.config)
    assert next(run_rounds(net, again, 1))[2].round == 1
    for name, message in (("of_another_shape", r"returned a tensor \(2, \d+\)"), ("failing", "failed: KeyError")):
        with pytest.raises(ConfigError, match=message):
            list(run_rounds(net, methods.robust(methods.fedavg(), rule=here + name), 1))
    with pytest.raises(ConfigError, match="has no function"):
        methods.robust(methods.fedavg(), rule=f"{here}nothing")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"rule": "medain"}, "rule is 'medain', expected 'mean', 'median' or 'trimmed_mean', or python:"),
        ({"rule": "trimmed_mean", "trim": 0.5}, r"trim is 0.5, expected a number in \(0, 0.5\)"),
        ({"rule": "trimmed_mean", "trim": 0.0}, "trim is 0.0"),
        ({"max_norm": 0.0}, "max_norm is 0.0, expected a number > 0"),
        ({"max_norm": float("inf")}, "max_norm is inf"),
    ],
)
def test_settings_out_of_range(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        methods.robust(methods.fedavg(), **setting)


def test_a_method_whose_clients_send_other_tensors() -> None:
    inner = methods.fedavg()
    aux = inner._replace(up=lambda net, train, down, own, steps: (Up(train, {"count": torch.ones(1)}), own))
    halves = inner._replace(up=lambda net, train, down, own, steps: (Up(tree.map(lambda t: t[:1], train)), own))
    net, state = small_net(), inner.init(small_net(), 3)
    with pytest.raises(ConfigError, match="send count besides their weights"):
        methods.robust(aux, rule="median").down(net, state, ())
    for setting in ({"max_norm": 1.0}, {"rule": "median"}):
        with pytest.raises(ConfigError, match="in another form than they receive it"):
            methods.robust(halves, **setting).down(net, state, ())
    assert isinstance(methods.robust(halves).down(net, state, ()), Down)
