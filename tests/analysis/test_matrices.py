"""The random-matrix model against draws from it, and its stable rank against its derivative."""

from __future__ import annotations

import math
from itertools import pairwise, product

import pytest
import torch

from fedloru.analysis.matrices import compare, fit, goe, predict, recover, simulate, turning_point
from fedloru.errors import FedloruError

SIZE = 400
SPIKES = (10.0, 6.0, -5.0, 1.0)
SIGMA = 1.0


@pytest.mark.parametrize("n", [2, 25, 100, 1000, 10_000])
def test_a_draw_matches_the_prediction(n: int) -> None:
    """N = 400: norms within 3 % and the stable rank within 6 % on a single draw, on both sides of the transition."""
    predicted, drawn = predict(SPIKES, SIGMA, n, SIZE), simulate(SPIKES, SIGMA, n, SIZE, seed=1)
    assert drawn.squared == pytest.approx(predicted.squared, rel=0.02)
    assert drawn.norm == pytest.approx(predicted.norm, rel=0.03)
    assert drawn.stable_rank == pytest.approx(predicted.stable_rank, rel=0.06)


@pytest.mark.parametrize(("n", "count"), [(10, 0), (50, 3), (10_000, 4)])
def test_outliers_leave_the_bulk_one_after_another(n: int, count: int) -> None:
    """c = σ√(N/n) is 6.3, 2.8 and 0.2; at n = 10 the largest, 10, is at 1.11 times the edge and not counted."""
    predicted, drawn = predict(SPIKES, SIGMA, n, SIZE), simulate(SPIKES, SIGMA, n, SIZE, seed=2)
    far = [value for value in predicted.outliers if abs(value) > 1.15 * predicted.edge]
    assert len(far) == count
    for value in far:
        assert min(abs(value - outlier) for outlier in drawn.outliers) < 0.05 * abs(value)


def test_the_bulk_ends_at_its_edge() -> None:
    found = torch.linalg.eigvalsh(goe(SIZE, 3)) / math.sqrt(SIZE)
    assert float(found.max()) == pytest.approx(2, abs=0.05) and float(found.min()) == pytest.approx(-2, abs=0.05)


def test_the_squared_norm_is_exact_in_the_mean() -> None:
    """3,000 draws with N = 5, within 4 standard errors."""
    drawn = torch.tensor([simulate((2.0,), 1.5, 3, 5, seed).squared for seed in range(3000)])
    predicted = predict((2.0,), 1.5, 3, 5).squared
    assert predicted == pytest.approx(4 + 30 * 1.5**2 / 3)
    assert float(drawn.mean()) == pytest.approx(predicted, abs=4 * float(drawn.std()) / math.sqrt(3000))


def stable(eigenvalues: tuple[float, ...], n: int) -> float:
    return predict(eigenvalues, SIGMA, n, SIZE).stable_rank


def test_the_stable_rank_falls_with_n_above_the_turning_point_and_rises_below() -> None:
    turn = turning_point(SPIKES, SIGMA, SIZE)
    assert turn == pytest.approx(SIZE / (100 * (1 - 2 * 1.62 / 401)))
    above = [stable(SPIKES, n) for n in range(math.ceil(turn), 2000)]
    below = [stable(SPIKES, n) for n in range(1, math.floor(turn) + 1)]
    assert all(x > y for x, y in pairwise(above))
    assert all(x < y for x, y in pairwise(below))
    assert max(below) == pytest.approx(SIZE / 4, rel=0.02) and above[-1] < 3


def test_the_stable_rank_rises_with_n_if_the_true_hessian_has_full_rank() -> None:
    """For H = I, both in the model and in draws, although the edge of I + E is at 1 + 2c, unlike for low rank."""
    full = (1.0,) * SIZE
    assert turning_point(full, SIGMA, SIZE) == math.inf
    predicted = [stable(full, n) for n in (100, 400, 1600, 6400, 25_600)]
    drawn = [simulate(full, SIGMA, n, SIZE, 0).stable_rank for n in (100, 400, 1600, 6400, 25_600)]
    assert predicted == sorted(predicted) and drawn == sorted(drawn)


