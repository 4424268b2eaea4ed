"""SCAFFOLD: correct the drift of clients by control variates.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
ICML 2020, arXiv 1910.06378, algorithm 1 with option II::

    clients   y ← y − η(g_k(y) − c_k + c), S steps from the received x;  c_k⁺ = c_k − c + (x − y)/(Sη)
    server    x by the wrapped method;  c ← c + (1/K) Σ (c_k⁺ − c_k) over the cohort, of K clients in all

The correction is the gradient of the penalty ⟨c − c_k, y⟩. ``lr`` is η, the clients' learning rate: (x − y)/(Sη) is
the mean gradient for plain SGD at that constant rate (weight decay counts as part of the loss). Under momentum, Adam,
clipping or a schedule it is the mean step in units of η, and the method a heuristic. The paper's server averages with
equal weights and a step size; here both are the wrapped method's. Only what is received and trained is corrected, which
leaves statistics and private tensors out. A merge makes other variables of the factors: their variates are then 0, on
the server at once, on a client when it next takes part, which it tells by the version that it kept. ``clip`` does not
bound c_k⁺ − c_k.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedloru import tree
from fedloru.errors import ConfigError
from fedloru.method import Down, Method, Phase, Profile, State, Total, Up, Values
from fedloru.methods.settings import expect, refuse
from fedloru.methods.wrappers.record import wrapped
from fedloru.net import Net
from fedloru.tree import Params

C, VERSION = "scaffold.c.", "scaffold.version"


def scaffold(method: Method, *, lr: float, clients: int) -> Method:
    """Return ``method`` with control variates, as many values as are trained and shared, each way.

    Args:
        method: what is wrapped.
        lr: the clients' constant learning rate.
        clients: how many clients there are, whether they take part or not.

    Raises:
        ConfigError: a setting is out of range.
    """
    refuse(
        "scaffold",
        expect(0 < lr < math.inf, "lr", lr, "a number above 0"),
        expect(clients >= 1, "clients", clients, "1 or more"),
    )

    def init(net: Net, seed: int) -> State:
        state = method.init(net, seed)
        return state._replace(aux=state.aux | _zeros(_controlled(net, state.shared)))

    def down(net: Net, state: State, profile: Profile) -> Down:
        if profile:
            raise ConfigError(["control variates need clients that are all alike: give them no capacities"], "scaffold")
        variates, rest = _split(state.aux)
        sent = method.down(net, state._replace(aux=rest), profile)
        return sent._replace(aux=sent.aux | variates, version=state.version)

    def begin(net: Net, down: Down, own: Params, profile: Profile) -> Params:
        return method.begin(net, down, _split(own)[1], profile)

    def phases(net: Net, train: Params) -> tuple[Phase, ...]:
        found = method.phases(net, train) if method.phases else ()
        if len(found) > 1:
            raise ConfigError([f"{method.name} trains in {len(found)} phases, and S would count all"], "scaffold")
        return found

    def penalty(net: Net, train: Params, down: Down, own: Params) -> Tensor:
        variates = _variates(net, train, down, own)
        terms = [((down.aux[C + k] - c).to(train[k].dtype) * train[k]).sum() for k, c in variates.items()]
        term = torch.stack(terms).sum()
        return term if method.penalty is None else term + method.penalty(net, train, down, _split(own)[1])

    def up(net: Net, train: Params, down: Down, own: Params, steps: int) -> tuple[Up, Params]:
        sent, kept = method.up(net, train, down, _split(own)[1], steps)
        variates = _variates(net, train, down, own)
        gradient = {k: (down.shared[k] - train[k]).to(c.dtype) / (steps * lr) for k, c in variates.items()}
        change = {C + k: gradient[k] - down.aux[C + k] for k in variates}
        mine = {C + k: c + change[C + k] for k, c in variates.items()}
        version = next(iter(train.values())).new_tensor(down.version, dtype=torch.int64)
        return sent._replace(aux=sent.aux | change), kept | _split(own)[0] | mine | {VERSION: version}

    def reduce(net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> Total:
        changes, rests = zip(*(_split(up.aux) for up in ups), strict=True)
        inner = [up._replace(aux=rest) for up, rest in zip(ups, rests, strict=True)]
        total = method.reduce(net, state, down, inner, weights)
        equally = tree.weighted_sum(changes, [1.0] * len(ups))
        return total._replace(sum=total.sum._replace(aux=total.sum.aux | equally))

    def server(net: Net, state: State, total: Total) -> State:
        change, rest = _split(total.sum.aux)
        variates, aux = _split(state.aux)
        after = method.server(net, state._replace(aux=aux), total._replace(sum=total.sum._replace(aux=rest)))
        moved = {key: c + change[key] / clients if key in change else c for key, c in variates.items()}
        if after.version != state.version:
            moved |= _zeros({k: v for k, v in after.shared.items() if _is_factor(net, k)})
        return after._replace(aux=after.aux | moved)

    def values(net: Net, round: int, cohort: Sequence[Profile], profile: Profile) -> Values:
        inner = method.values(net, round, cohort, profile)
        down = inner.down | {"aux": tree.size(_controlled(net, method.init(net, 0).shared))}
        up = inner.up | {"aux": inner.up.get("factors", 0) + inner.up.get("dense", 0)}
        return inner._replace(down=down, up=up)

    made = wrapped(method, "scaffold", {"lr": lr, "clients": clients})
    made = made._replace(init=init, down=down, begin=begin, penalty=penalty, up=up, reduce=reduce)
    return made._replace(server=server, values=values, phases=phases if method.phases else None)


def _controlled(net: Net, shared: Params) -> Params:
    return {key: value for key, value in shared.items() if key not in net.buffers}


def _is_factor(net: Net, key: str) -> bool:
    return key in net.factors or (key not in net.params and key not in net.buffers)


def _zeros(like: Params) -> Params:
    """Return variates of 0, in float32 or better."""
    wide = {key: torch.promote_types(value.dtype, torch.float32) for key, value in like.items()}
    return {C + key: torch.zeros_like(value, dtype=wide[key]) for key, value in like.items()}


def _split(tensors: Mapping[str, Tensor]) -> tuple[Params, Params]:
    """Return what belongs to this wrapper, and the rest."""
    mine = {key: value for key, value in tensors.items() if key.startswith(C)}
    return mine, tree.omit(tensors, [*mine, VERSION])


def _variates(net: Net, train: Params, down: Down, own: Params) -> Params:
    """Return c_k of everything that is received and trained: 0 at first, and for factors that were merged since."""
    found = {}
    for key in train:
        if (c := down.aux.get(C + key)) is not None:
            old = own.get(C + key, torch.zeros_like(c))
            if VERSION in own and _is_factor(net, key):
                old = torch.where(own[VERSION] == down.version, old, torch.zeros_like(old))
            found[key] = old
    return found
