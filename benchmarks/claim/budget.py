"""The rank with which a method sends a wanted share of FedAvg's bytes, from the byte formula."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from claim import tasks
from claim.contenders import BASELINE, CONTENDERS, Federation
from fedloru.errors import ModelError
from fedloru.method import planned
from fedloru.rng import gen
from fedloru.settings.types import RunSize
from fedloru.wire import cost

LARGEST = 256
"""The highest rank that is tried."""


def rank(federation: Federation, contender: str, cycle: int | None, share: float, folder: Path) -> int | None:
    """Return the rank whose bytes are nearest to ``share`` of FedAvg's; None for a method without a rank.

    The bytes of both directions count, with catch-up, without the first download. A layer whose rank would be too high
    stays dense, so more rank may mean more bytes than the formula of one layer says; all ranks up to the first one
    above the target are compared.
    """
    if not CONTENDERS[contender].ranked:
        return None
    wanted = share * sent(federation, BASELINE, None, None, folder)
    best, nearest = 1, float("inf")
    for tried in range(1, LARGEST + 1):
        try:
            found = sent(federation, contender, cycle, tried, folder)
        except ModelError:
            break
        if abs(found - wanted) < nearest:
            best, nearest = tried, abs(found - wanted)
        if found > wanted:
            break
    return best


@cache
def sent(federation: Federation, contender: str, cycle: int | None, rank: int | None, folder: Path) -> int:
    """Return the bytes of a run without the first download and without envelopes."""
    rounds = tasks.TASKS[federation.task].rounds
    chosen = CONTENDERS[contender]
    method = planned(chosen.make(cycle), RunSize(rounds, federation.cohort / federation.clients))
    model, clients = tasks.net(federation.task, folder, rank), cohorts(federation, rounds)
    traffic = cost(model, method, clients, codec=chosen.codec, first_download=False)
    return sum(each.total("down") + each.total("up") for each in traffic)


def cohorts(federation: Federation, rounds: int) -> list[list[int]]:
    """Return cohorts for the byte formula, drawn like those of a run."""
    return [
        torch.randperm(federation.clients, generator=gen(0, "cohort", round))[: federation.cohort].tolist()
        for round in range(1, rounds + 1)
    ]
