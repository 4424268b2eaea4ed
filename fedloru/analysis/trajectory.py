"""Ranks along a run: of what the model has learned, of what was merged, and of what one client changed.

Of the sites of a low-rank method the engine notes these with every merge and evaluation (``run/diagnostics.py``,
the field ``sites`` of ``rounds.jsonl``), and ``curves`` reads them::

    {stable,effective}_rank_total        W_t − W₀, live factors included
    {stable,effective}_rank_increment    the increment of a merge
    {stable,effective}_rank_client       the change that the first client of the cohort made, s(B_k A_k − BA)
    overlap_{columns,rows}               mean cos² of the principal angles between the column or row spaces of an
                                         increment and of the one before, 0 by chance and 1 for equal ones

``watch`` measures the first of them from outside, for any method and every matrix of the model: so FedAvg, which has
no sites, can be drawn beside a low-rank method. ``angles`` has the principal angles one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from fedloru import lowrank, tree
from fedloru.lowrank import Site, spectra
from fedloru.tree import Params

Row = dict[str, Any]
"""One line of ``rounds.jsonl``."""

Curve = list[tuple[int, float]]
"""A number over rounds."""


class Angles(NamedTuple):
    """Principal angles in radians, ascending: of the column spaces, which B spans, and of the row spaces, of A."""

    columns: Tensor
    rows: Tensor


class Training(Protocol):
    """A run: it can be iterated over, a row a round, and has a plain model after each."""

    def __iter__(self) -> Iterator[Row]: ...

    def model(self) -> nn.Module:
        """Return the model so far, factors merged into its weights."""


def curves(rows: Iterable[Mapping[str, Any]], field: str) -> dict[str, Curve]:
    """Return ``field`` over rounds for every site where it was measured."""
    found: dict[str, Curve] = {}
    for row in rows:
        for site, values in row["sites"].items():
            if field in values:
                found.setdefault(site, []).append((row["round"], values[field]))
    return found


def watch(run: Training, every: int = 1) -> Iterator[Row]:
    """Train ``run``; every so many rounds its row's ``sites`` also have the ranks of W_t − W₀ of all matrices."""
    first = _weights(run)
    for row in run:
        if row["round"] % every == 0:
            sites = dict(row["sites"])
            for key, ranks in change_ranks(first, _weights(run)).items():
                sites[key] = sites.get(key, {}) | {f"{kind}_rank_total": rank for kind, rank in ranks.items()}
            row = row | {"sites": sites}
        yield row


def change_ranks(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Return the stable and effective rank of after − before of every tensor of two axes or more, as o × i·k·k."""
    matrices = {key: value for key, value in before.items() if value.ndim > 1}
    changes = {key: (after[key].double() - value.double()).flatten(1) for key, value in matrices.items()}
    return {key: spectra.ranks(spectra.singular_values(change)) for key, change in changes.items()}


def angles(sites: Sequence[Site], previous: Mapping[str, Tensor], increment: Mapping[str, Tensor]) -> dict[str, Angles]:
    """Return the principal angles between two increments at every site."""
    found = {}
    for site in sites:
        (a, b), (c, d) = (lowrank.matrices(site, factors) for factors in (previous, increment))
        found[site.weight] = Angles(_angles(b, d), _angles(a.T, c.T))
    return found


def _angles(x: Tensor, y: Tensor) -> Tensor:
    return spectra.principal_angles(spectra.basis(x.double()), spectra.basis(y.double()))


def _weights(run: Training) -> Params:
    return tree.clone(dict(run.model().named_parameters()))
