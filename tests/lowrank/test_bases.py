"""Fixed factors: orthonormal, with the same bits however sums are ordered, and in bases that increments advance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedloru import lowrank, tree
from fedloru.rng import gen
from tests.methods.cohort import close, small_net


def matrix(n: int, q: int, decay: float = 0.0) -> Tensor:
    """Return a random matrix (n, q) whose singular values fall to about 10^-decay of the largest."""
    g = gen(1, "matrix", n, q)
    left, right = (torch.randn(rows, q, generator=g, dtype=torch.float64) for rows in (n, q))
    return left * torch.logspace(0, -decay, q) @ right.T


@pytest.mark.parametrize(("n", "q", "decay"), [(1, 1, 0), (30, 4, 0), (12, 12, 0), (500, 16, 6), (40, 8, 20)])
def test_a_basis_is_orthonormal_and_spans_the_large_directions(n: int, q: int, decay: float) -> None:
    x = matrix(n, q, decay)
    basis = lowrank.orthonormal(x)
    assert torch.allclose(basis.T @ basis, torch.eye(q, dtype=torch.float64), rtol=0, atol=1e-12)
    u, sizes, _ = torch.linalg.svd(x, full_matrices=False)
    large = u[:, sizes > 0.01 * sizes[0]]
    assert float((large - basis @ (basis.T @ large)).norm(dim=0).max()) < 0.05


@pytest.mark.parametrize("entry", [0.0, 1e-310, 1e-300])
def test_a_basis_of_columns_without_a_size_is_orthonormal(entry: float) -> None:
    basis = lowrank.orthonormal(torch.full((8, 2), entry, dtype=torch.float64))
    torch.testing.assert_close(basis.T @ basis, torch.eye(2, dtype=torch.float64))


def test_columns_of_zeros_become_random_directions() -> None:
    x = matrix(20, 4)
    x[:, 1:3] = 0
    for each in (x, torch.zeros(20, 4)):
        basis = lowrank.orthonormal(each)
        assert torch.allclose(basis.T @ basis, torch.eye(4, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_order_of_sums_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows in another order, as another machine might add them, give the same bits."""
    x, order = matrix(300, 6, 3).float(), torch.randperm(300, generator=gen(2, "order"))
    product = Tensor.__matmul__

    def shuffled(a: Tensor, b: Tensor) -> Tensor:
        return product(a[:, order], b[order]) if a.shape == (6, 300) else product(a, b)

    expected = lowrank.orthonormal(x)
    monkeypatch.setattr(Tensor, "__matmul__", shuffled)
    assert torch.equal(lowrank.orthonormal(x), expected)


def test_advance_merges_the_received_factor_with_the_fixed_one_and_exchanges_them() -> None:
    net = small_net()
    fixed = {site.a: lowrank.drawn_basis(site, site.a, 2, 3).double() for site in net.sites}
    base = tree.omit(net.params, net.factors) | fixed
    received = {site.b: torch.randn(site.b_shape(2), dtype=torch.float64) for site in net.sites}
    after = lowrank.advance(net.sites, base, received)
    expected = lowrank.merge(net.sites, tree.omit(base, fixed), fixed | received)
    assert close(tree.omit(after, received), expected)
    for site in net.sites:
        b, old = after[site.b].flatten(1), received[site.b].flatten(1)
        assert torch.allclose(b.T @ b, torch.eye(2, dtype=torch.float64), atol=1e-12)
        assert torch.allclose(b @ (b.T @ old), old, atol=1e-3)
    assert after.keys() == lowrank.turned(net.sites, base, 1).keys()
    assert lowrank.turned(net.sites, base, 2) == dict(sorted(base.items()))
    assert lowrank.sent_part(net.sites, after, fixed | received) == received


def test_an_increment_of_both_factors_is_merged_as_it_is() -> None:
    net = small_net()
    base = tree.omit(net.params, net.factors)
    factors = lowrank.init_factors(net.sites, 3, 0, net.params, "both")
    assert tree.equal(lowrank.advance(net.sites, base, factors), lowrank.merge(net.sites, base, factors))
    assert lowrank.sent_part(net.sites, base, factors) == factors
