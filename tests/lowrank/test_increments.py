"""Combining increments into one, and truncating it."""

from __future__ import annotations

import torch

from fedloru import lowrank, tree
from fedloru.lowrank import Increment, Site

LINEAR = Site("fc.weight", "fc.a", "fc.b", (7, 5), 2, 0.5)
CONV = Site("conv.weight", "conv.a", "conv.b", (4, 3, 2, 2), 3, 2.0)


def drawn(seed: int, *sites: Site) -> Increment:
    like = {key: torch.empty(0, dtype=torch.float64) for site in sites for key in site.keys}
    return Increment(sites, lowrank.init_factors(sites, seed, 0, like, "both"))


def product(whole: Increment, weight: str) -> torch.Tensor:
    (site,) = (site for site in whole.sites if site.weight == weight)
    return lowrank.delta(site, whole.factors)


def test_the_product_of_all_is_the_sum_of_products() -> None:
    """With different ranks and scales, and a weight that is in one increment only."""
    parts = [drawn(1, LINEAR, CONV), drawn(2, LINEAR._replace(rank=3, scale=3.0)), drawn(3, CONV)]
    whole = lowrank.combine(parts)
    assert {site.weight: (site.rank, site.scale) for site in whole.sites} == {
        "fc.weight": (5, 1.0),
        "conv.weight": (6, 1.0),
    }
    for weight in ("fc.weight", "conv.weight"):
        expected = sum(product(part, weight) for part in parts if weight in [site.weight for site in part.sites])
        torch.testing.assert_close(product(whole, weight), expected, rtol=0, atol=1e-14)


def test_ranks_that_contribute_nothing_are_dropped() -> None:
    """Fresh factors are dropped, and a single increment of scale 1 is returned unchanged, bit for bit."""
    first, fresh = drawn(1, LINEAR._replace(scale=1.0)), drawn(2, LINEAR, CONV)
    fresh.factors[LINEAR.b].zero_()
    fresh.factors[CONV.b].zero_()
    whole = lowrank.combine([first, fresh])
    assert whole.sites == first.sites and tree.equal(whole.factors, first.factors)
    assert lowrank.combine([fresh]) == Increment((), {})


def test_truncation_drops_the_tail_of_singular_values() -> None:
    whole = lowrank.combine([drawn(seed, LINEAR) for seed in range(4)])
    cut, errors = lowrank.truncate_increment(whole, 2)
    assert [site.rank for site in whole.sites] == [5 + 3] and [site.rank for site in cut.sites] == [2]
    sigma = torch.linalg.svdvals(product(whole, "fc.weight"))
    tail = float(sigma[2:].norm() / sigma.norm())
    assert abs(errors["fc.weight"] - tail) < 1e-12 and tail > 0.1
    lost = product(whole, "fc.weight") - product(cut, "fc.weight")
    assert abs(float(lost.norm() / sigma.norm()) - tail) < 1e-12


def test_factors_without_a_higher_rank_are_unchanged() -> None:
    whole = drawn(1, LINEAR, CONV)
    cut, errors = lowrank.truncate_increment(whole, 2)
    assert errors.keys() == {"conv.weight"}
    assert all(cut.factors[key] is whole.factors[key] for key in LINEAR.keys)
    assert [site.rank for site in cut.sites] == [2, 2]
