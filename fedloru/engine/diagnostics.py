"""What a round's messages and merges tell about a method, cheap enough to be left on.

    aggregation gap    ‖Σ p_k B_k A_k − B̄Ā‖_F a site, in units of s: what averaging factors loses
    update cosine      the mean cosine between the updates of two clients of the cohort
    ranks              stable ‖M‖_F²/‖M‖₂² and effective exp(−Σ p_i ln p_i), p = σ/Σσ, of an increment and of W_t − W₀
    merge loss         the test loss just before and just after a merge

No product of one client is formed: the gap is a norm of concatenated factors, ‖BA‖_F² = tr((AAᵀ)(BᵀB)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedloru import lowrank, tree
from fedloru.lowrank import Site
from fedloru.method import Down, State, Up
from fedloru.net import Net
from fedloru.tree import Params

LARGEST = 2048
"""The smaller side of a matrix whose spectrum is still cheap."""


class Votes:
    """What the updates of a cohort have in common, gathered message by message."""

    def __init__(self, net: Net) -> None:
        self.net = net
        self.clients = 0
        self.direction: Params = {}
        self.parts: list[tuple[float, Params]] = []

    def add(self, down: Down, ups: Sequence[Up], weights: Sequence[float]) -> None:
        """Count the messages of one chunk."""
        for up, weight in zip(ups, weights, strict=True):
            keys = [key for key in up.shared if key in down.shared and key not in self.net.buffers]
            keys = [key for key in keys if up.shared[key].shape == down.shared[key].shape]
            change = tree.sub(tree.select(up.shared, keys), down.shared)
            size = float(tree.norm(change))
            if size > 0:
                unit = tree.scale(change, 1 / size)
                self.direction = tree.add(self.direction, unit) if self.direction.keys() == unit.keys() else unit
                self.clients += 1
            if self.net.factors and self.net.factors <= up.shared.keys():
                self.parts.append((weight, tree.select(up.shared, sorted(self.net.factors))))

    def cosine(self) -> float | None:
        """Return the mean cosine of two different updates: (‖Σ u_k‖² − P) / (P(P − 1)) for unit updates u_k."""
        if self.clients < 2:
            return None
        return (float(tree.norm(self.direction)) ** 2 - self.clients) / (self.clients * (self.clients - 1))

    def gaps(self) -> dict[str, float]:
        """Return the aggregation gap of every site whose factors all clients sent at one rank."""
        if not self.parts:
            return {}
        total = sum(weight for weight, _ in self.parts)
        return {site.weight: gap(site, [(w / total, factors) for w, factors in self.parts]) for site in self._even()}

    def _even(self) -> list[Site]:
        return [site for site in self.net.sites if len({f[site.a].shape for _, f in self.parts}) == 1]


def gap(site: Site, parts: Sequence[tuple[float, Mapping[str, Tensor]]]) -> float:
    """Return s·‖Σ p_k B_k A_k − B̄Ā‖_F for weights p_k that add up to 1."""
    wide = [(p, {key: factors[key].double().flatten(1) for key in site.keys}) for p, factors in parts]
    mean = tree.weighted_sum([factors for _, factors in wide], [p for p, _ in wide])
    stacked = lowrank.stack([site], [*wide, (-1.0, mean)])
    a, b = lowrank.matrices(site, stacked)
    squared = torch.sum((a @ a.T) * (b.T @ b))
    return site.scale * float(squared.clamp(min=0).sqrt())


def increment_ranks(net: Net, increment: Mapping[str, Tensor]) -> dict[str, dict[str, float]]:
    """Return the ranks of the increment at every site; the spectrum is that of the cores of two QR factorisations."""
    found = {}
    for site in net.sites:
        a, b = (factor.double() for factor in lowrank.matrices(site, increment))
        core = torch.linalg.qr(b).R @ torch.linalg.qr(a.T).R.T
        found[site.weight] = _ranks(torch.linalg.svdvals(core))
    return found


def total_ranks(net: Net, first: Mapping[str, Tensor], state: State) -> dict[str, dict[str, float]]:
    """Return the ranks of W_t − W₀ at every site, live factors included, by the spectrum of its smaller Gram matrix."""
    found = {}
    live = state.shared if net.factors <= state.shared.keys() else {}
    for site in net.sites:
        if site.weight not in state.base or min(site.o, site.i) > LARGEST:
            continue
        change = (state.base[site.weight].double() - first[site.weight].double()).reshape(site.o, site.i)
        if live:
            change = change + lowrank.delta(site, live).double().reshape(site.o, site.i)
        gram = change @ change.T if site.o <= site.i else change.T @ change
        found[site.weight] = _ranks(torch.linalg.eigvalsh(gram).clamp(min=0).sqrt())
    return found


def _ranks(sigma: Tensor) -> dict[str, float]:
    largest = float(sigma.max())
    if largest == 0:
        return {"stable": 0.0, "effective": 0.0}
    p = sigma / sigma.sum()
    entropy = -(p * torch.log(p.clamp(min=1e-300))).sum()
    return {"stable": float(sigma.square().sum()) / largest**2, "effective": float(entropy.exp())}
