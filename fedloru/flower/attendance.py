"""What the row of a round says about the clients of a federation, by name; sized for cohorts of thousands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from fedloru.errors import plain
from fedloru.flower.protocol import Scores
from fedloru.flower.round import Round
from fedloru.flower.scores import score_of
from fedloru.personal import digits
from fedloru.wire import Traffic

REASON, REASONS = 300, 100
"""The length to which a reason is cut, and the number of refusals in a round whose reasons are kept."""


def attendance(done: Round, name: Callable[[int], str]) -> dict[str, Any]:
    """Return who was asked in a round, who replied, and who did not and why."""
    unused = {client: traffic for client, traffic in done.by_client.items() if client not in done.replies}
    return {
        "asked": len(done.by_client),
        "clients": {
            name(client): {
                "examples": int(reply.weight),
                "loss": _digits(reply.loss),
                "seconds": _digits(done.seconds[client]),
                "up_bytes": done.by_client[client].total("up"),
                "down_bytes": done.by_client[client].total("down"),
            }
            for client, reply in sorted(done.replies.items())
        },
        "refused": [
            {"client": name(client), "reason": plain(reason, REASON) if number < REASONS else ""}
            for number, (client, reason) in enumerate(done.refused)
        ],
        "lost": [name(client) for client in done.lost],
        "late": done.dropped,
        "down_bytes": {name(client): traffic.total("down") for client, traffic in sorted(unused.items())},
    }


def score_table(
    found: Mapping[int, Scores], spent: Mapping[int, Traffic], name: Callable[[int], str]
) -> dict[str, Any]:
    """Return the scores of clients on their own test examples, and the bytes exchanged for them."""
    return {
        name(client): {
            "units": each.shared.units,
            "shared": digits(score_of(each.shared).numbers),
            **({"personal": digits(score_of(each.personal).numbers)} if each.personal else {}),
            "up_bytes": spent[client].total("up"),
            "down_bytes": spent[client].total("down"),
        }
        for client, each in sorted(found.items())
    }


def _digits(value: float) -> float:
    """Return a number with six significant digits, which is enough to show, and shorter in JSON."""
    return float(f"{value:.6g}")
