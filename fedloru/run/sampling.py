"""Who and what is sampled: the clients of a round, the clients that are scored, and the test examples that are used."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from fedloru.data import size
from fedloru.rng import gen
from fedloru.run.plan import Plan


def sampled(plan: Plan, round: int, clients: Iterable[int], count: int | None = None) -> list[int]:
    """Return the first ``count`` of ``clients``, by default all, in the order in which they are sampled for ``round``.

    They are sampled without replacement.
    """
    seed = plan.seed if plan.cohort_seed is None else plan.cohort_seed
    return _drawn(plan, clients, gen(seed, "cohort", round), count)


def scored(plan: Plan, clients: Iterable[int]) -> list[int]:
    """Return those of ``clients`` that are scored, in order; the same in every round."""
    return sorted(_drawn(plan, clients, gen(plan.seed, "personal"), plan.eval_clients))


def _drawn(plan: Plan, clients: Iterable[int], generator: torch.Generator, count: int | None) -> list[int]:
    """Return the first ``count`` of ``clients``, some of which may have been enrolled during the run, in random order.

    All clients of the plan are drawn in any case, so that the order does not depend on which of them are present.
    """
    everybody = clients == range(plan.clients)
    there = frozenset[int]() if everybody else set(clients)
    drawn = torch.randperm(max(plan.clients, max(there, default=-1) + 1), generator=generator)
    if everybody:
        return drawn[:count].tolist()
    return [client for client in drawn.tolist() if client in there][:count]


def cohort(plan: Plan, round: int) -> list[int]:
    """Return the clients sampled for ``round`` if all are present, in order."""
    return sorted(sampled(plan, round, range(plan.clients), plan.cohort))


def tested(plan: Plan, examples: int, *path: str | int) -> Tensor | None:
    """Return the rows of ``examples`` test examples that are used, sorted; None if all are.

    They are the same in every round. ``path`` names the test set.
    """
    if plan.eval_examples is None or plan.eval_examples >= examples:
        return None
    drawn = torch.randperm(examples, generator=gen(plan.seed, "test examples", *path))
    return drawn[: plan.eval_examples].sort().values


def test_sizes(plan: Plan) -> tuple[int, int]:
    """Return the number of test examples that are used, and of all."""
    examples = size(plan.dataset.test) if plan.dataset.test else 0
    return min(examples, plan.eval_examples or examples), examples
