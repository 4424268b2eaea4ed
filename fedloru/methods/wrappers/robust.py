"""Robust aggregation, which bounds the influence of a minority of clients that send wrong updates.

Two defences of the server, alone or together::

    norm clipping   Δ_k ← Δ_k · min(1, c/‖Δ_k‖₂),  Δ_k = sent − received
    rule            every coordinate of what is sent is combined by a median or a trimmed mean (see ``rules``)

Norm clipping is of Sun, Kairouz, Suresh, McMahan, "Can You Really Backdoor Federated Learning?", arXiv 1911.07963.
Unlike in ``clip``, which clients apply to themselves, the server does not have to trust them. Statistics (BatchNorm's)
are a second vector with the same bound, so that nothing that a client sends is unbounded.

As in the papers, a rule counts every client once; weights by examples would let a client gain influence by its claim.
The result then replaces the replies: the method receives it as that of one client with the weight of all, so averages,
merges and server optimizers follow as usual. Rules act on what is sent. The median of factors A and B is that of each
matrix; like the mean of factors (see the aggregation gap), its product is not the median of the products.

A rule needs all replies at once. They are kept in ``Total.replies`` until the server step, in place of their sum.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Annotated

from pydantic import Field

from fedloru import tree
from fedloru.errors import ModelError
from fedloru.method import Down, Method, Profile, Reply, State, Total, Up
from fedloru.methods.blocks import reject
from fedloru.methods.declare import wrapper
from fedloru.methods.wrappers.rules import MEAN, RULES, Rule, combined, trimmed_mean
from fedloru.net import Net
from fedloru.settings import Expected, In, short
from fedloru.settings.types import Positive, When
from fedloru.tree import Params

FEWEST = 3
"""The smallest number of replies of which a minority can be outvoted."""

Trim = Annotated[float, Field(gt=0, lt=0.5), Expected("a number in (0, 0.5)")]

log = logging.getLogger(__name__)


@wrapper(
    cases={"robust": ("fedloru", {"tau": 2}, {"rule": "trimmed_mean", "trim": 0.3, "max_norm": 0.1})},
    section="aggregation",
    inert=True,
)
def robust(
    method: Method,
    *,
    rule: Annotated[str, In(RULES)] = MEAN,
    trim: Annotated[Trim, When("rule", ("trimmed_mean",))] = 0.1,
    max_norm: Positive | None = None,
) -> Method:
    """Robust aggregation: the server limits the influence of each client.

    Args:
        rule: how the replies of a cohort are combined: `mean` as the method does; `median` and `trimmed_mean` take
            every coordinate of what clients send, such as an entry of a factor, by itself, and count every client once.
        trim: the share of the values that is dropped on each side, rounded up to a number of clients.
        max_norm: the maximum Euclidean norm of the update of a client, the difference between what it sends and what
            it received; a larger one is scaled down by the server. Statistics have the same limit, by themselves. By
            default it is not limited.
    """
    reject("robust", *_conflicts(method, rule, max_norm))
    if (rule, max_norm) == (MEAN, None):
        return method
    center: Rule | None = partial(trimmed_mean, trim=trim) if rule == "trimmed_mean" else RULES.find(rule)

    def down(net: Net, state: State, profile: Profile) -> Down:
        sent = method.down(net, state, profile)
        if not state.round:
            reject("robust", *_unfit(method, net, sent, profile))
        return sent

    def reduce(net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> Total:
        if max_norm is not None:
            ups = [up._replace(shared=clipped(net, down.shared, up.shared, max_norm)) for up in ups]
        if center is None:
            return method.reduce(net, state, down, ups, weights)
        received = down._replace(base={})  # replies travel between processes, and no rule reads the base
        replies = [Reply(received, up, weight) for up, weight in zip(ups, weights, strict=True)]
        return Total(sum(weights), Up({}), {}, tuple(replies))

    def server(net: Net, state: State, total: Total) -> State:
        _check_replies(rule, state, total)
        assert center is not None
        up = Up(combined(rule, center, [reply.up.shared for reply in total.replies]))
        return method.server(net, state, method.reduce(net, state, total.replies[0].down, [up], [total.weight]))

    made = method._replace(down=down, reduce=reduce)
    if center is None:
        return made
    return made._replace(server=server, traits=method.traits._replace(keeps_replies=True))


def clipped(net: Net, received: Params, sent: Params, bound: float) -> Params:
    """Return ``sent`` with a change of at most the norm ``bound`` from ``received``, and statistics likewise."""
    parts = (tree.omit(sent, net.buffers), tree.select(sent, [key for key in sent if key in net.buffers]))
    near = {key: value for part in parts for key, value in _bounded(received, part, bound).items()}
    return {key: near[key] for key in sent}


def _bounded(received: Params, sent: Params, bound: float) -> Params:
    start = {key: received[key].to(value.device).double() for key, value in sent.items()}
    change = tree.sub({key: value.double() for key, value in sent.items()}, start)
    size = float(tree.norm(change))
    if size <= bound:  # received + change could differ in the last bit
        return sent
    return tree.cast_like(tree.add(start, tree.scale(change, bound / size)), sent)


def _conflicts(method: Method, rule: str, max_norm: float | None) -> Iterator[str]:
    """Yield why the traits of the method exclude this rule or this limit."""
    name, traits, wraps = short(method.name), method.traits, method.config.get("wrap", [])
    chosen = f"aggregation.rule is {rule!r}, but" if rule != MEAN else f"aggregation.max_norm is {max_norm}, but"
    if rule != MEAN and traits.stacks:
        other = "set method.accumulate = 'factors'" if "accumulate" in method.config else "use fedlora or fedloru"
        yield (
            f"{chosen} {name} merges the products of all clients, which cannot be combined by coordinate: {other}, or "
            "limit their updates with aggregation.max_norm instead"
        )
    if rule != MEAN and traits.reweights:
        yield f"{chosen} {name} weights clients itself, which no other rule does: use fedlora or fedloru"
    if rule == MEAN and max_norm is not None and traits.prunes:
        yield f"{chosen} {name}'s clients may send less than they receive, so their updates have no norm: remove it"
    if (rule != MEAN or max_norm is not None) and traits.sends_aux:
        remedy = "remove scaffold" if any(wrap["name"] == "scaffold" for wrap in wraps) else "use fedlora or fedloru"
        yield f"{chosen} {name}'s clients also send control variates, which only their plain mean keeps right: {remedy}"
    if traits.keeps_replies:
        yield "robust is applied twice: set rule and max_norm together"


def _unfit(method: Method, net: Net, down: Down, profile: Profile) -> Iterator[str]:
    """Yield why a client of this profile sends nothing that can be combined or limited."""
    sent, _ = method.up(net, method.begin(net, down, {}, profile), down, {}, 1)
    name = short(method.name)
    if sent.aux:
        yield f"{name}'s clients send {min(sent.aux)} besides their weights, which robust aggregation cannot combine"
    shapes = {key: value.shape for key, value in down.shared.items()}
    others = [key for key, value in sent.shared.items() if shapes.get(key) != value.shape]
    if others:
        yield (
            f"{name}'s clients send {others[0]} in another form than they receive it, so it has no coordinates to "
            "combine and no norm to limit: remove [aggregation], or give all clients the same rank"
        )


def _check_replies(rule: str, state: State, total: Total) -> None:
    """Check that the replies of all clients are there, with the same tensors.

    Raises:
        ModelError: they are not.
    """
    replies, round = total.replies, state.round + 1
    if not replies or abs(sum(reply.weight for reply in replies) - total.weight) > 1e-6 * total.weight:
        raise ModelError(
            f"round {round}: the engine returned a sum, but rule {rule!r} needs the replies of all clients "
            "(Total.replies): use the engine 'sequential' or 'fused', or rule 'mean'"
        )
    forms = [({key: value.shape for key, value in reply.up.shared.items()}, bool(reply.up.aux)) for reply in replies]
    if any(form != (forms[0][0], False) for form in forms):
        raise ModelError(
            f"round {round}: clients sent tensors of different shapes, or additional ones, so rule {rule!r} cannot "
            "combine them: use rule 'mean', or give all clients the same rank"
        )
    if len(replies) < FEWEST:
        log.warning("round %d: with %d replies, rule '%s' protects against none of them", round, len(replies), rule)
