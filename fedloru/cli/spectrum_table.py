"""Spectra on the terminal: a table, and sentences on whether they confirm the theory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedloru.report import units

if TYPE_CHECKING:
    from rich.table import Table

Record = Mapping[str, Any]

LEFT = ("loss of", "matrix", "layer")


def table(records: Sequence[Record]) -> Table:
    """Return a table with one row for each spectrum."""
    from rich import box
    from rich.table import Table

    result = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    layered = any(record["layer"] for record in records)
    for name in ("loss of", "examples", "matrix", *["layer"] * layered, "largest λ", "stable rank", "interval", "time"):
        result.add_column(name, justify="left" if name in LEFT else "right", no_wrap=True)
    for record in records:
        examples = f"{record['examples']:,}{'*' if record['few'] else ' '}"
        layer = [record["layer"] or "all"] * layered
        largest, duration = units.digits(record["eigenvalues"][0]), units.duration(record["seconds"])
        rank = _rank_cells(record["stable_rank"])
        result.add_row(record["subject"], examples, record["curvature"], *layer, largest, *rank, duration)
    return result


def verdicts(records: Sequence[Record]) -> Iterator[str]:
    """Yield how clients compare with the server, and how to interpret the table."""
    for kind in dict.fromkeys(record["curvature"] for record in records):
        whole = [r for r in records if r["curvature"] == kind and r["layer"] is None and r["stable_rank"]]
        clients = [r["stable_rank"] for r in whole if r["client"] is not None and not r["few"]]
        for server in (r["stable_rank"] for r in whole if r["subject"] == "server" and clients):
            higher = sum(client["low"] > server["high"] for client in clients)
            lower = sum(client["high"] < server["low"] for client in clients)
            yield (
                f"Stable rank of the {kind}: higher than the server's for {higher} of {len(clients)} clients, "
                f"lower for {lower}; for {len(clients) - higher - lower} the intervals overlap."
            )
    if any(record["few"] for record in records):
        yield "* fewer examples than classes: the rank mostly reflects their small number, and is not counted."
    if wide := sum(not record["reached"] for record in records):
        yield f"Intervals wider than requested: {wide}. Increase --probes, or find more eigenvalues with --top."


def _rank_cells(rank: Mapping[str, float] | None) -> tuple[str, str]:
    if rank is None:
        return units.DASH, units.DASH
    return units.digits(rank["value"]), f"{units.digits(rank['low'])}–{units.digits(rank['high'])}"
