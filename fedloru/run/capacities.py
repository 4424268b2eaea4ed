"""Clients of different capacity: the ranks that they can train."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from fedloru.method import Profile
from fedloru.rng import gen


def capacities(clients: int, shares: Mapping[int, float], seed: int) -> tuple[Profile, ...]:
    """Assign ranks to clients at random; ``shares`` maps each rank to its share of clients.

    All other clients have the full rank.
    """
    order = torch.randperm(clients, generator=gen(seed, "capacities")).tolist()
    profiles: list[Profile] = [()] * clients
    start = 0
    for rank, share in shares.items():
        stop = start + round(share * clients)
        for client in order[start:stop]:
            profiles[client] = (("rank", float(rank)),)
        start = stop
    return tuple(profiles)
