"""The rounds whose diagnostics are recorded: so few that they take a small share of the work of a run.

The work of both is estimated in multiplications, from the plan and the shapes of its tensors alone. So the same plan
has diagnostics in the same rounds on every machine, and after resuming.

    training and evaluation    3·m per example trained, m per example evaluated; m: the products of a forward pass
    a dense spectrum           2n²N + 7n³ for a matrix of n × N, n ≤ N, in float64
    a spectrum of factors      8·(2r)²(o + i)
    an aggregation gap         2·Kr·min(oi, Kr(o + i)) for K clients
    agreement of updates       20 per value of each client, as it is limited by memory
    losses around a merge      m per example and loss
    a small operation          100,000; there are 100 per local step, per client and in the diagnostics of a round, and
                               40 in those of a site
"""

from __future__ import annotations

import math

from fedloru import tree
from fedloru.data import by_length, size
from fedloru.evaluate import naming_examples
from fedloru.footprint import footprint
from fedloru.method import State, is_merge_round
from fedloru.run.diagnostics import LARGEST, MERGE_SAMPLE
from fedloru.run.plan import Plan
from fedloru.run.sampling import test_sizes

SHARE = 0.01
"""The share of the estimated work of a run that diagnostics take."""
OPERATION = 100_000
OPERATIONS = 100 * OPERATION


def interval(plan: Plan, first: State) -> int:
    """Return the number of rounds from which one is chosen for diagnostics; ``first`` is the initial state."""
    if plan.diagnostics_every is not None:
        return plan.diagnostics_every
    kinds = {"test": plan.dataset.test, "training": plan.dataset.train}
    kind = next((kind for kind, data in kinds.items() if data and size(data)), None)
    if not plan.diagnostics or kind is None:
        return 1
    with naming_examples(kind, kinds[kind], by_length(kinds[kind])[:1]):
        products = footprint(plan.net, plan.net.params | plan.net.buffers, kinds[kind]).products
    per_round = _training(plan, products) + test_sizes(plan)[0] * products / plan.eval_every
    extra = _statistics(plan, first) + (2 * MERGE_SAMPLE * products if _has_merge_losses(plan) else 0)
    return max(1, math.ceil(extra / (SHARE * per_round)))


def is_diagnosed(plan: Plan, every: int, round: int) -> bool:
    """Return whether ``round`` is the chosen one of its ``every`` rounds: the last that merges, or else the last."""
    if not plan.diagnostics:
        return False
    start = (round - 1) // every * every
    rounds = range(start + 1, min(start + every, plan.rounds) + 1)
    cycle = plan.method.traits.cycle
    merging = [t for t in rounds if cycle is not None and is_merge_round(cycle, t)]
    return round == (merging or rounds)[-1]


def _training(plan: Plan, products: int) -> float:
    """Return the work of training the cohort of a round; the steps of its clients may be taken at once."""
    recipe, held = plan.recipe, plan.partition.train
    examples = recipe.epochs * len(held.values) / max(1, len(held))
    if recipe.steps is not None:
        examples = recipe.steps * recipe.batch_size
    return plan.cohort * examples * 3 * products + OPERATIONS * (examples / recipe.batch_size + plan.cohort)


def _statistics(plan: Plan, first: State) -> float:
    net, clients = plan.net, plan.cohort
    dense = plan.method.traits.cycle not in (None, math.inf) or not net.factors <= first.shared.keys()
    work = 20.0 * clients * tree.size(first.shared) + OPERATIONS
    for site in net.sites:
        n, wide, stacked = min(site.o, site.i), max(site.o, site.i), clients * site.rank
        work += 40 * OPERATION + 8 * (2 * site.rank) ** 2 * (site.o + site.i)
        work += 2 * stacked * min(site.o * site.i, stacked * (site.o + site.i))
        if dense and n <= LARGEST:
            work += 2 * n**2 * wide + 7 * n**3
    return work


def _has_merge_losses(plan: Plan) -> bool:
    return plan.method.traits.cycle not in (None, math.inf) and plan.method.view is None