@pytest.mark.parametrize("eigenvalue", [3.0, -4.5])
def test_an_eigenvalue_is_recovered_from_its_outlier(eigenvalue: float) -> None:
    predicted = predict((eigenvalue,), 1.0, 100, 400)
    assert recover(predicted.outliers[0], predicted.edge) == pytest.approx(eigenvalue)
    assert recover(0.9 * predicted.edge, predicted.edge) is None


def test_sigma_is_fitted_to_draws() -> None:
    sizes = [20, 20, 40, 40, 80, 80, 1600]
    norms = [simulate(SPIKES, 0.7, n, SIZE, seed).squared for seed, n in enumerate(sizes)]
    found = fit(sizes, norms, SIZE)
    assert found.sigma == pytest.approx(0.7, rel=0.02)
    assert found.squared == pytest.approx(162, rel=0.1)
    assert found.residual < 0.02


def test_a_fit_is_exact_on_a_line_and_sigma_is_0_if_norms_do_not_fall() -> None:
    norms = [predict(SPIKES, 2.0, n, 30).squared for n in (5, 10, 40)]
    assert fit([5, 10, 40], norms, 30) == pytest.approx((2.0, 162.0, 0.0), abs=1e-9)
    assert fit([10, 20], [3.0, 4.0], 30).sigma == 0


def test_sigma_cannot_be_fitted_to_a_single_number_of_examples() -> None:
    with pytest.raises(FedloruError, match="over 10 examples"):
        fit([10, 10], [3.0, 4.0], 30)


def test_stable_ranks_of_draws_are_predicted_from_the_one_with_the_most_examples() -> None:
    """N = 400: within 10 %, down to n = 10; there one draw moves ‖H_n‖₂ by 3 %, and its square by 6 %."""
    sizes = [10, 20, 40, 80, 1600]
    draws = [simulate(SPIKES, SIGMA, n, SIZE, seed) for seed, n in enumerate(sizes)]
    found = compare(sizes, [draw.squared for draw in draws], [draw.norm for draw in draws], SIZE)
    assert [row.examples for row in found] == sizes
    for row, draw in zip(found, draws, strict=True):
        assert row.measured == pytest.approx(draw.stable_rank)
        assert row.predicted == pytest.approx(row.measured, rel=0.1)


def test_hessians_of_pure_noise_are_rejected() -> None:
    draws = [simulate((), SIGMA, n, SIZE, seed=n) for n in (10, 100)]
    with pytest.raises(FedloruError, match="inside the bulk"):
        compare([10, 100], [draw.squared for draw in draws], [0.95 * draw.norm for draw in draws], SIZE)


def test_the_squared_norm_can_be_given() -> None:
    assert predict((2.0,), 0.0, 10, 30, squared=9.0).stable_rank == pytest.approx(9 / 4)


def means(matrices: torch.Tensor, n: int) -> torch.Tensor:
    """Return the means of all samples of n of the (m, N, N) matrices, drawn with replacement."""
    rows = torch.tensor(list(product(range(len(matrices)), repeat=n)))
    return matrices[rows].mean(1)


def test_the_model_free_facts_hold_exactly() -> None:
    """E‖H_n‖_F² = ‖H‖_F² + v/n, and E‖H_n‖₂ decreases towards ‖H‖₂, over all samples of four different examples."""
    draw = torch.randn(4, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).exp()
    examples = (draw + draw.mT) * torch.tensor([1.0, -2.0, 0.1, 5.0])[:, None, None]
    whole = examples.mean(0)
    v = (examples - whole).square().sum((1, 2)).mean()
    norms = [float(torch.linalg.matrix_norm(whole, 2))]
    for n in (4, 3, 2, 1):
        found = means(examples, n)
        squares = found.square().sum((1, 2)).mean()
        assert float(squares) == pytest.approx(float(whole.square().sum() + v / n), rel=1e-12)
        norms.append(float(torch.linalg.matrix_norm(found, 2).mean()))
    assert norms == sorted(norms) and norms[0] < norms[-1]
