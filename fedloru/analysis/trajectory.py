"""Ranks along a run: of the learned update, of the merged increments, and of one client's change.

For the sites of a low-rank method, a run records these at every merge and evaluation (``run/diagnostics.py``, the field
``sites`` of ``rounds.jsonl``), and ``curves`` reads them::

    {stable,effective}_rank_total        W_t − W₀, live factors included
    {stable,effective}_rank_increment    the increment of a merge
    {stable,effective}_rank_client       the change that the first client of the cohort made, s(B_k A_k − BA)
    overlap_{columns,rows}               mean cos² of the principal angles between the column or row spaces of an
                                         increment and the previous one: 0 by chance, 1 if they are equal

``watch`` computes the first of them for any method and every matrix of the model, so FedAvg, which has no sites, can be
compared with low-rank methods. ``angles`` returns the individual principal angles.
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
"""Pairs of round and value."""


class Angles(NamedTuple):
    """Principal angles in radians, ascending: of the column spaces (of B) and of the row spaces (of A)."""

    columns: Tensor
    rows: Tensor


class Training(Protocol):
    """A run: iterating over it yields one row per round, and it has a plain model after each."""

    def __iter__(self) -> Iterator[Row]: ...

    def model(self) -> nn.Module:
        """Return the current model with the factors merged into its weights."""


def curves(rows: Iterable[Mapping[str, Any]], field: str) -> dict[str, Curve]:
    """Return ``field`` over rounds for every site that has it."""
    by_site: dict[str, Curve] = {}
    for row in rows:
        for site, values in row["sites"].items():
            if field in values:
                by_site.setdefault(site, []).append((row["round"], values[field]))
    return by_site


def watch(run: Training, every: int = 1) -> Iterator[Row]:
    """Train ``run`` and yield its rows; every ``every`` rounds, add the ranks of W_t − W₀ of all matrices."""
    first = _weights(run)
    for row in run:
        if row["round"] % every == 0:
            sites = dict(row["sites"])
            for key, ranks in change_ranks(first, _weights(run)).items():
                sites[key] = sites.get(key, {}) | {f"{kind}_rank_total": rank for kind, rank in ranks.items()}
            row = row | {"sites": sites}
        yield row


def change_ranks(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Return the stable and effective rank of after − before, as o × i·k·k, for every tensor with two or more axes."""
    matrices = {key: value for key, value in before.items() if value.ndim > 1}
    changes = {key: (after[key].double() - value.double()).flatten(1) for key, value in matrices.items()}
    return {key: spectra.ranks(spectra.singular_values(change)) for key, change in changes.items()}


def angles(sites: Sequence[Site], previous: Mapping[str, Tensor], increment: Mapping[str, Tensor]) -> dict[str, Angles]:
    """Return the principal angles between two increments at every site."""
    by_site = {}
    for site in sites:
        (a, b), (next_a, next_b) = (lowrank.matrices(site, factors) for factors in (previous, increment))
        by_site[site.weight] = Angles(_angles(b, next_b), _angles(a.T, next_a.T))
    return by_site


def _angles(x: Tensor, y: Tensor) -> Tensor:
    return spectra.principal_angles(spectra.basis(x.double()), spectra.basis(y.double()))


def _weights(run: Training) -> Params:
    return tree.clone(dict(run.model().named_parameters()))
