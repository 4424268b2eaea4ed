"""The rank of a contender is the one whose bytes are nearest to the target."""

from __future__ import annotations

import pytest
from claim import budget, parts, tables
from claim.contenders import Federation
from claim.runs import Job, Tuned, train

from tests.claims.small import NOWHERE, SMALL


@pytest.mark.parametrize("share", [0.02, 0.05, 0.1])
@pytest.mark.parametrize("contender", ["fedlora", "fedhm", "fedpara", "fedlmt", "fedmud", "fedloru"])
def test_the_rank_is_the_one_whose_bytes_are_nearest_to_the_target(contender: str, share: float) -> None:
    federation = Federation("mnist", 100, 10)
    target = share * budget.sent(federation, "fedavg", None, None, NOWHERE)
    chosen = budget.rank(federation, contender, None, share, NOWHERE)
    assert chosen is not None
    error = {r: abs(budget.sent(federation, contender, None, r, NOWHERE) - target) for r in range(1, chosen + 4)}
    assert error[chosen] == min(error.values())
    assert chosen == 1 or error[chosen] <= 0.2 * target


def test_a_shorter_cycle_costs_rank(small: None) -> None:
    federation = Federation("mnist", 100, 10)
    every, seldom = (budget.rank(federation, "fedloru-paper-best", cycle, 0.05, NOWHERE) for cycle in (1, 10))
    assert every is not None and seldom is not None
    assert every < seldom
    assert budget.rank(federation, "fedavg", None, 0.05, NOWHERE) is None


def test_the_measured_share_is_that_of_the_formula(small: None) -> None:
    rank = budget.rank(SMALL, "fedlora", None, 0.4, NOWHERE)
    jobs = {"fedavg": Job(SMALL, "fedavg", None, Tuned(0.1), 0), "fedlora": Job(SMALL, "fedlora", rank, Tuned(0.1), 0)}
    found = {parts.Wanted(SMALL, name, 0.4): {0: train(job, NOWHERE)} for name, job in jobs.items()}
    formula = [budget.sent(SMALL, name, None, job.rank, NOWHERE) for name, job in jobs.items()]
    measured = tables.share_of(found, parts.Wanted(SMALL, "fedlora", 0.4))
    assert measured == pytest.approx(formula[1] / formula[0], rel=0.05)  # envelopes are measured in addition
