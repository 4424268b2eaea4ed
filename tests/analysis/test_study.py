"""The subjects of a study, and the contents of its records."""

from __future__ import annotations

import math

import pytest
import torch

from fedloru.analysis.curvature import curvature
from fedloru.analysis.objective import loss, on, restrict
from fedloru.analysis.spectrum import Effort, spectrum
from fedloru.analysis.study import Part, Record, layer_keys, parts, seconds, study, subjects
from fedloru.errors import ConfigError, ModelError
from tests.analysis.nets import CLASSES, small

HELD = [torch.tensor([0, 5, 7, 11]), torch.tensor([2]), torch.tensor([1, 3, 4, 6, 8, 9, 10, 12])]
EFFORT = Effort(top=2, steps=3, tolerance=1.0)


def records(*sizes: int | None, clients: int = 0, name: str = "mlp, tanh", layers: bool = False) -> list[Record]:
    o = small(name, batch_size=13)
    todo = parts(o, subjects(HELD, sizes, clients, seed=0), ("hessian",), layers)
    effort = EFFORT._replace(top=50) if layers else EFFORT
    return list(study(o, o.data, todo, effort, CLASSES, lambda part: None))


def test_subsets_are_nested_and_the_server_has_all() -> None:
    half, server, few = (subject.rows.tolist() for subject in subjects(HELD, [6, None, 2], 0, seed=0))
    assert sorted(server) == list(range(13)) != server
    assert (half, few) == (server[:6], server[:2])
    assert [s.rows.tolist() for s in subjects(HELD, [6], 0, seed=1)] != [half]


def test_clients_are_drawn_without_replacement_with_their_own_rows() -> None:
    for seed in range(5):
        drawn = subjects(HELD, [], 2, seed)
        assert len({subject.client for subject in drawn}) == 2
        assert all(torch.equal(subject.rows, HELD[subject.client or 0]) for subject in drawn)
    assert len({subjects(HELD, [], 1, seed)[0].client for seed in range(20)}) == 3


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        subjects(HELD, [14, 0, 13, None], 4, seed=0)
    assert len(error.value.problems) == 3
    assert "got a subset of 14 examples, expected 1 to 13" in str(error.value)
    assert "4 clients requested, but the configuration has 3" in str(error.value)


def test_a_record_contains_the_spectrum_of_its_loss() -> None:
    o = small("mlp, tanh")
    (record,) = (each for each in records(clients=3) if each["client"] == 2)
    assert (record["curvature"], record["layer"], record["parameters"]) == ("hessian", None, 193)
    part = on(o, {key: value[HELD[2]] for key, value in o.data.items()})
    found = spectrum(curvature(part, "hessian"), EFFORT)
    assert record["examples"] == 8 and record["loss"] == pytest.approx(loss(part))
    assert record["eigenvalues"] == pytest.approx(found.eigenvalues)
    assert found.stable_rank is not None
    assert record["stable_rank"] == pytest.approx(found.stable_rank._asdict())
    assert math.fsum(record["density"]["weights"]) == pytest.approx(1)


def test_a_loss_over_fewer_examples_than_classes_is_marked() -> None:
    marked = {(record["subject"], record["examples"]) for record in records(3, None, clients=3) if record["few"]}
    assert marked == {("subset", 3), ("client 1", 1)}


def test_layers_are_studied_one_by_one() -> None:
    o = small("conv")
    assert layer_keys(o) == {"0": ["0.weight", "0.bias"], "4": ["4.weight", "4.bias"]}
    found = records(None, name="conv", layers=True)
    assert [(record["layer"], record["parameters"]) for record in found] == [(None, 108), ("0", 40), ("4", 68)]
    assert len(found[1]["eigenvalues"]) == 40, "a small layer has fewer eigenvalues than requested"
    block = spectrum(curvature(restrict(o, ["0.*"]), "hessian"), Effort(top=40))
    assert found[1]["eigenvalues"] == pytest.approx(block.eigenvalues, abs=1e-12)


def test_records_are_reproducible_except_for_the_time() -> None:
    once, again = ([record | {"seconds": 0} for record in records(None, 4)] for _ in range(2))
    assert once == again


def test_every_product_is_reported_and_the_estimated_time_grows_with_the_work() -> None:
    o = small("mlp, tanh")
    todo = parts(o, subjects(HELD, [None], 1, seed=0), ("ggn",), layers=False)
    reported: list[Part] = []
    (server, client) = study(o, o.data, todo, EFFORT, CLASSES, reported.append)
    expected = ["server"] * server["products"] + [client["subject"]] * client["products"]
    assert [part.subject.name for part in reported] == expected
    assert todo[0].work(EFFORT) == 13 * EFFORT.products(193)
    assert 0 < seconds(o, o.data, todo[1:], EFFORT) < seconds(o, o.data, todo * 10, EFFORT)


def test_an_error_names_the_spectrum() -> None:
    o = small("mlp, tanh")
    todo = parts(o, subjects(HELD, [None], 0, seed=0), ("hessian",), layers=False)
    with pytest.raises(ModelError) as error:
        list(study(o, o.data, todo, EFFORT._replace(top=200), CLASSES, lambda part: None))
    assert error.value.__notes__ == ["This was the hessian of the whole model for server."]
