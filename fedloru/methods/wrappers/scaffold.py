"""SCAFFOLD: correct the drift of clients by control variates.

Karimireddy, Kale, Mohri, Reddi, Stich, Suresh, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning",
ICML 2020, arXiv 1910.06378, algorithm 1 with option II::

    clients   y ← y − η(g_k(y) − c_k + c), S steps from the received x;  c_k⁺ = c_k − c + (x − y)/(Sη)
    server    x by the wrapped method;  c ← c + (1/K) Σ (c_k⁺ − c_k) over the cohort, of K clients in all

The correction is the gradient of the penalty ⟨c − c_k, y⟩. ``lr`` is η, the clients' learning rate: (x − y)/(Sη) is
the mean gradient for plain SGD at that constant rate (weight decay counts as part of the loss). With momentum, Adam,
clipping or a schedule, it is the mean step in units of η, and the method becomes a heuristic. The paper's server
averages with equal weights and a step size; here, the wrapped method determines both. Only tensors that are both
received and trained are corrected, which excludes statistics and private tensors. After a merge, the factors are new
variables, and their variates are reset to 0: on the server immediately, on a client when it next takes part. ``clip``
does not bound c_k⁺ − c_k.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fedloru import lowrank, tree
from fedloru.method import Down, Method, Profile, State, Total, Up, Values
from fedloru.methods.blocks import reject
from fedloru.methods.declare import wrapper
from fedloru.methods.wrappers.variates import VERSION, C, of_client, rest, variates, zeros
from fedloru.net import Net
from fedloru.recipe import Recipe
from fedloru.settings import short
from fedloru.settings.types import Count, Positive
from fedloru.tree import Params


def _from_run(recipe: Recipe, clients: int) -> dict[str, Any]:
    """Return the learning rate and the number of clients of a run.

    Raises:
        ConfigError: the local solver is not plain SGD at a constant rate, so that changes are not gradients.
    """
    required = {"optimizer": "sgd", "momentum": 0.0, "schedule": "constant"}
    reject(
        "scaffold",
        *(
            f"client.{key} is {getattr(recipe, key)!r}, but scaffold reads a client's change as its gradient at the "
            f"rate client.lr: set client.{key} = {value!r}, or remove scaffold"
            for key, value in required.items()
            if getattr(recipe, key) != value
        ),
    )
    return {"lr": recipe.rate, "clients": clients}


@wrapper(
    cases={
        "scaffold": ("fedloru", {"recipe": "paper", "tau": 2}, {"lr": 0.1, "clients": 5}),
        "scaffold-rolora": ("rolora", {}, {"lr": 0.1, "clients": 5}),
    },
    from_run=_from_run,
)
def scaffold(method: Method, *, lr: Positive, clients: Count) -> Method:
    """SCAFFOLD: control variates correct the drift of clients; for SGD at a constant learning rate.

    In each direction, one additional value is sent for each value that is trained and shared.

    Args:
        lr: the clients' constant learning rate.
        clients: the number of all clients, in the cohort or not.
    """
    several = f"{short(method.name)} trains in several phases, but scaffold supports only one: use fedloru"
    inside = "scaffold needs the messages of all clients, not their median: remove robust"
    reject(
        "scaffold",
        several if method.traits.several_phases else None,
        inside if method.traits.keeps_replies else None,
    )

    def init(net: Net, seed: int) -> State:
        state = method.init(net, seed)
        turns = "train other factors after every merge, so that control variates never apply"
        other = f"clients of {short(method.name)} {turns}: set method.recipe = 'paper', or remove scaffold"
        reject(
            "scaffold",
            _of_other_tensors(method, net, state),
            other if lowrank.alternates(net.sites, state.base) else None,
        )
        return state._replace(aux=state.aux | zeros(net, state.shared))

    def down(net: Net, state: State, profile: Profile) -> Down:
        differ = "control variates need clients of one rank: remove lowrank.capacities, or scaffold"
        reject("scaffold", differ if profile else None)
        sent = method.down(net, state, profile)
        return sent._replace(aux=sent.aux | variates(state.aux))

    def begin(net: Net, down: Down, client_state: Params, profile: Profile) -> Params:
        return method.begin(net, down, rest(client_state), profile)

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
        updated = {C + key: c + change[C + key] for key, c in kept.items()}
        version = next(iter(train.values())).new_tensor(down.version, dtype=torch.int64)
        return sent._replace(aux=sent.aux | change), others | variates(client_state) | updated | {VERSION: version}

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

    traits = method.traits._replace(sends_aux=True)
    made = method._replace(init=init, down=down, begin=begin, penalty=penalty, up=up, traits=traits)
    return made._replace(reduce=reduce, server=server, values=values)


def _of_other_tensors(method: Method, net: Net, state: State) -> str | None:
    """Return the problem if clients send tensors that the server does not have; these cannot be corrected."""
    down = method.down(net, state, ())
    sent, _ = method.up(net, method.begin(net, down, {}, ()), down, {}, 1)
    others = sorted(sent.shared.keys() - state.shared.keys())
    problem = "which the server does not have, so scaffold cannot correct it"
    return f"{short(method.name)}'s clients send {others[0]}, {problem}" if others else None
