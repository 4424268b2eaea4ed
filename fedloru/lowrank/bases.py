"""Bases that hold one factor of every site: the one that clients do not train.

A method that alternates fixes one factor of a site and trains the other: A is fixed at even versions, B at odd ones.
The fixed factor is part of the base. An increment then consists of the trained factor only, since every receiver has
the other, and the next fixed factor follows from it: an orthonormal basis of its columns (B) or rows (A).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from fedloru import tree
from fedloru.lowrank.algebra import matrices, merge
from fedloru.lowrank.site import Site
from fedloru.rng import gen
from fedloru.tree import Params

NOISE = 2.0**-13
"""The size of the noise that makes columns independent, relative to the largest entry of each."""
LEAST = 2.0**-1000
"""The largest entry of a column that counts as 0."""


def fixed_key(site: Site, version: int) -> str:
    """Return the key of the factor that is fixed at ``version``."""
    return site.b if version % 2 else site.a


def trained_key(site: Site, version: int) -> str:
    """Return the key of the factor that is trained at ``version``."""
    return fixed_key(site, version + 1)


def factor_shape(site: Site, key: str, rank: int) -> tuple[int, ...]:
    """Return the shape of one factor of ``site`` at a rank."""
    return site.a_shape(rank) if key == site.a else site.b_shape(rank)


def adapted_keys(sites: Sequence[Site], base: Collection[str]) -> list[str]:
    """Return the keys of a base that increments change: the weights of the sites, and fixed factors."""
    return [key for site in sites for key in (site.weight, *site.keys) if key in base]


def alternates(sites: Sequence[Site], base: Collection[str]) -> bool:
    """Return whether ``base`` holds one factor of each site."""
    return bool(sites) and len(list(_held(sites, base))) == len(sites)


def turned(sites: Sequence[Site], base: Mapping[str, Tensor], version: int) -> Params:
    """Return ``base`` with the keys and shapes that it has at ``version``; fixed factors of others become 0."""
    whole = dict(base)
    for site, held in _held(sites, base):
        if held != fixed_key(site, version):
            whole |= _zero_partner(site, held, whole.pop(held))
    return dict(sorted(whole.items()))


def restarted(sites: Sequence[Site], base: Mapping[str, Tensor], shared: Mapping[str, Tensor]) -> Params:
    """Return ``shared`` with the factors, all 0, that are trained with the fixed ones of ``base``."""
    whole = dict(shared)
    for site, held in _held(sites, base):
        whole.pop(held, None)
        whole |= _zero_partner(site, held, base[held])
    return dict(sorted(whole.items()))


def sent_part(sites: Sequence[Site], base: Mapping[str, Tensor], increment: Params) -> Params:
    """Return the part of an increment that leads to ``base`` which receivers cannot derive: that of trained factors."""
    return tree.omit(increment, [_other(site, held) for site, held in _held(sites, base)])


def advance(sites: Sequence[Site], base: Mapping[str, Tensor], increment: Mapping[str, Tensor]) -> Params:
    """Return ``base`` after an increment: W + s·BA at every site.

    If the increment has one factor of a site, the other is taken from ``base``, which then holds an orthonormal basis
    of the one received.
    """
    fixed = {key: base[key] for site in sites for key in site.keys if key not in increment}
    merged = tree.omit(merge(sites, base, {**fixed, **increment}), fixed)
    for site in sites:
        merged |= {key: basis(site, key, increment[key]) for key in site.keys if _other(site, key) in fixed}
    return merged


def basis(site: Site, key: str, factor: Tensor) -> Tensor:
    """Return an orthonormal basis of the rows of A or the columns of B, in the shape and dtype of ``factor``."""
    a, b = matrices(site, {site.a: factor, site.b: factor})
    found = orthonormal(a.T).T if key == site.a else orthonormal(b)
    return found.to(factor.dtype).to(factor.device).reshape(factor.shape)


def drawn_basis(site: Site, key: str, rank: int, seed: int) -> Tensor:
    """Return a random orthonormal basis for one factor of ``site``, drawn from (seed, "basis", weight)."""
    drawn = torch.empty(factor_shape(site, key, rank), dtype=torch.float32, device="cpu")
    drawn.uniform_(-1, 1, generator=gen(seed, "basis", site.weight))
    return basis(site, key, drawn)


def orthonormal(x: Tensor) -> Tensor:
    """Return an orthonormal basis of the columns of ``x`` (n, q), with q ≤ n, in float64 and on the CPU.

    Every machine computes the same bits: the sums are exact, because the columns are rounded to integers, and all other
    operations are elementwise, which IEEE 754 defines. The columns get a little noise, so that they are independent; it
    replaces columns of zeros by random directions. The second pass makes the basis orthonormal to 1e-12, since the
    first loses digits if the columns are nearly dependent (CholeskyQR2: Yamamoto, Nakatsukasa, Yanagisawa, Fukaya,
    ETNA 44, 2015).
    """
    n, q = x.shape
    noise = torch.empty(n, q, dtype=torch.float32, device="cpu").uniform_(-1, 1, generator=gen(0, "noise"))
    return _cholesky_qr(_cholesky_qr(_scaled(x.detach().cpu().double()) + NOISE * noise.double()))


def _cholesky_qr(x: Tensor) -> Tensor:
    """Return x R⁻¹ with the Cholesky factor R of xᵀx."""
    bits = (52 - math.ceil(math.log2(len(x)))) // 2  # a sum of n products of two integers has at most 53
    q = torch.round(_scaled(x) * 2.0**bits)
    gram = q.T @ q
    for j in range(q.shape[1]):
        row = gram[j, j:] / gram[j, j].clamp_min(1.0).sqrt()
        q[:, j] /= row[0].clamp_min(1.0)
        gram[j + 1 :, j + 1 :] -= row[1:, None] * row[1:]
        q[:, j + 1 :] -= q[:, j : j + 1] * row[1:]
    return q


def _scaled(x: Tensor) -> Tensor:
    """Return ``x`` with every column divided by a power of two, so that its largest entry is from 1/2 to 1.

    A column whose power would overflow becomes 0.
    """
    largest = x.abs().amax(0)
    power = torch.frexp(largest).mantissa / largest  # exact
    return x * torch.where(largest > LEAST, power, 0.0)


def _held(sites: Sequence[Site], base: Collection[str]) -> Iterator[tuple[Site, str]]:
    """Yield the sites of which ``base`` holds one factor, with its key."""
    for site in sites:
        if (site.a in base) != (site.b in base):
            yield site, site.a if site.a in base else site.b


def _zero_partner(site: Site, key: str, factor: Tensor) -> Params:
    """Return the other factor of a site, of the rank of ``factor``, which has the key ``key``, with zeros."""
    other = _other(site, key)
    return {other: factor.new_zeros(factor_shape(site, other, factor.shape[0 if key == site.a else 1]))}


def _other(site: Site, key: str) -> str:
    return site.b if key == site.a else site.a
