"""Spectra against dense matrices, and intervals against their coverage."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from fedloru.analysis.curvature import curvature
from fedloru.analysis.lanczos import Pairs
from fedloru.analysis.spectrum import LEVEL, Effort, Estimate, Spectrum, interval, spectrum
from fedloru.errors import ModelError
from tests.analysis.matrices import counted, normal, of, rotated, stable_rank, wigner
from tests.analysis.nets import dense_ggn, dense_hessian, small

DECAY = torch.arange(1, 301).double() ** -0.7


def largest(h: Tensor, k: int) -> Tensor:
    values = torch.linalg.eigvalsh(h)
    return values[values.abs().argsort(descending=True)[:k]]


def eigenvalues(found: Spectrum) -> Tensor:
    return torch.tensor(found.eigenvalues, dtype=torch.float64)


def contains(found: Estimate | None, true: float) -> bool:
    assert found is not None
    return found.low <= true * (1 + 1e-9) and true * (1 - 1e-9) <= found.high


@pytest.mark.parametrize("kind", ["hessian", "ggn"])
@pytest.mark.parametrize("name", ["mlp, relu", "conv, group norm"])
def test_the_spectrum_of_a_net_equals_that_of_its_dense_matrix(name: str, kind: str) -> None:
    o = small(name, batch_size=13)
    h = {"hessian": dense_hessian, "ggn": dense_ggn}[kind](o)
    found = spectrum(curvature(o, kind), Effort(top=5, steps=5, tolerance=0.5))
    torch.testing.assert_close(eigenvalues(found), largest(h, 5), rtol=1e-6, atol=1e-12)
    assert contains(found.squared_norm, float(h.square().sum()))
    assert contains(found.stable_rank, stable_rank(h))
    assert found.reached


def test_the_stable_rank_is_in_its_interval_for_95_of_100_seeds() -> None:
    h = dense_hessian(small("mlp, relu"))
    true = stable_rank(h)
    found = [spectrum(of(h), Effort(top=3, steps=5, tolerance=0.2, seed=seed)) for seed in range(100)]
    assert sum(contains(each.stable_rank, true) for each in found) >= 95
    assert all(each.reached and each.squared_norm.width <= 0.2 for each in found)
    assert len({each.squared_norm.value for each in found}) == 100


@pytest.mark.parametrize("probes", [1, 2, 5, 30])
@pytest.mark.parametrize("directions", [1, 3, 20])
def test_the_interval_has_its_coverage_for_the_heaviest_tails(probes: int, directions: int) -> None:
    """For given T and a, the matrix of T/a equal eigenvalues has the heaviest tails: X ~ a χ²(NT/a)/N."""
    ends = [edge(outside, directions, probes) for outside in (1e-300, 100.0 * directions)]
    low, high = (float(chi2.cdf(end * probes, probes * directions)) for end in ends)
    assert LEVEL <= high - low < 1


def edge(outside: float, true: float, probes: int) -> float:
    """Return, by bisection, the mean of probes between ``outside`` and T at which the interval begins to contain T."""
    inside = true
    for _ in range(100):
        between = (inside + outside) / 2
        inside, outside = (between, outside) if contains(interval(between, 1.0, probes), true) else (inside, between)
    return inside


def test_the_interval_solves_its_equation() -> None:
    found = interval(3.0, bound=0.5, probes=7, level=0.9)
    for end in found[1:]:
        assert 3.0 - end + end * math.log(end / 3.0) == pytest.approx(2 * 0.5 * math.log(20) / 7)
    assert interval(3.0, bound=50.0, probes=1).low == 0
    assert interval(0.0, bound=1.0, probes=1) == (0.0, 0.0, 0.0)


def test_probes_are_added_until_the_tolerance_or_their_maximum_is_reached() -> None:
    h = wigner(300)
    (wide, few), (middle, more), (narrow, most) = (
        (spectrum(matrix, Effort(top=3, steps=5, tolerance=tolerance, probes=60)), calls)
        for tolerance, (matrix, calls) in ((tolerance, counted(h)) for tolerance in (0.4, 0.1, 0.02))
    )
    assert wide.squared_norm.width > middle.squared_norm.width > narrow.squared_norm.width > 0.02
    assert wide.reached and middle.reached and not narrow.reached
    assert wide.probes < middle.probes < narrow.probes == 60
    assert len(most) - 60 == len(more) - middle.probes == len(few) - wide.probes


def test_every_copy_of_a_multiple_eigenvalue_is_found() -> None:
    """ARPACK by itself finds three of five copies here, and the interval would be wrong."""
    x = normal(100, 60, seed=1)
    h = torch.kron(torch.eye(5).double(), x.T @ x / 100)
    found = spectrum(of(h), Effort(top=10, steps=30))
    torch.testing.assert_close(eigenvalues(found), largest(h, 10), rtol=1e-9, atol=0)
    assert contains(found.stable_rank, stable_rank(h))


def test_deflated_pairs_are_not_counted_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second search may return the vectors of the first, which are eigenvectors of PHP with eigenvalue 0."""
    h = rotated([3.0, 3.0, 2.0, 2.0] + [0.0] * 200)
    values, vectors = torch.linalg.eigh(h)
    first = Pairs(values[[-1, -3]], vectors[:, [-1, -3]])
    second = Pairs(torch.tensor([3.0, 2.0, 0.0, 0.0]).double(), vectors[:, [-2, -4, -1, -3]])
    searches = iter([first, second])
    monkeypatch.setattr("fedloru.analysis.spectrum.largest", lambda *args: next(searches))
    found = spectrum(of(h), Effort(top=6))
    assert found.eigenvalues == pytest.approx((3, 3, 2, 2))
    assert found.squared_norm.value == pytest.approx(26) and contains(found.squared_norm, 26)


