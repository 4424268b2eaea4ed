"""SCAFFOLD: correct the drift of clients by control variates.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
ICML 2020, arXiv 1910.06378, algorithm 1 with option II::

    clients   y ← y − η(g_k(y) − c_k + c), S steps from the received x;  c_k⁺ = c_k − c + (x − y)/(Sη)
    server    x by the wrapped method;  c ← c + (1/K) Σ (c_k⁺ − c_k) over the cohort, of K clients in all

The correction is the gradient of the penalty ⟨c − c_k, y⟩. ``lr`` is η, the clients' learning rate: (x − y)/(Sη) is
the mean gradient for plain SGD at that constant rate (weight decay counts as part of the loss). Under momentum, Adam,
clipping or a schedule it is the mean step in units of η, and the method a heuristic. The paper's server averages with
equal weights and a step size; here both are the wrapped method's. Only what is received and trained is corrected, which
leaves statistics and private tensors out. After a merge factors are other variables, and their variates are 0, on the
server at once, on a client when it next takes part. ``clip`` does not bound c_k⁺ − c_k.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fedloru import tree
from fedloru.method import Down, Method, Profile, State, Total, Up, Values
from fedloru.methods.settings import expect, refuse
from fedloru.methods.wrappers.record import wrapped
from fedloru.methods.wrappers.variates import VERSION, C, of_client, rest, variates, zeros
from fedloru.net import Net
from fedloru.tree import Params


def scaffold(method: Method, *, lr: float, clients: int) -> Method:
    """Return ``method`` with control variates, as many values as are trained and shared, each way.

    ``lr`` is the clients' constant learning rate, ``clients`` their number, whether they take part or not.

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
        refuse("scaffold", _of_other_tensors(method, net, state))
        return state._replace(aux=state.aux | zeros(net, state.shared))

    def down(net: Net, state: State, profile: Profile) -> Down:
        differ = "control variates need clients that are all alike: give them no capacities"
        refuse("scaffold", differ if profile else None)
        sent = method.down(net, state, profile)
        return sent._replace(aux=sent.aux | variates(state.aux))

    def begin(net: Net, down: Down, client_state: Params, profile: Profile) -> Params:
        train = method.begin(net, down, rest(client_state), profile)
        several = method.phases is not None and len(method.phases(net, train)) > 1
        refuse("scaffold", f"{method.name} trains in several phases, and S would count all" if several else None)
        return train

    def penalty(net: Net, train: Params, down: Down, client_state: Params) -> Tensor:
        kept = of_client(net, train, down, client_state)
        terms = [((down.aux[C + key] - c).to(train[key].dtype) * train[key]).sum() for key, c in kept.items()]
        term = torch.stack(terms).sum()
        return term if method.penalty is None else term + method.penalty(net, train, down, rest(client_state))

    def up(net: Net, train: Params, down: Down, client_state: Params, steps: int) -> tuple[Up, Params]:
        sent, others = method.up(net, train, down, rest(client_state), steps)
        kept = of_client(net, train, down, client_state)
        gradient = {C + key: (down.shared[key] - train[key]).to(c.dtype) / (steps * lr) for key, c in kept.items()}
        change = tree.sub(gradient, down.aux)
        mine = {C + key: c + change[C + key] for key, c in kept.items()}
        version = next(iter(train.values())).new_tensor(down.version, dtype=torch.int64)
        return sent._replace(aux=sent.aux | change), others | variates(client_state) | mine | {VERSION: version}

    def reduce(net: Net, state: State, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> Total:
        total = method.reduce(net, state, down, [up._replace(aux=rest(up.aux)) for up in ups], weights)
        equally = tree.weighted_sum((variates(up.aux) for up in ups), [1.0] * len(ups))
        return total._replace(sum=total.sum._replace(aux=total.sum.aux | equally))

    def server(net: Net, state: State, total: Total) -> State:
        after = method.server(net, state, total)
        moved = {name: state.aux[name] + change / clients for name, change in variates(total.sum.aux).items()}
        if after.version != state.version:
            moved |= zeros(net, tree.select(after.shared, net.factors & after.shared.keys()))
        return after._replace(aux=after.aux | moved)

    def values(net: Net, round: int, cohort: Sequence[Profile], profile: Profile) -> Values:
        inner = method.values(net, round, cohort, profile)
        down = inner.down | {"aux": tree.size(zeros(net, method.init(net, 0).shared))}
        up = inner.up | {"aux": inner.up.get("factors", 0) + inner.up.get("dense", 0)}
        return inner._replace(down=down, up=up)

    made = wrapped(method, "scaffold", {"lr": lr, "clients": clients})
    made = made._replace(init=init, down=down, begin=begin, penalty=penalty, up=up)
    return made._replace(reduce=reduce, server=server, values=values)


def _of_other_tensors(method: Method, net: Net, state: State) -> str | None:
    """Say whether clients send other tensors than the server has, such as factors for a dense weight."""
    down = method.down(net, state, ())
    sent, _ = method.up(net, method.begin(net, down, {}, ()), down, {}, 1)
    others = sorted(sent.shared.keys() - state.shared.keys())
    return f"{method.name}'s clients send {others[0]}, which the server does not have to correct" if others else None
