"""Ranks of known spectra, subspaces rotated by known angles, and expected overlaps compared with random draws."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fedloru.lowrank.spectra import (
    basis,
    overlap,
    overlap_beyond_chance,
    overlap_by_chance,
    principal_angles,
    ranks,
    singular_values,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_principal_angles_of_planes_rotated_by_a_known_angle() -> None:
    x = torch.eye(4, 2, dtype=torch.float64)
    y = torch.tensor([[1, 0], [0, math.cos(0.3)], [0, math.sin(0.3)], [0, 0]], dtype=torch.float64)
    assert principal_angles(x, y).tolist() == pytest.approx([0, 0.3], abs=1e-7)
    assert overlap(x, y) == pytest.approx((1 + math.cos(0.3) ** 2) / 2)


def test_a_basis_spans_the_columns_and_no_more() -> None:
    matrix = draw(6, 2) @ draw(2, 4, seed=1)
    found = basis(matrix)
    assert found.shape == (6, 2)
    torch.testing.assert_close(found @ (found.T @ matrix), matrix)
    assert basis(torch.zeros(5, 3)).shape == (5, 0)


@pytest.mark.parametrize(("n", "p", "q"), [(8, 1, 3), (8, 3, 3), (9, 2, 5)])
def test_overlap_by_chance(n: int, p: int, q: int) -> None:
    """With 4,000 draws: the mean is within 4 standard errors, the standard deviation within 5 %."""
    fixed = torch.eye(n, q, dtype=torch.float64)
    drawn = torch.linalg.qr(draw(4000, n, p)).Q
    found = torch.tensor([overlap(x, fixed) for x in drawn])
    chance = overlap_by_chance(n, p, q)
    assert float(found.mean()) == pytest.approx(chance.mean, abs=4 * chance.deviation / math.sqrt(4000))
    assert float(found.std()) == pytest.approx(chance.deviation, rel=0.05)


def test_the_whole_space_contains_every_subspace() -> None:
    assert overlap_by_chance(5, 5, 2) == (1.0, 0.0)
    assert overlap_by_chance(1, 1, 1) == (1.0, 0.0)


def test_overlap_beyond_chance_is_1_for_equal_subspaces_and_0_on_average() -> None:
    """With 2,000 draws of planes in 8 dimensions, the mean is within 4 standard errors."""
    fixed = torch.eye(8, 2, dtype=torch.float64)
    assert overlap_beyond_chance(fixed, fixed) == pytest.approx(1)
    found = torch.tensor([overlap_beyond_chance(x, fixed) for x in torch.linalg.qr(draw(2000, 8, 2)).Q])
    assert float(found.mean()) == pytest.approx(0, abs=4 * float(found.std()) / math.sqrt(2000))


def test_overlap_is_undefined_for_the_whole_and_the_empty_space() -> None:
    plane = torch.eye(3, 2, dtype=torch.float64)
    assert overlap_beyond_chance(torch.eye(3, dtype=torch.float64), plane) is None
    assert overlap_beyond_chance(plane[:, :0], plane) is None


def test_ranks_of_equal_and_of_single_singular_values() -> None:
    assert ranks(torch.full((5,), 0.3, dtype=torch.float64)) == pytest.approx({"stable": 5, "effective": 5})
    assert ranks(torch.tensor([0.0, 2.0])) == pytest.approx({"stable": 1, "effective": 1})
    assert ranks(torch.zeros(3)) == {"stable": 0, "effective": 0}


@pytest.mark.parametrize("shape", [(4, 7), (7, 4)])
def test_singular_values_from_the_smaller_gram_matrix(shape: tuple[int, int]) -> None:
    matrix = draw(*shape)
    torch.testing.assert_close(singular_values(matrix).flip(0), torch.linalg.svdvals(matrix))