def test_the_spectrum_of_a_low_rank_matrix_is_exact() -> None:
    found = spectrum(of(rotated([3.0, -2.0, 1.0] + [0.0] * 200)), Effort(top=6))
    assert found.stable_rank == pytest.approx((14 / 9,) * 3)
    assert found.reached and found.probes == 1


def test_a_small_matrix_is_formed_explicitly() -> None:
    h = wigner(40)
    matrix, calls = counted(h)
    found = spectrum(matrix, Effort(top=40))
    assert len(calls) == 40
    torch.testing.assert_close(eigenvalues(found), largest(h, 40))
    assert found.stable_rank == pytest.approx((stable_rank(h),) * 3)
    torch.testing.assert_close(found.density.nodes, torch.linalg.eigvalsh(h))
    assert set(found.density.weights.tolist()) == {1 / 40}


@pytest.mark.parametrize("n", [20, 200])
def test_the_zero_matrix_has_no_stable_rank(n: int) -> None:
    found = spectrum(of(torch.zeros(n, n).double()), Effort(top=3))
    assert found.eigenvalues == (0.0, 0.0, 0.0)
    assert found.squared_norm == (0.0, 0.0, 0.0)
    assert found.stable_rank is None and found.reached


def test_all_eigenvalues_can_be_requested_but_no_more() -> None:
    h = rotated(DECAY)
    found = spectrum(of(h), Effort(top=300))
    torch.testing.assert_close(eigenvalues(found), DECAY)
    with pytest.raises(ModelError, match="301 eigenvalues requested, but the matrix has 300"):
        spectrum(of(h), Effort(top=301))


def test_the_density_matches_the_eigenvalues() -> None:
    h = wigner(400)
    values = torch.linalg.eigvalsh(h)
    found = spectrum(of(h), Effort(top=5, steps=40, runs=6)).density
    assert float(found.weights.sum()) == pytest.approx(1)
    mass = torch.stack([found.weights[found.nodes <= at].sum() for at in values])
    expected = torch.arange(1, 401) / 400
    assert float((mass - expected).abs().max()) < 0.05
    for value in largest(h, 5):
        near = (found.nodes - value).abs() < 1e-8
        assert float(found.weights[near].sum()) == pytest.approx(1 / 400)


def test_a_spectrum_is_reproducible_and_similar_in_float32() -> None:
    h = rotated(DECAY)
    once, again = (spectrum(of(h), Effort(seed=3)) for _ in range(2))
    assert repr(once) == repr(again)
    single = spectrum(of(h.float()), Effort(seed=3))
    assert single.eigenvalues == pytest.approx(once.eigenvalues, rel=1e-4)
    assert single.squared_norm == pytest.approx(once.squared_norm, rel=1e-4)
    assert spectrum(of(h), Effort(seed=4)).squared_norm.value != once.squared_norm.value
