"""Statistics of the messages and merges of a round, cheap enough to be enabled by default.

    aggregation gap    s·‖Σ p_k B_k A_k − B̄Ā‖_F per site: the error of averaging factors instead of products
    update cosine      the mean cosine between the updates of two clients of the cohort
    ranks              stable and effective, of an increment, of W_t − W₀ and of the update of one client
    overlap            of the column and row spaces of an increment with those of the previous one, beyond chance
    merge loss         the test loss just before and just after a merge

No client's product is formed: the gap is computed from concatenated factors, ‖BA‖_F² = tr((AAᵀ)(BᵀB)).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from fedloru import lowrank, tree
from fedloru.lowrank import Site, spectra
from fedloru.method import Down, State, Up
from fedloru.net import Net
from fedloru.tree import Params

LARGEST = 2048
"""The largest size of the smaller side of a matrix for which the spectrum is computed."""

Ranks = dict[str, dict[str, float]]
"""The stable and the effective rank of every site, by its weight."""


class UpdateStatistics:
    """Statistics of the updates of a cohort, collected message by message."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.clients = 0
        self.direction: Params = {}
        self.comparable = True
        """Whether the updates of all clients have the same shapes; factors of different ranks have not."""
        self.parts: list[tuple[float, Params]] = []
        self.first: tuple[Params, Params] | None = None
        """The tensors that the first client received and sent."""

    def add(self, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> None:
        """Add the messages of one chunk."""
        self.first = self.first or (down.shared, ups[0].shared)
        for up, weight in zip(ups, weights, strict=True):
            keys = [key for key in up.shared if key in down.shared and key not in self.net.buffers]
            keys = [key for key in keys if up.shared[key].shape == down.shared[key].shape]
            change = tree.sub(tree.select(up.shared, keys), down.shared)
            size = float(tree.norm(change))
            if size > 0:
                unit = tree.scale(change, 1 / size)
                self.comparable &= not self.direction or _shapes(self.direction) == _shapes(unit)
                self.direction = tree.add(self.direction, unit) if self.direction and self.comparable else unit
                self.clients += 1
            if _has_factors(self.net, up.shared):
                self.parts.append((weight, tree.select(up.shared, sorted(self.net.factors))))

    def cosine(self) -> float | None:
        """Return the mean cosine of two different updates: (‖Σ u_k‖² − P) / (P(P − 1)) for unit updates u_k.

        It is None if fewer than two updates are not 0, or if they have different shapes.
        """
        if self.clients < 2 or not self.comparable:
            return None
        return (float(tree.norm(self.direction)) ** 2 - self.clients) / (self.clients * (self.clients - 1))

    def gaps(self) -> dict[str, float]:
        """Return the aggregation gap of every site whose factors have the same rank in all messages."""
        if not self.parts:
            return {}
        total = sum(weight for weight, _ in self.parts)
        return {
            site.weight: gap(site, [(w / total, factors) for w, factors in self.parts])
            for site in self._equal_rank_sites()
        }

    def client_ranks(self) -> Ranks:
        """Return the ranks of the first client's updates at the sites: s(B_k A_k − BA), or W_k − W."""
        if self.first is None:
            return {}
        before, after = self.first
        if _has_factors(self.net, before) and _has_factors(self.net, after):
            return increment_ranks(self.net, lowrank.stack(self.net.sites, [(1.0, after), (-1.0, before)]))
        changes = _changes(self.net, before, after)
        return {site.weight: spectra.ranks(spectra.singular_values(change)) for site, change in changes}

    def _equal_rank_sites(self) -> list[Site]:
        return [site for site in self.net.sites if len({f[site.a].shape for _, f in self.parts}) == 1]


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in tensors.items()}


def _has_factors(net: Net, shared: Mapping[str, Tensor]) -> bool:
    """Return whether a message holds the factors of all sites, of any rank, and not a compressed form of them."""
    return bool(net.sites) and all(
        {site.a, site.b} <= shared.keys()
        and shared[site.a].shape == site.a_shape(len(shared[site.a]))
        and shared[site.b].shape == site.b_shape(len(shared[site.a]))
        for site in net.sites
    )


def gap(site: Site, parts: Sequence[tuple[float, Mapping[str, Tensor]]]) -> float:
    """Return s·‖Σ p_k B_k A_k − B̄Ā‖_F for weights p_k that sum to 1."""
    wide = [(p, {key: factors[key].double().flatten(1) for key in site.keys}) for p, factors in parts]
    mean = tree.weighted_sum([factors for _, factors in wide], [p for p, _ in wide])
    stacked = lowrank.stack([site], [*wide, (-1.0, mean)])
    a, b = lowrank.matrices(site, stacked)
    squared = torch.sum((a @ a.T) * (b.T @ b))
    return site.scale * float(squared.clamp(min=0).sqrt())


def increment_ranks(net: Net, increment: Mapping[str, Tensor]) -> Ranks:
    """Return the ranks of the increment at every site, from the spectrum of the cores of two QR factorizations."""
    found = {}
    for site in net.sites:
        a, b = (factor.double() for factor in lowrank.matrices(site, increment))
        core = torch.linalg.qr(b).R @ torch.linalg.qr(a.T).R.T
        found[site.weight] = spectra.ranks(torch.linalg.svdvals(core))
    return found


def total_ranks(net: Net, first: State, state: State) -> Ranks:
    """Return the ranks of W_t − W₀ at every site, including factors that are not merged yet."""
    live = state.shared if net.factors <= state.shared.keys() else {}
    found = {}
    for site, change in _changes(net, first.base | first.shared, state.base | state.shared):
        total = change + lowrank.delta(site, live).double().reshape(site.o, site.i) if live else change
        found[site.weight] = spectra.ranks(spectra.singular_values(total))
    return found


def _changes(net: Net, before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> Iterator[tuple[Site, Tensor]]:
    """Yield after − before in float64, (o, i), of sites whose weight is in both and at most ``LARGEST`` wide."""
    for site in net.sites:
        if site.weight in before.keys() & after.keys() and min(site.o, site.i) <= LARGEST:
            change = after[site.weight].double() - before[site.weight].double()
            yield site, change.reshape(site.o, site.i)


def overlaps(net: Net, previous: Mapping[str, Tensor], increment: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Return the overlaps of the column and row spaces of two increments at every site, unless they are trivial."""
    found: dict[str, dict[str, float]] = {}
    for site in net.sites:
        (a, b), (c, d) = (lowrank.matrices(site, factors) for factors in (previous, increment))
        sides = {"overlap_columns": (b, d), "overlap_rows": (a.T, c.T)}
        values = {name: _overlap(*pair) for name, pair in sides.items()}
        found[site.weight] = {name: value for name, value in values.items() if value is not None}
    return found


def _overlap(x: Tensor, y: Tensor) -> float | None:
    return spectra.overlap_beyond_chance(spectra.basis(x.double()), spectra.basis(y.double()))
