"""Agreement against pairs of explicit matrices, and the chance level against random draws."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from fedloru.analysis.alignment import Gram, agreements, flat, grams, jackknife, planted, shares
from fedloru.errors import FedloruError
from fedloru.tree import Params

RANKS = (1, 2, 4)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def clients(count: int = 4) -> list[Params]:
    """Return gradients of a convolution, a linear layer and a bias, with a common component."""
    shapes = {"conv": (5, 2, 3, 3), "fc": (6, 7), "bias": (6,)}
    common = {key: draw(*shape, seed=9) for key, shape in shapes.items()}
    return [{key: common[key] + draw(*shape, seed=k) for key, shape in shapes.items()} for k in range(count)]


def truncate(matrix: Tensor, rank: int | None) -> Tensor:
    u, sigma, vt = torch.linalg.svd(matrix, full_matrices=False)
    return matrix if rank is None else u[:, :rank] @ torch.diag(sigma[:rank]) @ vt[:rank]


def pairwise(vectors: list[Tensor]) -> list[float]:
    return [float(x @ y / (x.norm() * y.norm())) for x, y in combinations(vectors, 2)]


@pytest.mark.parametrize("keys", [["conv"], ["fc"], ["conv", "fc"]])
def test_cosines_are_those_of_explicit_truncations(keys: list[str]) -> None:
    gradients = clients()
    of = grams(gradients, RANKS)
    found = agreements(of[key] for key in keys)
    assert [row.rank for row in found] == [*RANKS, None]
    for row in found:
        low = [torch.cat([truncate(g[key].flatten(1), row.rank).flatten() for key in keys]) for g in gradients]
        full = [torch.cat([g[key].flatten() for key in keys]) for g in gradients]
        cosines = pairwise(low)
        assert row.cosine == pytest.approx(sum(cosines) / len(cosines), abs=1e-12)
        assert row.gain == pytest.approx((sum(cosines) - sum(pairwise(full))) / len(cosines), abs=1e-12)
        kept = [float((x.norm() / y.norm()) ** 2) for x, y in zip(low, full, strict=True)]
        assert row.energy == pytest.approx(sum(kept) / len(kept))
        products = [sum(float(x @ y) for x, y in combinations(vectors, 2)) for vectors in (low, full)]
        assert row.shared == pytest.approx(products[0] / products[1])


def test_vectors_are_left_out() -> None:
    assert grams(clients(), RANKS).keys() == {"conv", "fc"}


def test_the_largest_rank_gives_the_full_gradient() -> None:
    *_, largest, full = agreements(grams(clients(), [6]).values())
    assert largest._replace(rank=None) == pytest.approx(full)


def test_the_error_of_the_gain_is_that_of_pairwise_differences() -> None:
    """The cosines vary a lot between pairs, but truncation at full rank changes them only by rounding."""
    gradients = [{"w": 3 * gradient["fc"]} for gradient in clients(6)]
    row = agreements(grams(gradients, [6]).values())[0]
    assert row.error > 0.01 and row.gain_error < 1e-9


def test_identical_clients_have_cosine_1_and_a_zero_gradient_has_cosine_0() -> None:
    same = agreements(grams([clients(1)[0]] * 3, RANKS).values())
    assert all(row.cosine == pytest.approx(1) and row.error == pytest.approx(0, abs=1e-9) for row in same)
    with_zero = agreements(
        grams([clients(1)[0], {key: 0 * value for key, value in clients(1)[0].items()}], [1]).values()
    )
    assert [row.cosine for row in with_zero] == [0, 0]


def test_agreement_needs_two_clients() -> None:
    with pytest.raises(FedloruError, match="two or more clients, got 1"):
        grams(clients(1), RANKS)


@pytest.mark.parametrize("rank", [1, 3, 6])
def test_truncation_keeps_mean_and_variance_of_the_cosine_of_unrelated_matrices(rank: int) -> None:
    """20,000 pairs: at every rank, the mean is 0 within 4 standard errors, and the deviation 1/√(oi) within 3 %."""
    o, i, draws = 6, 10, 20_000
    u, sigma, vt = torch.linalg.svd(draw(2 * draws, o, i), full_matrices=False)
    low = ((u[..., :rank] * sigma[:, None, :rank]) @ vt[:, :rank]).flatten(1)
    low = low / low.norm(dim=1, keepdim=True)
    cosines = (low[:draws] * low[draws:]).sum(1)
    assert abs(float(cosines.mean())) < 4 / math.sqrt(o * i * draws)
    assert float(cosines.std()) == pytest.approx(1 / math.sqrt(o * i), rel=0.03)


def test_chance_is_the_standard_deviation_of_the_mean_cosine_over_draws() -> None:
    """Two weights of different norms at rank 2, four clients, 1,500 draws: within 6 %."""
    rows = []
    for seed in range(1500):
        gradients = [
            {"a": 3 * draw(4, 5, seed=10 * seed + k), "b": draw(6, 8, seed=10 * seed + k + 5)} for k in range(4)
        ]
        rows.append(agreements(grams(gradients, [2]).values())[0])
    cosines = torch.tensor([row.cosine for row in rows])
    chances = torch.tensor([row.chance for row in rows])
    assert float(cosines.std()) == pytest.approx(float(chances.square().mean().sqrt()), rel=0.06)


def test_chance_of_one_pair_at_one_weight_depends_only_on_its_size() -> None:
    found = agreements([grams(clients(2), RANKS)["fc"]])
    assert [row.chance for row in found] == pytest.approx([1 / math.sqrt(42)] * 4)


def test_the_jackknife_error_matches_the_standard_error_of_additive_values() -> None:
    """For values x_j + x_k the mean over pairs is 2x̄, whose standard error is 2s/√K."""
    x = draw(7)
    mean, error = jackknife(x[:, None] + x[None, :])
    assert mean == pytest.approx(2 * float(x.mean()))
    assert error == pytest.approx(2 * float(x.std()) / math.sqrt(7))
    assert jackknife(torch.eye(2))[1] is None


@pytest.mark.parametrize(("o", "i", "theta"), [(150, 300, 1.5), (150, 300, 3.0), (300, 150, 2.0)])
def test_the_cosines_under_a_planted_signal_are_predicted(o: int, i: int, theta: float) -> None:
    u, v = (torch.nn.functional.normalize(draw(n, seed=7), dim=0) for n in (o, i))
    signal = theta * torch.outer(u, v)
    gradients = [{"w": signal + draw(o, i, seed=20 + k) / math.sqrt(i)} for k in range(16)]
    low, full = agreements(grams(gradients, [1]).values())
    assert low.cosine == pytest.approx(planted(theta, o, i).rank_one, abs=0.03)
    assert full.cosine == pytest.approx(planted(theta, o, i).whole, abs=0.01)
    assert low.cosine > 5 * full.cosine


def test_a_signal_below_the_threshold_is_lost_by_truncation() -> None:
    o, i, theta = 100, 100, 0.9
    v = torch.nn.functional.normalize(torch.ones(o, dtype=torch.float64), dim=0)
    gradients = [{"w": theta * torch.outer(v, v) + draw(o, i, seed=k) / math.sqrt(i)} for k in range(40)]
    low, full = agreements(grams(gradients, [1]).values())
    assert planted(theta, o, i) == pytest.approx((theta**2 / (theta**2 + o), 0.0))
    assert full.cosine == pytest.approx(planted(theta, o, i).whole, abs=0.003)
    assert abs(low.cosine) < full.cosine + 4 * low.chance


def test_shares_of_gradients_in_an_eigenspace() -> None:
    rows = flat([{"b": torch.tensor([4.0]), "a": torch.tensor([[3.0, 0.0]])}], ["a", "b"])
    assert rows.tolist() == [[3, 0, 4]]
    assert shares(rows, torch.eye(3, dtype=torch.float64)[:, :1]) == pytest.approx([9 / 25])
    assert shares(rows, torch.eye(3, dtype=torch.float64)) == pytest.approx([1])


def test_a_gram_keeps_the_shape_of_its_weight() -> None:
    found = grams(clients(), [2, 1, 2])["conv"]
    assert isinstance(found, Gram) and (found.o, found.i, found.ranks) == (5, 18, (1, 2))
    assert found.products.shape == (3, 4, 4)
