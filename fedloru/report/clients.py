"""The clients of a federation on the page of a run: by name, which rounds they took part in, and what went wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, NamedTuple

from fedloru.errors import plain, quoted
from fedloru.report import units
from fedloru.report.client_scores import by_model
from fedloru.report.records import Records

NAME, REASON = 40, 300
"""The lengths to which names and reasons are cut."""
ROWS, REFUSALS = 200, 50
"""The maximum number of clients in the table, and of refusals in the list."""


@dataclass
class Client:
    """What the rounds of a run say about a client; ``accuracy`` and ``personal`` are its last shared scores.

    In a regression, which has no accuracy, ``test_loss`` is shown instead.
    """

    name: str
    rounds: int = 0
    examples: int | None = None
    loss: float | None = None
    seconds: list[float] = field(default_factory=list)
    up: int = 0
    down: int = 0
    refused: int = 0
    lost: int = 0
    accuracy: float | None = None
    test_loss: float | None = None
    personal: float | None = None


class Refusal(NamedTuple):
    """A reply that was not used, or an order that the client refused."""

    round: int
    client: str
    reason: str


def is_federation(records: Records) -> bool:
    """Return whether real clients took part in a run, or the code of a federation was simulated."""
    return any(row.get("federation") for row in records.rounds)


def clients(records: Records) -> list[Client]:
    """Return all clients in the order of their enrollment; clients that the run folder does not list come last."""
    found = {name: Client(name) for name in records.names}

    def client(name: str) -> Client:
        return found.setdefault(name, Client(name))

    for row in records.rounds:
        came = row.get("federation") or {}
        for name, reply in came.get("clients", {}).items():
            each = client(name)
            each.rounds += 1
            each.examples, each.loss = reply["examples"], reply["loss"]
            each.seconds.append(reply["seconds"])
            each.up, each.down = each.up + reply["up_bytes"], each.down + reply["down_bytes"]
        for entry in came.get("refused", []):
            client(entry["client"]).refused += 1
        for name in came.get("lost", []):
            client(name).lost += 1
        for name, sent in came.get("down_bytes", {}).items():
            client(name).down += sent
        for name, score in row.get("client_scores", {}).items():
            each = client(name)
            models = by_model(score)
            each.accuracy, each.test_loss = models["shared"].get("accuracy"), models["shared"].get("loss")
            each.personal = models.get("personal", {}).get("accuracy")
            each.up, each.down = each.up + score.get("up_bytes", 0), each.down + score.get("down_bytes", 0)
    return list(found.values())


def selected(all: Sequence[Client], limit: int) -> list[Client]:
    """Return at most ``limit`` clients: if there are more, those with the most refused or lost requests."""
    if len(all) <= limit:
        return list(all)
    worst = sorted(range(len(all)), key=lambda index: -(all[index].refused + all[index].lost))[:limit]
    return [all[index] for index in sorted(worst)]


def which(all: Sequence[Client], limit: int) -> str:
    """Return which of all clients ``selected`` returns, for a caption; "" if it returns all."""
    omitted = len(all) > limit
    return f"The {limit} of {len(all):,} clients with the most refused or lost requests. " if omitted else ""


CAPTION = (
    "Rounds: in which the reply of the client is in the average. Examples: as it stated last. Loss: of its last local "
    "training. Time: mean of its local training. Refused: replies that were not used, and orders that it "
    "refused. Lost: orders after which it left or missed the deadline. MB: 10⁶ bytes."
)


def table(records: Records) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of the table of clients."""
    every = clients(records)
    scored = any(each.accuracy is not None for each in every)
    own = any(each.personal is not None for each in every)
    head = ["client", "rounds", "examples", "loss", "time", "MB up", "MB down", "refused", "lost"]
    tested = not scored and any(each.test_loss is not None for each in every)
    head += ["loss, own test"] if tested else []
    head += [*(["accuracy, own test"] if scored else ()), *(["personal model"] if own else ())]
    rows = []
    for each in selected(every, ROWS):
        cells = [shown(each.name), f"{each.rounds:,}", units.DASH if each.examples is None else f"{each.examples:,}"]
        cells += [units.decimal(each.loss), units.duration(fmean(each.seconds) if each.seconds else None)]
        cells += [f"{count / 1e6:,.3f}" for count in (each.up, each.down)]
        cells += [f"{each.refused:,}", f"{each.lost:,}"]
        cells += [units.decimal(each.test_loss)] if tested else []
        cells += [*([units.percent(each.accuracy)] if scored else ()), *([units.percent(each.personal)] if own else ())]
        rows.append(cells)
    return head, rows


def refusals(records: Records) -> list[Refusal]:
    """Return all refusals of the run, the last one first."""
    return [
        Refusal(row["round"], entry["client"], entry.get("reason", ""))
        for row in reversed(records.rounds)
        for entry in reversed((row.get("federation") or {}).get("refused", []))
    ]


def refusal_rows(found: Sequence[Refusal]) -> Iterator[tuple[str, str, str]]:
    """Yield the last refusals as rows of a table: round, client and reason."""
    for each in found[:REFUSALS]:
        yield f"{each.round:,}", shown(each.client), plain(each.reason, REASON) or "not recorded"


def stated(records: Records) -> Mapping[str, Any]:
    """Return the numbers of training examples that clients have stated, for the section on the data."""
    sizes = [each.examples for each in clients(records) if each.examples is not None]
    if not sizes:
        return {}
    return {
        "clients that took part": f"{len(sizes):,}",
        "their training examples, as they state": f"{sum(sizes):,}",
        "examples per client, minimum": f"{min(sizes):,}",
        "examples per client, median": f"{median(sizes):,g}",
        "examples per client, maximum": f"{max(sizes):,}",
    }


def shown(name: str) -> str:
    """Return the name of a client as it is displayed."""
    return plain(name, NAME) if name.strip() else quoted(name, NAME)
