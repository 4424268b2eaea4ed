"""Named random draws, and arithmetic on trees."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloru import tree
from fedloru.rng import derive, gen

PATHS = st.lists(st.one_of(st.integers(-3, 3), st.text("ab0'", max_size=3)), max_size=4)
quick = settings(max_examples=60, deadline=None)


@quick
@given(st.integers(-(2**40), 2**40), PATHS, st.integers(-(2**40), 2**40), PATHS)
def test_seeds_are_equal_where_paths_are(
    seed: int, path: list[str | int], other: int, other_path: list[str | int]
) -> None:
    assert 0 <= derive(seed, *path) < 2**63
    assert (derive(seed, *path) == derive(other, *other_path)) is ((seed, path) == (other, other_path))


def test_generators_are_fresh_and_leave_the_global_one_alone() -> None:
    before = torch.get_rng_state()
    first, second = (torch.randn(5, generator=gen(1, "x", 2)) for _ in range(2))
    assert torch.equal(first, second) and not torch.equal(first, torch.randn(5, generator=gen(1, "x", 3)))
    assert torch.equal(torch.get_rng_state(), before)


def test_draws_do_not_depend_on_the_process_or_its_hashes() -> None:
    code = "from fedloru.rng import derive; print(derive(7, 'batches', 3, 11))"
    env = os.environ | {"PYTHONHASHSEED": "1"}
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env).stdout
    assert int(printed) == derive(7, "batches", 3, 11)


def trees() -> tuple[tree.Params, tree.Params]:
    g = torch.Generator().manual_seed(0)
    x = {"w": torch.randn(3, 4, generator=g), "b": torch.randn(2, generator=g), "n": torch.tensor(3)}
    y = {"b": torch.randn(2, generator=g), "n": torch.tensor(5), "w": torch.randn(3, 4, generator=g)}
    return x, y


def test_arithmetic_matches_by_key_and_not_by_place() -> None:
    x, y = trees()
    for name, function in (("add", np.add), ("sub", np.subtract)):
        found = getattr(tree, name)(x, y)
        assert list(found) == list(x)
        for key in x:
            np.testing.assert_allclose(found[key].numpy(), function(x[key].numpy(), y[key].numpy()), rtol=1e-6)


def test_scaling_leaves_integers_alone() -> None:
    x, _ = trees()
    half = tree.scale(x, 0.5)
    assert torch.equal(half["w"], x["w"] / 2) and int(half["n"]) == 3 and half["n"].dtype == torch.int64


def test_norm_is_that_of_all_entries_together() -> None:
    x = {"w": torch.full((2, 2), 3.0, dtype=torch.float64), "b": torch.tensor([8.0]), "h": torch.tensor([1.0]).half()}
    assert float(tree.norm(x)) == pytest.approx(np.sqrt(4 * 9 + 64 + 1))
    assert float(tree.norm({})) == 0.0
    large = {"h": torch.full((10_000,), 100.0, dtype=torch.float16)}  # its square overflows float16
    assert float(tree.norm(large)) == pytest.approx(1e4)


def test_weighted_sum_is_in_float32_or_better() -> None:
    """A thousand small numbers added to a large one would be lost in bfloat16."""
    narrow = [{"w": torch.tensor([256.0], dtype=torch.bfloat16)}]
    narrow += [{"w": torch.tensor([0.5], dtype=torch.bfloat16)} for _ in range(1000)]
    total = tree.weighted_sum(narrow, [1.0] * 1001)
    assert total["w"].dtype == torch.float32 and float(total["w"]) == 756.0
    wide = tree.weighted_sum([{"w": torch.ones(1, dtype=torch.float64)}], [1 / 3])
    assert wide["w"].dtype == torch.float64 and float(wide["w"]) == 1 / 3
    assert tree.weighted_sum([], []) == {}
    with pytest.raises(ValueError, match="shorter"):
        tree.weighted_sum(narrow, [1.0])


def test_nothing_changes_its_inputs() -> None:
    x, y = trees()
    before = tree.digest(x), tree.digest(y)
    for result in (
        tree.add(x, y),
        tree.sub(x, y),
        tree.scale(x, 2.0),
        tree.weighted_sum([x, y], [2.0, 3.0]),
        tree.clone(x),
    ):
        for value in result.values():
            if value.is_floating_point():
                value.zero_()
    assert (tree.digest(x), tree.digest(y)) == before


def test_keys_are_chosen_and_left_out() -> None:
    x, _ = trees()
    assert list(tree.select(x, ["n", "w"])) == ["n", "w"] and tree.select(x, ["w"])["w"] is x["w"]
    assert list(tree.omit(x, ["w", "unknown"])) == ["b", "n"]
    with pytest.raises(KeyError):
        tree.select(x, ["unknown"])
    assert tree.size(x) == 15 and tree.nbytes(x) == 4 * 14 + 8


def test_equal_and_digest_see_every_bit() -> None:
    x, _ = trees()
    turned = dict(reversed(x.items()))
    assert tree.equal(x, turned) and tree.digest(x) == tree.digest(turned)
    others = [
        x | {"w": x["w"].double()},
        x | {"w": x["w"].view(4, 3)},
        x | {"w": torch.nextafter(x["w"], torch.tensor(9.0))},
        x | {"v": x["w"]},
        tree.omit(x, ["n"]),
    ]
    for other in others:
        assert not tree.equal(x, other) and tree.digest(x) != tree.digest(other)
    zeros = [{"z": torch.tensor([zero])} for zero in (0.0, -0.0)]
    assert not tree.equal(*zeros)
    nan = {"z": torch.tensor([float("nan")])}
    assert tree.equal(nan, tree.clone(nan))
    assert tree.equal(x | {"w": x["w"].T.contiguous().T}, x)  # the memory layout does not matter


def test_dtypes_follow_the_model() -> None:
    x, _ = trees()
    narrow = tree.cast_like(x, tree.map(lambda t: t.to(torch.float16), x))
    assert {t.dtype for t in narrow.values()} == {torch.float16}
