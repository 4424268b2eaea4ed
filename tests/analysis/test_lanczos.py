"""Eigenpairs and quadratures against dense matrices."""

from __future__ import annotations

import pytest
import torch

from fedloru.analysis.lanczos import deflated, draw, largest, quadrature
from fedloru.errors import ModelError
from tests.analysis.matrices import counted, normal, of, rotated, wigner


def test_a_quadrature_is_exact_for_polynomials_of_degree_below_twice_its_steps() -> None:
    h = wigner(30) / 8
    v = draw(of(h), 0, "start")
    found = quadrature(of(h), v, 5)
    assert len(found.nodes) == 5
    power = v.clone()
    for degree in range(10):
        expected = float(v @ power / (v @ v))
        assert float(found.weights @ found.nodes**degree) == pytest.approx(expected, rel=1e-9, abs=1e-9)
        power = h @ power
    assert float(found.weights @ found.nodes**10) != pytest.approx(float(v @ power / (v @ v)), rel=1e-6)


def test_a_quadrature_stops_where_the_krylov_space_ends() -> None:
    h = rotated([3.0, -2.0] + [0.0] * 40)
    found = quadrature(of(h), draw(of(h), 0, "start"), 30)
    torch.testing.assert_close(found.nodes, torch.tensor([-2.0, 0.0, 3.0]).double(), atol=1e-10, rtol=0)
    assert float(found.weights.sum()) == pytest.approx(1)
    zero = quadrature(of(0 * h), draw(of(h), 0, "start"), 30)
    assert (zero.nodes.tolist(), zero.weights.tolist()) == ([0.0], [1.0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_largest_pairs_are_those_of_the_dense_matrix(dtype: torch.dtype) -> None:
    h = wigner(200)
    values, vectors = torch.linalg.eigh(h)
    order = values.abs().argsort(descending=True)[:6]
    found = largest(of(h.to(dtype)), 6, seed=0)
    tolerance = 1e-9 if dtype is torch.float64 else 1e-5
    torch.testing.assert_close(found.values, values[order], rtol=tolerance, atol=0)
    cosines = (found.vectors.double() * vectors[:, order]).sum(0).abs()
    torch.testing.assert_close(cosines, torch.ones(6).double(), rtol=0, atol=1e-5)


def test_deflation_removes_the_pairs() -> None:
    h = wigner(200)
    found = largest(of(h), 6, seed=0)
    rest = largest(deflated(of(h), found.vectors), 1, seed=0)
    values = torch.linalg.eigvalsh(h)
    assert float(rest.values[0].abs()) == pytest.approx(float(values.abs().sort(descending=True).values[6]))


def test_the_zero_matrix_has_orthonormal_eigenvectors() -> None:
    found = largest(of(torch.zeros(150, 150).double()), 3, seed=0)
    assert found.values.tolist() == [0, 0, 0]
    torch.testing.assert_close(found.vectors.T @ found.vectors, torch.eye(3).double())


@pytest.mark.parametrize("seed", range(3))
def test_the_search_stops_at_the_rank_of_the_matrix(seed: int) -> None:
    """Zero eigenvalues rarely reach a residual of √ε|λ|, so the search ends with the pairs found so far."""
    j = normal(6, 400, seed=seed)
    matrix, calls = counted(j.T @ j)
    found = largest(matrix, 10, seed=0)
    torch.testing.assert_close(found.values[:6], torch.linalg.eigvalsh(j @ j.T).flip(0))
    assert (found.values[6:].abs() < 1e-10).all()
    assert len(calls) < 250


def test_pairs_that_have_not_converged_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    h = wigner(300)
    true = torch.linalg.eigvalsh(h)
    monkeypatch.setattr("fedloru.analysis.lanczos.RESTARTS", 4)
    found = largest(of(h), 10, seed=0).values
    assert 1 <= len(found) < 10
    assert all(float((true - value).abs().min()) < 1e-8 for value in found)
    monkeypatch.setattr("fedloru.analysis.lanczos.RESTARTS", 1)
    with pytest.raises(ModelError, match="none of 10 eigenvalues converged in 1 restarts"):
        largest(of(h), 10, seed=0)


def test_draws_do_not_depend_on_the_dtype() -> None:
    h = wigner(50)
    torch.testing.assert_close(draw(of(h.float()), 3, "x", 1).double(), draw(of(h), 3, "x", 1), rtol=1e-6, atol=0)
    assert not torch.equal(draw(of(h), 3, "x", 1), draw(of(h), 3, "x", 2))
