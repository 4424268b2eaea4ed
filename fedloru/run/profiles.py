"""Statistics by client profile: the clients and bytes of each profile, in a round and over a run.

Profiles are identified by ``profile_name``. If all clients have the default profile, nothing is added to the totals.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fedloru.method import Profile, profile_name
from fedloru.run.plan import Plan, profile
from fedloru.wire import Traffic

ByProfile = dict[str, dict[str, Any]]
"""The statistics of each profile, by its name."""


def of_round(plan: Plan, cohort: Sequence[int], accounts: Mapping[Profile, Traffic]) -> dict[str, ByProfile]:
    """Return the clients of a round and their bytes by profile, without kinds of 0 bytes."""
    if not any(plan.profiles):
        return {}
    clients = Counter(profile(plan, client) for client in cohort)
    return {"profiles": {profile_name(p): {"clients": n, **_nonzero(accounts[p])} for p, n in sorted(clients.items())}}


def of_run(plan: Plan, rows: Iterable[Mapping[str, Any]]) -> dict[str, ByProfile]:
    """Return, by profile, the number of clients, their total number of participations, and their total bytes."""
    if not any(plan.profiles):
        return {}
    rounds = [row["profiles"] for row in rows]
    return {
        "profiles": {
            profile_name(p): _total(profile_name(p), n, rounds) for p, n in sorted(Counter(plan.profiles).items())
        }
    }


def _total(name: str, clients: int, rounds: Sequence[ByProfile]) -> dict[str, Any]:
    lines = [line[name] for line in rounds if name in line]
    total = sum((Traffic(line["down"], line["up"]) for line in lines), Traffic())
    return {"clients": clients, "client_rounds": sum(line["clients"] for line in lines), **total.table()}


def _nonzero(account: Traffic) -> dict[str, dict[str, int]]:
    return {way: {kind: count for kind, count in kinds.items() if count} for way, kinds in account.table().items()}
