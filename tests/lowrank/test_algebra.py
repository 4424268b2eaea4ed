"""merge, init_factors, stack, concatenate, truncate and delta, compared with dense products."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedloru import lowrank, tree
from fedloru.lowrank import Site
from fedloru.tree import Params

SHAPES = st.one_of(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3)),
)
quick = settings(max_examples=40, deadline=None)


def site(shape: tuple[int, ...], rank: int, name: str = "", scale: float = 1.5) -> Site:
    return Site(f"{name}weight", f"{name}a", f"{name}b", shape, rank, scale)


def drawn(target: Site, rank: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Params:
    g = torch.Generator().manual_seed(seed)
    return {
        target.a: torch.randn(target.a_shape(rank), generator=g, dtype=torch.float64).to(dtype),
        target.b: torch.randn(target.b_shape(rank), generator=g, dtype=torch.float64).to(dtype),
    }


def product(target: Site, factors: Params) -> Tensor:
    """Return BA as a matrix, computed as a sum of outer products over the rank."""
    a, b = factors[target.a].double().flatten(1), factors[target.b].double().flatten(1)
    return sum(
        (torch.outer(b[:, r], a[r]) for r in range(len(a))), torch.zeros(target.o, target.i, dtype=torch.float64)
    )


def same(x: Tensor, y: Tensor, tolerance: float = 1e-10) -> bool:
    return x.shape == y.shape and bool(((x - y).abs() <= tolerance).all())


@quick
@given(SHAPES, st.integers(1, 5))
def test_merge_is_the_dense_sum(shape: tuple[int, ...], rank: int) -> None:
    target, other = site(shape, rank), torch.randn(3)
    base = {"weight": torch.randn(shape, dtype=torch.float64), "other": other}
    factors = drawn(target, rank)
    before = tree.clone(base), tree.clone(factors)
    merged = lowrank.merge([target], base, factors)
    assert same(merged["weight"].flatten(1), base["weight"].flatten(1) + 1.5 * product(target, factors))
    assert merged["other"] is other
    assert tree.equal(base, before[0]) and tree.equal(factors, before[1])


@pytest.mark.parametrize(("dtype", "bits"), [(torch.bfloat16, 8), (torch.float16, 11)])
def test_narrow_merges_round_once(dtype: torch.dtype, bits: int) -> None:
    """The error is half a unit in the last place; a product or a sum computed in ``dtype`` would exceed it."""
    target = site((40, 30), 8, scale=0.3)
    factors = drawn(target, 8, dtype=dtype)
    weight = torch.randn(40, 30, generator=torch.Generator().manual_seed(3)).to(dtype)
    merged = lowrank.merge([target], {"weight": weight}, factors)["weight"]
    exact = weight.double() + 0.3 * product(target, factors)
    assert merged.dtype == dtype
    assert bool(((merged.double() - exact).abs() <= exact.abs() * 2.0**-bits * 1.001 + 1e-6).all())


def strided(t: Tensor) -> Tensor:
    """Return a view with the values of ``t`` that is neither contiguous nor aligned."""
    wide = torch.empty(t.shape[1] + 1, t.shape[0] + 3, dtype=t.dtype)
    view = wide.T[1:-2, 1:]
    view.copy_(t)
    return view


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(257, 515, 16), (64, 2048, 128), (1031, 33, 1)])
def test_delta_has_the_same_bits_however_it_is_computed(
    shape: tuple[int, int, int], dtype: torch.dtype, threads: None
) -> None:
    """Bit-exact catch-up depends on this: clients with other threads or memory layouts merge the same increment."""
    o, i, rank = shape
    target = site((o, i), rank)
    factors = drawn(target, rank, dtype=dtype)
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        for layout in (lambda t: t, strided, lambda t: t.T.contiguous().T):
            found.append(lowrank.delta(target, tree.map(layout, factors)))
    assert all(t.dtype == torch.float32 and torch.equal(t, found[0]) for t in found)
    exact = 1.5 * product(target, factors)
    assert bool(((found[0].double() - exact).abs() <= exact.abs() * 2.0**-24 * 1.001).all())


SITES = tuple(site(shape, 3, name) for name, shape in (("x.", (5, 7)), ("y.", (4, 2, 3, 3)), ("z.", (6, 4))))
LIKE: Params = {key: torch.empty(0, dtype=torch.float32) for target in SITES for key in target.keys}


def test_fresh_factors_do_not_depend_on_the_order_or_number_of_sites() -> None:
    whole = lowrank.init_factors(SITES, 3, 1, LIKE, "both")
    assert tree.equal(whole, lowrank.init_factors(SITES[::-1], 3, 1, LIKE, "both"))
    for target in SITES:
        assert tree.equal(tree.select(whole, target.keys), lowrank.init_factors([target], 3, 1, LIKE, "both"))


def test_fresh_factors_belong_to_seed_version_and_site() -> None:
    draws = [lowrank.init_factors(SITES, seed, version, LIKE) for seed, version in ((3, 1), (3, 2), (4, 1))]
    assert tree.equal(draws[0], lowrank.init_factors(SITES, 3, 1, LIKE))
    assert len({tree.digest(draw) for draw in draws}) == 3
    twins = [site((5, 7), 3, name) for name in ("x.", "w.")]
    like = {key: torch.empty(0) for target in twins for key in target.keys}
    drawn_twins = lowrank.init_factors(twins, 3, 1, like)
    assert not torch.equal(drawn_twins["x.a"], drawn_twins["w.a"])


def test_fresh_factors_are_uniform_with_b_at_0() -> None:
    target = site((200, 4, 5, 5), 100)
    like = {key: torch.empty(0, dtype=torch.float64) for key in target.keys}
    random = torch.get_rng_state()
    only_a, both = (lowrank.init_factors([target], 0, 0, like, init) for init in ("a", "both"))
    assert torch.equal(torch.get_rng_state(), random)
    assert only_a["a"].shape == (100, 4, 5, 5) and only_a["b"].shape == (200, 100, 1, 1)
    assert tree.equal({"b": only_a["b"]}, {"b": torch.zeros(200, 100, 1, 1, dtype=torch.float64)})
    for values, bound in ((both["a"], 1 / math.sqrt(100)), (both["b"], 1 / math.sqrt(100))):
        assert float(values.abs().max()) <= bound
        assert float(values.std()) == pytest.approx(bound / math.sqrt(3), rel=0.03)
        assert abs(float(values.mean())) < 0.03 * bound
    assert torch.equal(only_a["a"], both["a"])


def test_fresh_factors_do_not_depend_on_the_default_dtype() -> None:
    expected = lowrank.init_factors(SITES, 3, 1, LIKE, "both")
    torch.set_default_dtype(torch.float64)
    try:
        assert tree.equal(lowrank.init_factors(SITES, 3, 1, LIKE, "both"), expected)
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_fresh_factors_have_the_dtype_of_like(dtype: torch.dtype) -> None:
    wide = lowrank.init_factors(SITES, 3, 1, LIKE, "both")
    like = {key: torch.empty(0, dtype=dtype) for key in LIKE}
    assert tree.equal(lowrank.init_factors(SITES, 3, 1, like, "both"), tree.map(lambda t: t.to(dtype), wide))


@quick
@given(SHAPES, st.lists(st.tuples(st.floats(0.1, 9), st.integers(1, 4)), min_size=1, max_size=5))
def test_stack_is_the_weighted_sum_of_products(shape: tuple[int, ...], parts: list[tuple[float, int]]) -> None:
    target = site(shape, 2)
    each = [(weight, drawn(target, rank, seed)) for seed, (weight, rank) in enumerate(parts)]
    stacked = lowrank.stack([target], each)
    assert stacked["a"].shape == target.a_shape(sum(rank for _, rank in parts))
    expected = sum(weight * product(target, factors) for weight, factors in each)
    assert same(product(target, stacked), expected, 1e-9)


@quick
@given(SHAPES, st.integers(1, 4), st.integers(1, 4))
def test_concatenate_adds_products(shape: tuple[int, ...], rank: int, other: int) -> None:
    target = site(shape, rank)
    x, y = drawn(target, rank, 1), drawn(target, other, 2)
    assert same(product(target, lowrank.concatenate([target], x, y)), product(target, x) + product(target, y))
    assert lowrank.concatenate([target], {}, y) == y and lowrank.concatenate([target], x, {}) == x
    assert lowrank.concatenate([target], {}, {}) == {}


def test_narrow_stacks_are_weighted_in_float32() -> None:
    """Weights are numbers of examples: in half precision, B entries of 20 times 4,000 examples would overflow."""
    target = site((3, 4), 2)
    factors = {"a": torch.full((2, 4), 0.1), "b": torch.full((3, 2), 20.0)}
    narrow = tree.map(lambda t: t.half(), factors)
    stacked = lowrank.stack([target], [(4000.0, narrow), (2000.0, narrow)])
    expected = 6000 * product(target, narrow)
    assert bool(((product(target, stacked) - expected).abs() <= 1e-6 * expected).all())


@quick
@given(SHAPES, st.integers(1, 12), st.integers(1, 12))
@example((5, 7), 3, 9)
@example((4, 4), 9, 4)
@example((1, 6), 4, 1)
def test_truncate_is_the_best_rank_r_approximation(shape: tuple[int, ...], full: int, rank: int) -> None:
    target = site(shape, 2)
    factors = drawn(target, full)
    cut, error = lowrank.truncate(target, factors, rank)
    dense = product(target, factors)
    u, sigma, vt = torch.linalg.svd(dense, full_matrices=False)
    best = (u[:, :rank] * sigma[:rank]) @ vt[:rank]
    kept = cut["a"].shape[0]
    assert kept == min(rank, full, target.o, target.i)
    assert cut["a"].shape == target.a_shape(kept) and cut["b"].shape == target.b_shape(kept)
    size = float(sigma.norm())
    gap = float(sigma[rank - 1] - sigma[rank]) if rank < len(sigma) else size
    if gap > 1e-3 * size:  # the best approximation is unique only if the singular values differ
        assert same(product(target, cut), best, 1e-8 * size)
    lost = float((dense - product(target, cut)).norm())
    assert lost == pytest.approx(float(sigma[rank:].norm()), abs=1e-9 * size)
    assert error == pytest.approx(lost / size, abs=1e-8)
    assert tree.equal(factors, drawn(target, full))


def test_truncate_fixes_the_signs_of_singular_vectors() -> None:
    """Factors with the same product to rounding, such as (−B)(−A), give the same result."""
    target = site((6, 5), 3)
    factors = drawn(target, 3)
    cut, _ = lowrank.truncate(target, factors, 2)
    other, _ = lowrank.truncate(target, {key: -value for key, value in factors.items()}, 2)
    largest = cut[target.b].gather(0, cut[target.b].abs().argmax(0, keepdim=True))
    assert (largest > 0).all()
    for key, value in cut.items():
        torch.testing.assert_close(other[key], value, rtol=0, atol=1e-6)


def test_truncate_splits_singular_values_evenly() -> None:
    target = site((6, 5), 2)
    cut, _ = lowrank.truncate(target, drawn(target, 5), 3)
    sigma = torch.linalg.svdvals(product(target, drawn(target, 5)))[:3]
    for gram in (cut["b"].T @ cut["b"], cut["a"] @ cut["a"].T):
        assert same(gram, torch.diag(sigma), 1e-9)


@pytest.mark.parametrize("rank", [1, 2, 3, 20])
def test_truncate_is_exact_for_a_product_of_lower_rank(rank: int) -> None:
    target = site((6, 8), 2)
    two = drawn(target, 2)
    repeated = lowrank.stack([target], [(0.5, two), (0.25, two), (0.25, two)])  # six columns of rank 2
    cut, error = lowrank.truncate(target, repeated, rank)
    if rank >= 2:
        assert same(product(target, cut), product(target, two), 1e-9) and error < 1e-7
    else:
        sigma = torch.linalg.svdvals(product(target, two))
        assert error == pytest.approx(float(sigma[1] / sigma.norm()))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_truncate_of_zero_is_zero(dtype: torch.dtype) -> None:
    target = site((6, 8), 2)
    factors = drawn(target, 4, dtype=dtype) | {"b": torch.zeros(6, 4, dtype=dtype)}
    cut, error = lowrank.truncate(target, factors, 2)
    assert error == 0.0 and not product(target, cut).any() and product(target, cut).isfinite().all()
    assert {t.dtype for t in cut.values()} == {dtype}
