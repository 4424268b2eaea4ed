"""``fedloru.check`` approves every declared method, and names the law that a broken one violates."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import fedloru as fl
from fedloru import blocks, tree
from fedloru.data import Examples
from fedloru.laws import Report
from fedloru.method import Down, Method, Profile, State, Total, Up
from fedloru.net import Net
from fedloru.tree import Params
from tests.laws.cases import METHODS, pictures

LAWS = [
    "fresh factors",
    "byte formula",
    "additive reduce",
    "exact catch-up",
    "purity",
    "fixed point",
    "identical clients",
    "seeded draws",
    "rebuild",
    "equal engines",
]
BY_DESIGN = {"fedloru-published": ("fixed point",)}
"""With init = "both", a reset moves the model by s·BA of the new factors, as in the published code."""


def net(low_rank: bool = True) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.Tanh(), nn.Linear(12, 4))
    return fl.attach(module, rank=2, alpha=3.0, targets=["*"]) if low_rank else fl.make(module)


def data() -> Examples:
    return tree.map(lambda t: t.float() if t.is_floating_point() else t, pictures())


@pytest.mark.parametrize("case", METHODS)
def test_declared_methods_and_wrappers_obey_all_laws(case: str) -> None:
    method = METHODS[case]()
    report = fl.check(method, net(method.traits.low_rank), data())
    assert report.failed == BY_DESIGN.get(case, ()), str(report)
    assert [verdict.law for verdict in report.verdicts] == LAWS


def test_without_data_the_engines_are_not_compared() -> None:
    report = fl.check(fl.fedloru(recipe="paper", tau=2), net())
    assert report.holds and [verdict.law for verdict in report.verdicts if verdict.holds is None] == ["equal engines"]
    assert str(report).splitlines()[-1] == "  –    equal engines      needs data: fedloru.check(method, net, data)"


def topk_without_values() -> Method:
    def up(net: Net, train: Params, down: Down, client_state: Params, steps: int) -> tuple[Up, Params]:
        change = {key: (train[key] - down.shared[key]).flatten() for key in sorted(net.factors)}
        index = {key: value.abs().topk(len(value) // 4).indices.int() for key, value in change.items()}
        return Up(train | {key: change[key][index[key]] for key in change}, index), client_state

    def reduce(net, state, down, ups, weights):  # type: ignore[no-untyped-def]
        dense = []
        for up in ups:
            factors = {
                key: down.shared[key].flatten().index_add(0, index, up.shared[key]).view_as(down.shared[key])
                for key, index in up.aux.items()
            }
            dense.append(Up(up.shared | factors))
        return blocks.reduce(net, state, down, dense, weights)

    return fl.fedlora()._replace(up=up, reduce=reduce)


def with_down(fresh: str) -> Method:
    def down(net: Net, state: State, profile: Profile) -> Down:
        return blocks.down(net, state, profile)._replace(fresh=fresh)  # type: ignore[arg-type]

    return fl.fedlora()._replace(down=down)


def with_reduce(reduce: Callable[..., Total]) -> Method:
    return fl.fedlora()._replace(reduce=reduce)


def chunk_mean(net, state, down, ups, weights):  # type: ignore[no-untyped-def]
    total = blocks.reduce(net, state, down, ups, weights)
    return total._replace(sum=Up(tree.scale(total.sum.shared, 1 / len(ups))))


def unweighted(net, state, down, ups, weights):  # type: ignore[no-untyped-def]
    return blocks.reduce(net, state, down, ups, [1.0] * len(ups))._replace(weight=sum(weights))


def with_server(server: Callable[[Net, State, Total], State], inner: Method) -> Method:
    return inner._replace(server=server)


def other_increment() -> Method:
    inner = fl.fedloru(recipe="paper", tau=2)

    def server(net: Net, state: State, total: Total) -> State:
        after = inner.server(net, state, total)
        return after._replace(increment=tree.scale(after.increment, 0.5))

    return with_server(server, inner)


def in_place() -> Method:
    def server(net: Net, state: State, total: Total) -> State:
        for value in state.shared.values():
            value.mul_(0.9)
        return blocks.average(net, state, total)

    return with_server(server, fl.fedlora())


def decaying() -> Method:
    def server(net: Net, state: State, total: Total) -> State:
        after = blocks.average(net, state, total)
        return after._replace(shared=tree.scale(after.shared, 0.9))

    return with_server(server, fl.fedlora())


def unseeded() -> Method:
    def up(net: Net, train: Params, down: Down, client_state: Params, steps: int) -> tuple[Up, Params]:
        return Up({key: value + 0.1 * torch.randn(value.shape) for key, value in train.items()}), client_state

    return fl.fedlora()._replace(up=up)


def under_another_name() -> Method:
    def server(net: Net, state: State, total: Total) -> State:
        after = blocks.average(net, state, total)
        return after._replace(shared={k: state.shared[k].lerp(v, 0.5) for k, v in after.shared.items()})

    return with_server(server, fl.fedlora())


def counting_calls() -> Method:
    """Return a method whose penalty grows with every call; engines call it for one client, or for many at once."""
    calls: list[int] = []

    def penalty(net: Net, train: Params, down: Down, client_state: Params) -> torch.Tensor:
        calls.append(1)
        return 0.01 * len(calls) * torch.stack([train[key].square().sum() for key in sorted(net.factors)]).sum()

    return fl.fedlora()._replace(penalty=penalty)


BROKEN: dict[str, tuple[Callable[[], Method], str, str]] = {
    "top-k with the inherited formula": (topk_without_values, "byte formula", "correct the method's values function"),
    "trained factors called fresh": (lambda: with_down("a"), "fresh factors", "round 2: Down.fresh is 'a'"),
    "another init": (lambda: with_down("both"), "fresh factors", "round 1: Down.fresh is 'both'"),
    "mean of a chunk": (lambda: with_reduce(chunk_mean), "additive reduce", "sum.shared: "),
    "another increment": (other_increment, "exact catch-up", "differs from the server's"),
    "in place": (in_place, "purity", "a function"),
    "decay": (decaying, "fixed point", "W + s·BA: "),
    "weights that are not applied": (lambda: with_reduce(unweighted), "identical clients", "W + s·BA: "),
    "the global generator": (unseeded, "seeded draws", "fedloru.rng.gen(seed, …)"),
    "the name of another method": (
        under_another_name,
        "rebuild",
        "rebuild('fedlora', config) returns a different method",
    ),
    "calls that are counted": (counting_calls, "equal engines", "shared: "),
}
ONLY_ONE = {
    "top-k with the inherited formula",
    "another increment",
    "decay",
    "the name of another method",
    "calls that are counted",
}
"""Violations that no other law notices."""


def test_there_is_a_violation_of_every_law() -> None:
    assert {law for _, law, _ in BROKEN.values()} == set(LAWS)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_method_fails_the_law_that_it_violates(name: str) -> None:
    make, law, reason = BROKEN[name]
    report = fl.check(make(), net(), data())
    verdict = next(verdict for verdict in report.verdicts if verdict.law == law)
    assert not report.holds and verdict.holds is False, str(report)
    assert reason in verdict.detail, verdict.detail
    # All of them keep the name of the method whose functions they replace.
    assert name not in ONLY_ONE or set(report.failed) <= {law, "rebuild"}, str(report)


def test_a_method_that_raises_fails_with_its_error() -> None:
    def server(net: Net, state: State, total: Total) -> State:
        raise ZeroDivisionError("no clients")

    report = fl.check(with_server(server, fl.fedlora()), net())
    assert "FAILS  additive reduce    the method fails: ZeroDivisionError: no clients" in str(report).splitlines()


def test_the_report_has_a_line_for_each_law() -> None:
    report = fl.check(decaying(), net(), data())
    lines = str(report).splitlines()
    assert isinstance(report, Report) and repr(report) == str(report) and report.method == "fedlora"
    assert [line[7:24].strip() for line in lines] == LAWS
    assert (
        lines[0]
        == "holds  fresh factors      Factors that a message marks as fresh equal those that the receiver draws."
    )
    assert lines[5].startswith("FAILS  fixed point        round 1, W + s·BA: ")
    assert not report.holds and report.failed == ("fixed point", "rebuild")
    assert not any(mark in str(report) for mark in ("`", "Traceback"))


def test_a_method_of_a_script_has_no_reference_to_rebuild_it_by() -> None:
    @fl.methods.method(trained="A, B", aggregate="inexact", rank="r")
    def local() -> Method:
        """FedLoRA again."""
        return fl.fedlora()

    report = fl.check(local(), net())
    verdict = next(verdict for verdict in report.verdicts if verdict.law == "rebuild")
    assert report.holds and verdict.holds is None
    assert verdict.detail == "another process cannot find the method 'local': move it to a module"
