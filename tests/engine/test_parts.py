"""What the Ray engine needs no Ray for: parts, packed tensors, and errors that cross processes."""

from __future__ import annotations

import copy
import sys

import pytest
import torch
from torch import nn

from fedloru import tree
from fedloru.engine import choose
from fedloru.engine.parts.engine import split
from fedloru.engine.parts.worker import shared
from fedloru.engine.ray.packing import pack, unpack
from fedloru.errors import ConfigError, MissingExtraError, TrainingError
from fedloru.methods import fedavg
from fedloru.recipe import Recipe
from fedloru.session import Job
from tests.engine.cohort import RECIPE, built, vectors


@pytest.mark.parametrize("count", [1, 2, 3, 7, 40])
def test_parts_keep_the_order_and_every_client(count: int) -> None:
    jobs = [Job(client, torch.arange(1 + client * 7 % 20)) for client in range(23)]
    parts = split(jobs, count, Recipe(lr=0.1, batch_size=4))
    assert [job.client for part in parts for job in part] == list(range(23))
    assert len(parts) <= count and all(parts)


def test_parts_have_about_the_same_number_of_steps() -> None:
    jobs = [Job(client, torch.arange(size)) for client, size in enumerate([30, 10, 10, 10])]
    assert [len(part) for part in split(jobs, 2, Recipe(lr=0.1, batch_size=1, epochs=1))] == [1, 3]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_packed_tensors_are_restored_bit_for_bit(dtype: torch.dtype) -> None:
    given = {
        "a": torch.arange(12).reshape(3, 4).to(dtype),
        "scalar": torch.ones((), dtype=dtype),
        "empty": torch.ones(0, 2).to(dtype),
    }
    given["transposed"] = given["a"].T
    job = unpack(pack([Job(3, torch.arange(2), given, (("rank", 2.0),))]), "cpu")[0]
    assert tree.equal(job.client_state, given) and job.client == 3 and job.profile == (("rank", 2.0),)
    job.client_state["a"].zero_()
    assert given["a"].any()


def test_only_tensors_that_differ_are_copied() -> None:
    held = {"same": torch.ones(2), "zero": torch.zeros(2)}
    found = shared({"same": torch.ones(2), "zero": -torch.zeros(2)}, held)
    assert found["same"] is held["same"] and found["zero"] is not held["zero"] and found["zero"].signbit().all()


def test_errors_keep_their_message_and_attributes_in_another_process() -> None:
    error = copy.copy(TrainingError("it failed", client=3, round=7))
    assert (type(error), str(error), error.client, error.round) == (TrainingError, "client 3, round 7: it failed", 3, 7)
    assert copy.copy(ConfigError(["a", "b"])).problems == ("a", "b")


def test_a_missing_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    net, method = built(lambda: nn.Linear(6, 3)), fedavg()
    with pytest.raises(MissingExtraError, match=r"the engine 'ray' requires ray: install it with `pip install"):
        choose("ray", net, method, method.init(net, 0), vectors(), RECIPE)
