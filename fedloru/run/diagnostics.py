"""Statistics of the messages and merges of a round, cheap enough to be enabled by default.

    aggregation gap    s·‖Σ p_k B_k A_k − B̄Ā‖_F per site: the error of averaging factors instead of products
    update cosine      the mean cosine between the updates of two clients of the cohort
    ranks              stable and effective, of an increment, of W_t − W₀ and of the update of one client
    overlap            of the column and row spaces of an increment with those of the previous one, beyond chance
    merge loss         the test loss just before and just after a merge

No client's product is formed: the gap is computed from concatenated factors, and W_t − W₀ has the ranks of the factors
until the first merge.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import torch
from torch import Tensor

from fedloru import lowrank, tree
from fedloru.lowrank import Site, spectra
from fedloru.method import Down, State, Up
from fedloru.net import Net
from fedloru.tree import Params

LARGEST = 2048
"""The largest size of the smaller side of a matrix for which the spectrum is computed."""

MERGE_SAMPLE = 500
"""The number of test examples on which the loss before and after a merge is computed."""

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
        fixed = tree.select(down.base, self.net.factors & down.base.keys())
        down = down._replace(shared=down.shared | fixed)
        ups = [up._replace(shared=up.shared | fixed) for up in ups]
        self.first = self.first or (down.shared, ups[0].shared)
        for shapes, group in groupby((up.shared for up in ups), _shapes):
            keys = [k for k in shapes if k not in self.net.buffers and k in down.shared]
            self._add_directions(down.shared, list(group), [k for k in keys if shapes[k] == down.shared[k].shape])
        for up, weight in zip(ups, weights, strict=True):
            if _has_factors(self.net, up.shared):
                self.parts.append((weight, tree.select(up.shared, sorted(self.net.factors))))

    def _add_directions(self, before: Params, after: Sequence[Params], keys: Sequence[str]) -> None:
        """Add the unit updates from ``before`` to each of ``after``, which have the same shapes."""
        if not keys:
            return
        changes = {key: _stacked(after, key).sub_(before[key]).flatten(1) for key in keys}
        sizes = torch.stack([torch.linalg.vector_norm(c, dim=1) for c in changes.values()]).norm(dim=0)
        scales = torch.where(sizes > 0, 1 / sizes, 0)
        if count := int(torch.count_nonzero(scales)):
            units = {key: scales.to(change.dtype) @ change for key, change in changes.items()}
            self.comparable &= not self.direction or _shapes(self.direction) == _shapes(units)
            self.direction = tree.add(self.direction, units) if self.direction and self.comparable else units
            self.clients += count

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
            return increment_ranks(self.net.sites, lowrank.stack(self.net.sites, [(1.0, after), (-1.0, before)]))
        changes = _changes(self.net.sites, before, after)
        return {site.weight: spectra.ranks(spectra.singular_values(change)) for site, change in changes}

    def _equal_rank_sites(self) -> list[Site]:
        return [site for site in self.net.sites if len({f[site.a].shape for _, f in self.parts}) == 1]


def _stacked(trees: Sequence[Params], key: str) -> Tensor:
    """Return the tensors with a key (K, …), in float32 or wider."""
    values = torch.stack([tree[key] for tree in trees])
    return values.to(torch.promote_types(values.dtype, torch.float32))


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
    """Return s·‖Σ p_k B_k A_k − B̄Ā‖_F = s·‖Σ p_k (B_k − B̄)(A_k − Ā)‖_F for weights p_k that sum to 1.

    It is computed from one product of the concatenated factors, or from their Gram matrices if these are smaller.
    """
    shares = torch.tensor([p for p, _ in parts], dtype=torch.float64)
    a, b = (_deviations([f[key] for _, f in parts], shares) for key in site.keys)
    right = a.flatten(0, 1)
    left = (shares.to(b.device).view(-1, 1, 1) * b).movedim(0, 1).flatten(1)
    if len(right) * (site.o + site.i) > site.o * site.i:
        return site.scale * float(torch.linalg.matrix_norm(left @ right))
    squared = torch.sum((right @ right.T) * (left.T @ left))
    return site.scale * float(squared.clamp(min=0).sqrt())


def _deviations(factors: Sequence[Tensor], shares: Tensor) -> Tensor:
    """Return the factors of K clients as matrices (K, …) minus their weighted mean, in float64."""
    stacked = torch.stack(list(factors)).double().flatten(2)
    mean = torch.tensordot(shares.to(stacked.device), stacked, 1)
    return torch.sub(stacked, mean)


def increment_ranks(sites: Sequence[Site], increment: Mapping[str, Tensor]) -> Ranks:
    """Return the ranks of the increment at every site, from the spectrum of the cores of two QR factorizations."""
    found = {}
    for site in sites:
        a, b = (factor.double() for factor in lowrank.matrices(site, increment))
        core = torch.linalg.qr(b).R @ torch.linalg.qr(a.T).R.T
        found[site.weight] = spectra.ranks(torch.linalg.svdvals(core))
    return found


def total_ranks(net: Net, first: State, state: State) -> Ranks:
    """Return the ranks of W_t − W₀ at every site, including factors that are not merged yet.

    As long as nothing has been merged into a frozen weight, they are those of its factors.
    """
    whole = state.base | state.shared
    live = whole if net.factors & state.shared.keys() and net.factors <= whole.keys() else {}
    unchanged = [site for site in net.sites if live and _same(first.base, state.base, site.weight)]
    found = increment_ranks(unchanged, live)
    rest = [site for site in net.sites if site not in unchanged]
    for site, change in _changes(rest, first.base | first.shared, state.base | state.shared):
        total = change + lowrank.delta(site, live).double().reshape(site.o, site.i) if live else change
        found[site.weight] = spectra.ranks(spectra.singular_values(total))
    return {site.weight: found[site.weight] for site in net.sites if site.weight in found}


def _same(before: Mapping[str, Tensor], after: Mapping[str, Tensor], key: str) -> bool:
    return key in before.keys() & after.keys() and torch.equal(before[key], after[key])


def _changes(
    sites: Sequence[Site], before: Mapping[str, Tensor], after: Mapping[str, Tensor]
) -> Iterator[tuple[Site, Tensor]]:
    """Yield after − before in float64, (o, i), of sites whose weight is in both and at most ``LARGEST`` wide."""
    for site in sites:
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
