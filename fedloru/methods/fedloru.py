"""FedLoRU: low-rank updates that accumulate into a model of high rank.

Park and Klabjan, "Communication-Efficient Federated Low-Rank Update Algorithm and its Connection to Implicit
Regularization", arXiv 2409.12371. Every message has low rank, and the total update a rank that grows with every merge.
There are two recipes: ``fedloru.methods.paper`` is the published one, and ``fedloru.methods.alternating`` ours, which
keeps the subspace that clients have found. ``docs/claims.md`` compares them.
"""

from __future__ import annotations

from inspect import signature
from typing import Annotated, Literal, Unpack

from fedloru.method import Method
from fedloru.methods.alternating import Local, alternating
from fedloru.methods.blocks import reject
from fedloru.methods.declare import method
from fedloru.methods.paper import Settings, paper
from fedloru.settings.types import When, Whole

Recipe = Literal["alternating", "paper"]


@method(
    trained="A, B in turn, merged every τ",
    aggregate="exact",
    rank="2r·T/τ",
    client_state="with dense",
    source="2409.12371",
    cases={
        "": {"tau": 1},
        "dense": {"tau": 2, "local": "dense"},
        "paper": {"recipe": "paper", "tau": 2},
        "list": {"recipe": "paper", "tau": [2, 3]},
        "keep": {"recipe": "paper", "tau": 2, "reset": "keep"},
        "published": {"recipe": "paper", "tau": 2, "base": "zero", "init": "both"},
        "exact": {"recipe": "paper", "tau": 2, "accumulate": "exact"},
        "truncated": {"recipe": "paper", "tau": 2, "accumulate": "exact", "accumulate_rank": 2},
    },
    extends=paper,
)
def fedloru(
    *,
    recipe: Recipe = "alternating",
    local: Annotated[Local, When("recipe", ("alternating",))] = "factors",
    memory: Annotated[Whole, When("recipe", ("alternating",))] = 10,
    **settings: Unpack[Settings],
) -> Method:
    """FedLoRU: trains low-rank factors of a frozen model, and merges them into the model every tau rounds.

    Values in each direction with `alternating`: min(2r, o, i) times o or i for each site in turn, and θ; down, factors
    that are 0 are not sent. With `paper`: r(o + i) for each site, and θ; down, fresh factors are not sent.

    Args:
        recipe: what a merge is followed by: `alternating` fixes a basis of the merged factor and trains the other
            factor, at rank 2r; `paper` draws new factors, as published. The settings reset, base, init, accumulate and
            accumulate_rank belong to `paper`.
        local: what clients train: `factors` is the factor that is not fixed; `dense` is the whole weight, whose change
            is projected on the fixed factor before it is sent. It costs the work and the memory of FedAvg.
        memory: the number of rounds for which a client keeps what the projection of its change has left over, to add it
            to its next change; 0 keeps nothing. It applies to `dense`.
        settings: tau, and the settings of the published recipe.
    """
    if recipe == "paper":
        return paper(**settings)
    tau = settings.pop("tau", None)
    defaults = {name: parameter.default for name, parameter in signature(paper).parameters.items()}
    reject(
        "fedloru",
        *(
            f"{name} is {value!r}, but the recipe 'alternating' has no such setting: set recipe = 'paper', or remove it"
            for name, value in settings.items()
            if value != defaults[name]
        ),
    )
    return alternating(tau=1 if tau is None else tau, local=local, memory=memory)
