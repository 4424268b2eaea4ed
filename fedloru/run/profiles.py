"""Clients that differ, accounted apart: what each profile sent and received, in a round and over a run.

Profiles go by their ``words``. Where clients are alike there is one account, the total, and nothing is added here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedloru.method import Profile, profile_name
from fedloru.run.plan import Plan, profile
from fedloru.wire import Traffic

Told = dict[str, dict[str, Any]]
"""What is told of each profile, by its words."""


def of_round(plan: Plan, cohort: Sequence[int], accounts: Mapping[Profile, Traffic]) -> dict[str, Told]:
    """Return, by profile, the clients of a round and their bytes, without the kinds that took none."""
    if not any(plan.profiles):
        return {}
    clients = Counter(profile(plan, client) for client in cohort)
    return {"profiles": {profile_name(p): {"clients": n, **_spent(accounts[p])} for p, n in sorted(clients.items())}}


def of_run(plan: Plan, rows: Iterable[Mapping[str, Any]]) -> dict[str, Told]:
    """Return, by profile, its clients, the rounds they took part in, summed over them, and all their bytes."""
    if not any(plan.profiles):
        return {}
    rounds = [row["profiles"] for row in rows]
    return {
        "profiles": {
            profile_name(p): _summed(profile_name(p), n, rounds) for p, n in sorted(Counter(plan.profiles).items())
        }
    }


def _summed(name: str, clients: int, rounds: Sequence[Told]) -> dict[str, Any]:
    lines = [line[name] for line in rounds if name in line]
    total = sum((Traffic(line["down"], line["up"]) for line in lines), Traffic())
    return {"clients": clients, "client_rounds": sum(line["clients"] for line in lines), **total.table()}


def _spent(account: Traffic) -> dict[str, dict[str, int]]:
    return {way: {kind: count for kind, count in kinds.items() if count} for way, kinds in account.table().items()}
