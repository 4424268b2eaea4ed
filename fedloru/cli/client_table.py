"""The table of the clients that got worse, for ``report``."""

from __future__ import annotations

import typer

from fedloru.cli.output import console
from fedloru.report import client_scores
from fedloru.report.records import Records

CLIENTS = 10
"""The maximum number of clients in the table: those that got worse most."""


def show(records: Records) -> None:
    """Print the scores of clients, if they were scored."""
    if client_scores.courses(records):
        console().print(client_scores.listing(records, CLIENTS).table())
        typer.echo(client_scores.caption(records, CLIENTS))
