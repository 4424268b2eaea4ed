"""The clients of a federation, as rows of a table or of JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fedloru.flower.roster import Client, Seen
from fedloru.report import units
from fedloru.report.columns import Column, Listing, Row


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.2f}"


COLUMNS = (
    Column("client", "client"),
    Column("status", "status", wraps=False),
    Column("last_seen", "last seen", lambda time: time[5:16].replace("T", " "), wraps=False, missing="never"),
    Column("fedloru", "fedloru", wraps=False, missing=""),
    Column("base", "base", right=True, wraps=False, missing=""),
    Column("round", "round", right=True, wraps=False, missing=""),
    Column("examples", "examples", units.plain, right=True, wraps=False, missing=""),
    Column("up_bytes", "MB up", _megabytes, right=True, wraps=False, missing=""),
    Column("down_bytes", "down", _megabytes, right=True, wraps=False, missing=""),
)
ACCURACY = Column("accuracy", "score", units.percent, right=True, wraps=False, missing="")
LOSS = Column("loss", "loss", units.decimal, right=True, wraps=False, missing="")


def listing(clients: Sequence[Client], seen: Mapping[str, Seen], running: bool) -> Listing:
    """Return the enrolled clients, with what the server last saw of each.

    If the server is not ``running``, no client is online. The score is the accuracy on the client's own test examples,
    or, without classes, the loss.
    """
    rows = [_row(client, seen.get(client.name, Seen()), running) for client in clients]
    has_classes = any(row["accuracy"] is not None for row in rows) or all(row["loss"] is None for row in rows)
    return Listing((*COLUMNS, ACCURACY if has_classes else LOSS), rows, compact=True)


def problems(clients: Sequence[Client], seen: Mapping[str, Seen]) -> Iterator[str]:
    """Yield why clients do not take part, or why their last reply was not used."""
    for client in clients:
        if problem := seen.get(client.name, Seen()).problem:
            yield f"{client.name}: {problem}"


def _row(client: Client, each: Seen, running: bool) -> Row:
    """Return a row, in which what the server never saw is None."""
    known = bool(each.last_seen)
    return {
        "client": client.name,
        "status": "removed" if client.removed else "online" if each.online and running else "away",
        "last_seen": each.last_seen or None,
        "fedloru": each.fedloru or None,
        "base": each.version,
        "round": each.round or None,
        "examples": each.examples if known else None,
        "up_bytes": each.up_bytes if known else None,
        "down_bytes": each.down_bytes if known else None,
        "accuracy": each.accuracy,
        "loss": each.loss,
        "problem": each.problem or None,
    }
