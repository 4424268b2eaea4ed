"""The laws: each function raises ``BrokenLawError`` with the first violation that it finds."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fedloru import lowrank, tree
from fedloru.data import Examples
from fedloru.engine import Task, choose
from fedloru.errors import ModelError
from fedloru.evaluate import shared_model
from fedloru.laws.rehearsal import RUN, SEED, Stage, jobs, reduced, rehearse
from fedloru.method import NOTHING, State
from fedloru.methods import METHODS, rebuild
from fedloru.recipe import Recipe
from fedloru.settings import PREFIX
from fedloru.tree import Params
from fedloru.wire import Channel, Ledger, MessageSpec, catch_up, cost_by_profile, decode_sync, encode_sync

EXAMPLES = 24
"""The number of examples on which the engines are compared."""
CODECS = ("exact", "int4")
"""The codecs with which messages are checked: one whose bytes follow from the values, and one with codes and scales."""


class BrokenLawError(Exception):
    """A law does not hold."""


class NotCheckedError(Exception):
    """A law cannot be checked, or does not apply."""


def fresh_factors(stage: Stage) -> None:
    """Factors that a message marks as fresh equal those that the receiver draws."""
    net = stage.net
    for done in rehearse(stage):
        for profile in set(stage.profiles):
            sent = stage.method.down(net, done.before, profile)
            if not sent.fresh:
                continue
            if sent.fresh == "zero":
                _all_zero(done.after.round, tree.select(sent.shared, net.factors & sent.shared.keys()))
                continue
            if not net.factors or not net.factors <= sent.shared.keys():
                raise BrokenLawError(
                    f"round {done.after.round}: fresh = {sent.fresh!r}, but shared does not contain all factors"
                )
            sites = [site._replace(rank=len(sent.shared[site.a])) for site in net.sites]
            drawn = lowrank.init_factors(sites, sent.seed, sent.version, net.params, sent.fresh)
            wrong = [key for key in sorted(drawn) if not tree.equal({key: drawn[key]}, {key: sent.shared[key]})]
            if wrong:
                raise BrokenLawError(
                    f"round {done.after.round}: Down.fresh is {sent.fresh!r}, but {wrong[0]} is not what init_factors "
                    'draws from (seed, version): set fresh = "", or send fresh factors'
                )


def _all_zero(round: int, factors: Params) -> None:
    if wrong := [key for key, value in factors.items() if bool(value.any())]:
        raise BrokenLawError(f"round {round}: Down.fresh is 'zero', but {wrong[0]} is not 0: set fresh = \"\"")


def byte_formula(stage: Stage) -> None:
    """Measured bytes equal those that ``values`` counts."""
    for codec in CODECS:
        _compare_with_formula(stage, codec)


def _compare_with_formula(stage: Stage, codec: str) -> None:
    cohorts, measured = [], []
    for done in rehearse(stage, codec=codec):
        cohorts.append([exchange.client for exchange in done.exchanges])
        measured.append(dict(done.channel.accounts))
    formula = cost_by_profile(stage.net, stage.method, cohorts, profiles=stage.profiles, codec=codec)
    for round, (accounts, expected) in enumerate(zip(measured, formula, strict=True), 1):
        for profile, account in accounts.items():
            for way, kinds in account.table().items():
                _compare_bytes(stage, round, way, kinds, expected[profile].table()[way])


def _compare_bytes(stage: Stage, round: int, way: str, kinds: Mapping[str, int], expected: Mapping[str, int]) -> None:
    for kind, count in kinds.items():
        fewer = stage.method.traits.prunes and way == "up" and count <= expected[kind]
        if kind != "envelope" and count != expected[kind] and not fewer:
            raise BrokenLawError(
                f"round {round}: the {way} messages contain {count} bytes of {kind}, but values() counts "
                f"{expected[kind]}: correct the method's values function"
            )


def additive_reduce(stage: Stage) -> None:
    """Totals of disjoint groups of clients join to the total of all clients."""
    for done in rehearse(stage):
        joined = NOTHING
        for exchange, weight in zip(done.exchanges, done.weights, strict=True):
            joined = joined.join(reduced(stage, done.before, [exchange], [weight]), stage.net)
        _same("sum.shared", joined.sum.shared, done.total.sum.shared)
        _same("sum.aux", joined.sum.aux, done.total.sum.aux)
        for one, other in zip(joined.replies, done.total.replies, strict=True):
            _same("replies", one.up.shared, other.up.shared)
        for site in stage.net.sites if done.total.stack else ():
            _same("stack", *({site.weight: lowrank.delta(site, t.stack)} for t in (joined, done.total)))
        if abs(joined.weight - done.total.weight) > 1e-6 * done.total.weight:
            raise BrokenLawError(f"weights add up to {joined.weight}, but the total has {done.total.weight}")


def exact_catch_up(stage: Stage) -> None:
    """After catch-up, a client's base equals the server's bit for bit, no matter which rounds the client missed."""
    for codec in CODECS:
        _compare_bases(stage, codec)


def _compare_bases(stage: Stage, codec: str) -> None:
    net, spec = stage.net, MessageSpec(stage.net, stage.method, RUN)
    names = {"method": stage.method.name, "run": RUN, "codec": codec}
    state = stage.method.init(net, SEED)
    ledger, held = Ledger(net.sites, state, codec=codec), dict[int, Params]()
    for done in rehearse(stage, codec=codec):
        for exchange in done.exchanges[:: 1 + done.after.round % 2]:  # some clients miss several rounds
            client = exchange.client
            message = encode_sync(ledger.owed(client, done.before), done.before, **names)
            _, sync = decode_sync(message, spec)
            held[client] = catch_up(net.sites, held.get(client, {}), sync)
            ledger.delivered(client, done.before.version)
            if not tree.equal(held[client], done.before.base):
                raise BrokenLawError(f"round {done.after.round}: the base of client {client} differs from the server's")
        ledger.record(done.after)


def purity(stage: Stage) -> None:
    """No function changes its inputs, and the server keeps the dtypes of shared tensors."""
    net, model = stage.net, dict(stage.net.model.state_dict())
    fixed = [tree.digest(each) for each in (net.params, net.buffers, model)]
    seen = None
    for done in rehearse(stage):
        if seen is not None and seen != _digest(done.before):
            raise BrokenLawError(f"round {done.after.round}: a function changed its input state in place")
        seen = _digest(done.after)
        reduced(stage, done.before, done.exchanges, done.weights)
        again = stage.method.server(net, done.before, done.total)
        if _digest(again) != seen:
            raise BrokenLawError(
                f"round {done.after.round}: a second call of the server function returns a different state"
            )
        for key, value in done.after.shared.items():
            before = done.before.shared.get(key)
            if before is not None and before.dtype != value.dtype:
                raise BrokenLawError(
                    f"round {done.after.round}: the dtype of {key} changed from {before.dtype} to {value.dtype}"
                )
    if fixed != [tree.digest(each) for each in (net.params, net.buffers, model)]:
        raise BrokenLawError("a function changed the tensors of the net in place")


def fixed_point(stage: Stage) -> None:
    """Clients that change nothing do not change the model."""
    if stage.method.view is not None:
        raise NotCheckedError("the server's model is not the model that clients start from")
    for done in rehearse(stage, noise=0.0, rounds=3):
        _same(f"round {done.after.round}, W + s·BA", *(effective(stage, s) for s in (done.before, done.after)))


def identical_clients(stage: Stage) -> None:
    """Clients that send identical messages act as one client."""
    for done in rehearse(stage, rounds=3):
        exchange = done.exchanges[0]
        one = reduced(stage, done.before, [exchange], [4.0])
        many = reduced(stage, done.before, [exchange] * 3, [1.0, 5.0, 2.0])
        states = [stage.method.server(stage.net, done.before, total) for total in (one, many)]
        _same(f"round {done.after.round}, W + s·BA", *(effective(stage, state) for state in states))


def seeded_draws(stage: Stage) -> None:
    """All random numbers follow from the seed."""
    first = [done.after for done in rehearse(stage, rounds=3)]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(99)
        second = [done.after for done in rehearse(stage, rounds=3)]
    if any(_digest(x) != _digest(y) for x, y in zip(first, second, strict=True)):
        raise BrokenLawError(
            "two runs with the same seed differ: draw from fedloru.rng.gen(seed, …), not from a global generator"
        )


def rebuilt(stage: Stage) -> None:
    """Another process can rebuild the method from its name and configuration."""
    if not stage.method.name:
        raise NotCheckedError("the method has no name: declare it with @fedloru.methods.method")
    name = stage.method.name
    if name not in METHODS and not name.startswith(PREFIX):
        raise NotCheckedError(f"another process cannot find the method {name!r}: move it to a module")
    again = rebuild(name, json.loads(json.dumps(stage.method.config)))
    pairs = zip(rehearse(stage, rounds=3), rehearse(stage._replace(method=again), rounds=3), strict=True)
    if any(_digest(x.after) != _digest(y.after) for x, y in pairs) or not _same_bytes(stage, again):
        raise BrokenLawError(
            f"rebuild({stage.method.name!r}, config) returns a different method: declare your method under its own "
            "name, with @fedloru.methods.method"
        )


def _same_bytes(stage: Stage, again: object) -> bool:
    accounts = (
        [done.channel.traffic.table() for done in rehearse(stage._replace(method=each), rounds=3)]  # type: ignore[arg-type]
        for each in (stage.method, again)
    )
    return next(accounts) == next(accounts)


def equal_engines(stage: Stage) -> None:
    """Engines agree: the sequential and the fused engine train the same model."""
    assert stage.data is not None
    net = stage.net._replace(params=_double(stage.net.params), buffers=_double(stage.net.buffers))
    data = _double({key: value[:EXAMPLES] for key, value in stage.data.items()})
    state = stage.method.init(net, SEED)
    after = []
    for engine in ("sequential", "fused"):
        try:
            chosen = choose(engine, net, stage.method, state, data, RECIPE)
        except ModelError as error:
            raise NotCheckedError(f"the fused engine does not support the model: {error}") from error
        channel = Channel(net, stage.method.name, "check", "exact")
        work = sorted(jobs(stage, EXAMPLES), key=lambda job: job.profile)
        total = chosen.run(Task(state, work, RECIPE, SEED, channel)).total
        after.append(stage.method.server(net, state, total))
    _same("shared", after[0].shared, after[1].shared)
    _same("base", after[0].base, after[1].base)


RECIPE = Recipe(lr=0.05, batch_size=4)

LAWS: dict[str, Callable[[Stage], None]] = {
    "fresh factors": fresh_factors,
    "byte formula": byte_formula,
    "additive reduce": additive_reduce,
    "exact catch-up": exact_catch_up,
    "purity": purity,
    "fixed point": fixed_point,
    "identical clients": identical_clients,
    "seeded draws": seeded_draws,
    "rebuild": rebuilt,
}
WITH_DATA: dict[str, Callable[[Stage], None]] = {"equal engines": equal_engines}


def effective(stage: Stage, state: State) -> Params:
    """Return the weights of the server's model with its factors merged, without statistics."""
    tensors = shared_model(stage.net, stage.method, state)
    present = [site for site in stage.net.sites if {*site.keys, site.weight} <= tensors.keys()]
    whole = lowrank.merge(present, tensors, tensors) if present else tensors
    return tree.omit(whole, {*stage.net.factors, *stage.net.buffers})


def _same(what: str, x: Params, y: Params) -> None:
    if x.keys() != y.keys():
        raise BrokenLawError(f"{what}: {sorted(x.keys() ^ y.keys())[0]} is missing from one of the two")
    for key in x:
        error, size = float((x[key].double() - y[key].double()).abs().max()), float(y[key].double().abs().max())
        if not error <= 1e-5 * max(1.0, size):
            raise BrokenLawError(f"{what}: {key} differs by {error:.2g}")


def _digest(state: State) -> str:
    trees = (state.base, state.shared, state.aux, state.increment)
    return repr((state.round, state.version, *map(tree.digest, trees)))


def _double(tensors: Params | Examples) -> dict[str, Tensor]:
    return {key: value.double() if value.is_floating_point() else value for key, value in tensors.items()}
