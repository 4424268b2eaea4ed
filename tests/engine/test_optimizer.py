"""Stacked trees and their optimizers, compared with one ``torch.optim`` optimizer per client."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedloru import tree
from fedloru.client import build_optimizer, local_schedule
from fedloru.engine.fused.chunk import batches
from fedloru.engine.fused.engine import chunks, local_steps
from fedloru.engine.fused.gradients import Outer
from fedloru.engine.fused.optimizer import Optimizer
from fedloru.engine.fused.stack import client, first, stack
from fedloru.recipe import Recipe
from fedloru.session import Job

quick = settings(max_examples=25, deadline=None)
SHAPES = st.lists(st.lists(st.integers(1, 4), max_size=3).map(tuple), min_size=1, max_size=4)

RECIPES = {
    "sgd": Recipe("sgd", lr=0.3),
    "momentum": Recipe("sgd", lr=0.3, momentum=0.9),
    "decay": Recipe("sgd", lr=0.3, momentum=0.5, weight_decay=0.1),
    "decay without momentum": Recipe("sgd", lr=0.3, weight_decay=0.1),
    "adam": Recipe("adam", lr=0.1),
    "adam, decay": Recipe("adam", lr=0.1, weight_decay=0.2, betas=(0.7, 0.95), eps=1e-3),
    "adamw": Recipe("adamw", lr=0.1, weight_decay=0.2, betas=(0.8, 0.9), eps=1e-2),
}


def noise(shapes: list[tuple[int, ...]], seed: int) -> tree.Params:
    g = torch.Generator().manual_seed(seed)
    return {str(k): torch.randn(shape, generator=g, dtype=torch.float64) for k, shape in enumerate(shapes)}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("bound", [None, 0.5, 100.0])
@quick
@given(SHAPES, st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_a_stacked_optimizer_equals_one_per_client(
    name: str, bound: float | None, shapes: list[tuple[int, ...]], steps: list[int]
) -> None:
    """Clients take ``steps`` steps, in descending order; those that have finished do not change any more."""
    recipe = RECIPES[name]._replace(clip=bound)
    steps = sorted(steps, reverse=True)
    starts = [noise(shapes, c) for c in range(len(steps))]
    values = stack(starts)
    stacked = Optimizer.create(recipe, values)
    leaves = [{key: value.clone().requires_grad_() for key, value in start.items()} for start in starts]
    separate = [build_optimizer(recipe, list(each.values())) for each in leaves]
    for step in range(1, steps[0] + 1):
        active = [c for c, n in enumerate(steps) if n >= step]
        gradients = [noise(shapes, 100 * step + c) for c in active]
        for c, gradient in zip(active, gradients, strict=True):
            for key, leaf in leaves[c].items():
                leaf.grad = gradient[key].clone()
            if bound is not None:
                nn.utils.clip_grad_norm_(leaves[c].values(), bound)
            separate[c].step()
        stacked.first(len(active)).step(stack(gradients), step)
    for c, expected in enumerate(leaves):
        for key, value in client(values, c).items():
            torch.testing.assert_close(value, expected[key].detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("bound", [None, 0.5, 100.0])
def test_gradients_kept_as_products_give_the_same_steps(name: str, bound: float | None) -> None:
    recipe = RECIPES[name]._replace(clip=bound)
    values = [stack([noise([(4, 5), (3,)], c) for c in range(3)]) for _ in range(2)]
    one, other = (Optimizer.create(recipe, each) for each in values)
    for step in range(1, 4):
        made = stack([noise([(2, 4), (2, 5), (3,)], 10 * step + c) for c in range(3)])
        product = Outer(made["0"], made["1"])
        one.step({"0": product, "1": made["2"]}, step)
        other.step({"0": product.dense(), "1": made["2"]}, step)
    for key, value in values[0].items():
        torch.testing.assert_close(value, values[1][key], rtol=0, atol=1e-12)


def test_a_nan_gradient_affects_only_its_client() -> None:
    values = stack([noise([(3,)], c) for c in range(3)])
    gradients = stack([noise([(3,)], 9 + c) for c in range(3)])
    gradients["0"][1, 0] = float("nan")
    Optimizer.create(Recipe(clip=0.1), values).step(gradients, 1)
    assert values["0"][0].isfinite().all() and values["0"][2].isfinite().all() and values["0"][1].isnan().all()


def test_stacks_are_copies_and_slices_are_views() -> None:
    starts = [noise([(2, 3), ()], c) for c in range(3)]
    before = [tree.digest(start) for start in starts]
    stacked = stack(starts)
    assert {key: value.shape for key, value in stacked.items()} == {"0": (3, 2, 3), "1": (3,)}
    for c in range(3):
        assert tree.equal(client(stacked, c), starts[c])
    head = first(stacked, 2)
    assert head["0"].is_contiguous() and head["0"].data_ptr() == stacked["0"].data_ptr()
    head["0"][1].zero_()
    client(stacked, 2)["1"].zero_()
    assert not stacked["0"][1].any() and not stacked["1"][2].any()
    assert [tree.digest(start) for start in starts] == before


EXAMPLES = st.lists(st.integers(1, 40), min_size=1, max_size=12)


@quick
@given(EXAMPLES, st.integers(1, 9), st.integers(1, 3), st.integers(1, 14))
def test_chunks_hold_every_client_once_with_most_steps_first(
    sizes: list[int], batch_size: int, epochs: int, size: int
) -> None:
    recipe = Recipe(batch_size=batch_size, epochs=epochs)
    cohort = [Job(7 * c, torch.arange(n)) for c, n in enumerate(sizes)]
    found = chunks(cohort, size, recipe)
    assert sorted(job.client for part in found for job in part) == [job.client for job in cohort]
    lengths = [len(part) for part in found]
    assert max(lengths) <= size and len(found) == -(-len(sizes) // size)  # the minimum number of chunks
    steps = [local_steps(len(job.rows), recipe) for part in found for job in part]
    assert steps == sorted(steps, reverse=True)
    for job in cohort:
        assert local_steps(len(job.rows), recipe) == len(local_schedule(job, recipe, 0, 1).counts)
    assert chunks(cohort[::-1], size, recipe) == found  # the order of the jobs does not matter
    assert local_steps(sizes[0], recipe._replace(steps=5)) == 5


@quick
@given(EXAMPLES, st.integers(1, 9), st.integers(1, 3))
def test_batches_of_a_chunk_are_those_each_client_draws_alone(sizes: list[int], batch_size: int, epochs: int) -> None:
    recipe = Recipe(batch_size=batch_size, epochs=epochs, crop=1, flip=True)
    (cohort,) = chunks([Job(c, torch.arange(100 * c, 100 * c + n)) for c, n in enumerate(sizes)], 99, recipe)
    plan = batches(cohort, recipe, 5, 2)
    assert plan.shifts is not None and plan.flips is not None
    for c, job in enumerate(cohort):
        own = local_schedule(job, recipe, 5, 2)
        assert int((plan.counts[c] > 0).sum()) == len(own.counts) and not plan.counts[c, len(own.counts) :].any()
        assert set(plan.rows[c].flatten().tolist()) <= set(job.rows.tolist())  # padding repeats the client's own rows
        for step, count in enumerate(own.counts.tolist()):
            assert int(plan.counts[c, step]) == count
            for stacked, single in ((plan.rows, own.rows), (plan.shifts, own.shifts), (plan.flips, own.flips)):
                assert single is not None and torch.equal(stacked[c, step, :count], single[step, :count])
