"""The table of the clients of a federation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from fedloru.flower.roster import Client, Seen
from fedloru.report import units


def listing(clients: Sequence[Client], seen: Mapping[str, Seen], *, running: bool) -> Table:
    """Return the table of enrolled clients, with what the server last saw of each.

    No client is connected if the server is not ``running``.
    """
    table = Table(box=None, pad_edge=False)
    for column in ("client", "status", "last seen", "fedloru", "version", "round"):
        table.add_column(column)
    for column in ("examples", "sent", "received", "accuracy"):
        table.add_column(column, justify="right")
    table.add_column("problem", overflow="fold")
    for client in clients:
        each = seen.get(client.name, Seen())
        status = "removed" if client.removed else "connected" if each.online and running else "away"
        accuracy = "" if each.accuracy is None else units.percent(each.accuracy)
        version = "" if each.version is None else str(each.version)
        numbers = (f"{each.examples:,}", f"{each.up_bytes / 1e6:,.2f} MB", f"{each.down_bytes / 1e6:,.2f} MB", accuracy)
        table.add_row(
            client.name, status, each.last_seen, each.fedloru, version, str(each.round), *numbers, each.problem
        )
    return table
