"""The table of the clients of a federation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.table import Table
from rich.text import Text

from fedloru.flower.roster import Client, Seen
from fedloru.report import units


def listing(clients: Sequence[Client], seen: Mapping[str, Seen], running: bool) -> Table:
    """Return the table of enrolled clients, with what the server last saw of each; it is empty for what it never saw.

    If the server is not ``running``, no client is online. The score is the accuracy on the client's own test examples.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("client", overflow="fold", min_width=8)
    for column in ("status", "last seen", "fedloru"):
        table.add_column(column, no_wrap=True)
    for column in ("base", "round", "examples", "MB up", "down", "score"):
        table.add_column(column, justify="right", no_wrap=True)
    for client in clients:
        each = seen.get(client.name, Seen())
        status = "removed" if client.removed else "online" if each.online and running else "away"
        table.add_row(client.name, status, *(_cells(each) if each.last_seen else ["never"]))
    return table


def problems(clients: Sequence[Client], seen: Mapping[str, Seen]) -> Iterator[Text]:
    """Yield why clients do not take part, or why their last reply was not used."""
    for client in clients:
        if problem := seen.get(client.name, Seen()).problem:
            yield Text(f"{client.name}: {problem}")


def _cells(each: Seen) -> list[str]:
    return [
        each.last_seen[5:16].replace("T", " "),
        each.fedloru,
        "" if each.version is None else str(each.version),
        str(each.round or ""),
        f"{each.examples:,}",
        f"{each.up_bytes / 1e6:,.2f}",
        f"{each.down_bytes / 1e6:,.2f}",
        "" if each.accuracy is None else units.percent(each.accuracy),
    ]
