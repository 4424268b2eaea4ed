"""Gradient agreement on the terminal: a table, and sentences on whether it confirms the theory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedloru.report import units
from fedloru.report.records import ALL

if TYPE_CHECKING:
    from rich.table import Table

Record = Mapping[str, Any]
Rows = Mapping[str, Sequence[Record]]
"""For each weight, one row per rank; the last row is for full gradients."""

SIGNIFICANCE = 2
"""The number of standard errors by which a gain must differ from 0 to be reported."""


def shown(figures: Record, layers: bool) -> Rows:
    """Return the agreement over all weights, and with ``layers`` also for each weight."""
    agreement: Rows = figures["agreement"]
    return {weight: rows for weight, rows in agreement.items() if layers or weight == ALL}


def table(agreement: Rows) -> Table:
    """Return a table with one row for each weight and rank.

    ``gain`` is relative to full gradients; ``energy`` and ``shared`` are the shares of the gradients and of their
    agreement that truncation keeps.
    """
    from rich import box
    from rich.table import Table

    result = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    several = len(agreement) > 1
    for name in (*["weight"] * several, "rank", "mean cosine", "gain", "by chance", "energy", "shared"):
        result.add_column(name, justify="left" if name == "weight" else "right", no_wrap=True)
    for weight, rows in agreement.items():
        for row in rows:
            result.add_row(*[weight] * several, *_cells(row))
        result.add_section()
    return result


def _cells(row: Record) -> tuple[str, ...]:
    cosine, chance = f"{row['cosine']:.3f}{_error(row['error'])}", f"±{row['chance']:.2g}"
    if row["rank"] is None:
        return "full", cosine, units.DASH, chance, units.DASH, units.DASH
    gain = f"{_signed(row['gain'])}{_error(row['gain_error'])}"
    return str(row["rank"]), cosine, gain, chance, _percent(row["energy"]), _percent(row["shared"])


def _percent(share: float | None) -> str:
    return units.DASH if share is None else f"{share:.0%}"


def _signed(gain: float) -> str:
    return f"{round(gain, 3) + 0.0:+.3f}"  # + 0.0 turns −0 into +0


def _error(error: float | None) -> str:
    return "" if error is None else f" ± {error:.3f}"


def verdicts(figures: Record) -> Iterator[str]:
    """Yield what the results say about the claim and about the server's curvature, and how to interpret them."""
    if len(figures["clients"]) > 2:
        yield _significant_gains(figures["agreement"][ALL][:-1])
    if space := figures.get("eigenspace"):
        yield from _eigenspace(space, len(figures["clients"]))
    if few := sum(client["few"] for client in figures["clients"]):
        yield (
            f"Clients with fewer examples than classes: {few} of {len(figures['clients'])}. The rank of a linear "
            "layer's gradient is at most the number of examples, so truncation changes little for them."
        )


def _significant_gains(rows: Sequence[Record]) -> str:
    better, worse = (", ".join(_significant(rows, sign)) or "none" for sign in (1, -1))
    return (
        f"Ranks at which truncated gradients agree better than full ones: {better}; worse: {worse} "
        f"(gains beyond {SIGNIFICANCE} standard errors)."
    )


def _significant(rows: Sequence[Record], sign: int) -> list[str]:
    visible = [row for row in rows if round(row["gain"], 3)]
    significant = [row for row in visible if sign * row["gain"] > SIGNIFICANCE * row["gain_error"]]
    return [f"{row['rank']} ({_signed(row['gain'])})" for row in significant]


def _eigenspace(space: Record, clients: int) -> Iterator[str]:
    shares, k = space["shares"], len(space["eigenvalues"])
    mean = sum(shares) / len(shares)
    yield (
        f"The top {k} eigenvectors of the server's Hessian ({space['parameters']:,} dimensions) span "
        f"{units.percent(mean)} of a client's gradient on average (minimum {units.percent(min(shares))}, maximum "
        f"{units.percent(max(shares))}; by chance {_small_percent(space['share_by_chance'])})."
    )
    yield (
        f"The span of the {clients} gradients and the span of these eigenvectors overlap by "
        f"{units.percent(space['overlap'])} (100 %: one contains the other; by chance "
        f"{_small_percent(space['overlap_by_chance'])})."
    )


def _small_percent(share: float) -> str:
    return f"{units.digits(100 * share)} %"
