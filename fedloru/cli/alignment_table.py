"""Agreement of gradients on the terminal: its table, and whether the theory is borne out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fedloru.report import units
from fedloru.report.records import ALL

if TYPE_CHECKING:
    from rich.table import Table

Record = Mapping[str, Any]
Rows = Mapping[str, Sequence[Record]]
"""By weight, a row a rank; the last is of whole gradients."""

SURE = 2
"""So many standard errors from 0, a gain is taken for one."""


def shown(figures: Record, layers: bool) -> Rows:
    """Return the agreement over all weights, and with ``layers`` that at each."""
    agreement: Rows = figures["agreement"]
    return {weight: rows for weight, rows in agreement.items() if layers or weight == ALL}


def table(agreement: Rows) -> Table:
    """Return a row for each weight and rank.

    The gain is over whole gradients; energy and shared are what is left of the gradients and of their agreement.
    """
    from rich import box
    from rich.table import Table

    found = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    named = ["weight"] * (len(agreement) > 1)
    for name in (*named, "rank", "mean cosine", "gain", "by chance", "energy", "shared"):
        found.add_column(name, justify="left" if name == "weight" else "right", no_wrap=True)
    for weight, rows in agreement.items():
        for row in rows:
            found.add_row(*[weight for _ in named], *_cells(row))
        found.add_section()
    return found


def _cells(row: Record) -> tuple[str, ...]:
    cosine, chance = f"{row['cosine']:.3f}{_error(row['error'])}", f"±{row['chance']:.2g}"
    if row["rank"] is None:
        return "whole", cosine, units.DASH, chance, units.DASH, units.DASH
    gain = f"{_signed(row['gain'])}{_error(row['gain_error'])}"
    return str(row["rank"]), cosine, gain, chance, _whole(row["energy"]), _whole(row["shared"])


def _whole(share: float | None) -> str:
    return units.DASH if share is None else f"{share:.0%}"


def _signed(gain: float) -> str:
    return f"{round(gain, 3) + 0.0:+.3f}"  # + 0.0 makes +0 of −0


def _error(error: float | None) -> str:
    return "" if error is None else f" ± {error:.3f}"


def verdicts(figures: Record) -> Iterator[str]:
    """Yield what the figures say of the claim and of the server's curvature, and how to read them."""
    if len(figures["clients"]) > 2:
        yield _claim(figures["agreement"][ALL][:-1])
    if space := figures.get("eigenspace"):
        yield from _curvature(space, len(figures["clients"]))
    if few := sum(client["few"] for client in figures["clients"]):
        yield (
            f"Clients with fewer examples than classes: {few} of {len(figures['clients'])}. The gradient of a linear "
            "layer has no more ranks than examples, so that cutting it changes little."
        )


def _claim(rows: Sequence[Record]) -> str:
    better, less = (", ".join(_sure(rows, sign)) or "none" for sign in (1, -1))
    return (
        f"Ranks at which gradients agree better than whole ones: {better}; less: {less} "
        f"(gains beyond {SURE} standard errors)."
    )


def _sure(rows: Sequence[Record], sign: int) -> list[str]:
    seen = [row for row in rows if round(row["gain"], 3)]
    sure = [row for row in seen if sign * row["gain"] > SURE * row["gain_error"]]
    return [f"{row['rank']} ({_signed(row['gain'])})" for row in sure]


def _curvature(space: Record, clients: int) -> Iterator[str]:
    shares, k = space["shares"], len(space["eigenvalues"])
    mean = sum(shares) / len(shares)
    yield (
        f"The {k} top eigenvectors of the server's Hessian, of {space['parameters']:,} dimensions, hold "
        f"{units.percent(mean)} of a client's gradient on average, {units.percent(min(shares))} at least and "
        f"{units.percent(max(shares))} at most; by chance {_small(space['share_by_chance'])}."
    )
    yield (
        f"The span of the {clients} gradients overlaps that of these eigenvectors by {units.percent(space['overlap'])} "
        f"(100 %: one holds the other); by chance {_small(space['overlap_by_chance'])}."
    )


def _small(share: float) -> str:
    return f"{units.digits(100 * share)} %"
