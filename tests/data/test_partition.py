from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloru.data import (
    Dataset,
    Partition,
    audit,
    dirichlet,
    iid,
    make_partition,
    natural,
    shards,
)
from fedloru.errors import PartitionError
from tests.data.toys import MADE, same, toy


@pytest.fixture(scope="module")
def data() -> Dataset:
    return toy(700)


def held(partition: Partition) -> list[int]:
    return sorted(torch.cat([*partition.train, *partition.test]).tolist())


sizes = st.integers(20, 300)
seeds = st.integers(0, 2**32)


@settings(deadline=None, max_examples=25)
@given(rows=sizes, clients=st.integers(1, 20), seed=seeds, test_fraction=st.sampled_from([0.0, 0.3]))
def test_iid_gives_every_row_once(rows: int, clients: int, seed: int, test_fraction: float) -> None:
    made = iid(toy(rows), clients, seed, test_fraction=test_fraction)
    assert held(made) == list(range(rows))
    amounts = [len(own) for own in made.train]
    assert test_fraction or max(amounts) - min(amounts) <= 1


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(100, 300), clients=st.integers(1, 4), alpha=st.sampled_from([0.5, 1, 100.0]), seed=seeds)
def test_dirichlet_gives_every_row_once(rows: int, clients: int, alpha: float, seed: int) -> None:
    made = dirichlet(toy(rows), clients, alpha, seed)
    assert held(made) == list(range(rows))
    assert all((own.diff() > 0).all() and own.dtype == torch.int64 for own in made.train)


@settings(deadline=None, max_examples=25)
@given(rows=st.integers(200, 400), clients=st.integers(10, 20), classes=st.integers(1, 3), seed=seeds)
def test_shards_give_every_row_once_and_exact_classes(rows: int, clients: int, classes: int, seed: int) -> None:
    data = toy(rows)
    made = shards(data, clients, classes, seed)
    assert held(made) == list(range(rows))
    assert {len(data.train["y"][own].unique()) for own in made.train} == {classes}


def test_natural_clients_are_the_sorted_values(data: Dataset) -> None:
    made = natural(data, "group")
    assert len(made.train) == 7 and held(made) == list(range(700))
    for client, own in enumerate(made.train):
        assert {data.columns["group"][row] for row in own.tolist()} == {f"g{client}"}


@pytest.mark.parametrize("scheme", MADE)
def test_schemes_are_deterministic_and_pass_the_audit(scheme: str, data: Dataset) -> None:
    made = MADE[scheme](data)
    assert same(made, MADE[scheme](data))
    assert audit(data, made).unused == 0


def test_seeds_differ(data: Dataset) -> None:
    for make in (iid, lambda d, k, s: dirichlet(d, k, 1.0, s), lambda d, k, s: shards(d, k, 2, s)):
        assert not same(make(data, 10, 1), make(data, 10, 2)._replace(seed=1))


def test_flwr_datasets_agrees(data: Dataset) -> None:
    """The shortcuts around ``load_partition`` give the same result."""
    import datasets
    from flwr_datasets.partitioner import DirichletPartitioner, IidPartitioner

    from fedloru.rng import derive, gen

    order = torch.randperm(700, generator=gen(3, "partition"))
    table = {"row": order.tolist(), "label": data.train["y"][order].tolist()}
    partitioners = {
        "iid": IidPartitioner(9),
        "dirichlet": DirichletPartitioner(9, "label", 1.0, 0, False, False, derive(3, "partition", "dirichlet", 0)),
    }
    made = {"iid": iid(data, 9, 3), "dirichlet": dirichlet(data, 9, 1.0, 3)}
    for scheme, partitioner in partitioners.items():
        partitioner.dataset = datasets.Dataset.from_dict(table)
        for client in range(9):
            assert sorted(partitioner.load_partition(client)["row"]) == made[scheme].train[client].tolist()


def test_alpha_sets_the_skew(data: Dataset) -> None:
    skews = [audit(data, dirichlet(data, 10, alpha, 5)).skew for alpha in (0.2, 1.0, 1000.0)]
    assert skews[0] > skews[1] > skews[2] and skews[2] < 0.1


def test_client_test_sets_follow_seed_and_client(data: Dataset) -> None:
    made = iid(data, 10, test_fraction=0.25)
    assert held(made) == list(range(700)) and len(made.test) == 10
    assert {len(rows) for rows in made.test} == {round(0.25 * 70)}
    alone = iid(toy(5), 5, test_fraction=0.5)
    assert all(len(rows) == 1 for rows in alone.train) and not any(len(rows) for rows in alone.test)


def drawn(partition: Partition) -> list[tuple[int, ...]]:
    """Return where in its own rows, sorted, each client's test rows are."""
    return [
        tuple(torch.searchsorted(torch.cat(pair).sort().values, pair[1]).tolist())
        for pair in zip(partition.train, partition.test, strict=True)
    ]


def test_client_test_sets_are_random_draws(data: Dataset) -> None:
    """Each client draws 5 of its 20 rows, differently for every seed, and no position is never or always drawn."""
    first, second = (drawn(iid(data, 35, seed, test_fraction=0.25)) for seed in (0, 1))
    assert len(set(first)) == 35 and not set(first) & set(second)
    assert {place for places in first for place in places} == set(range(20))
    assert not set.intersection(*map(set, first))


def test_unreachable_min_examples_are_rejected_early(data: Dataset) -> None:
    with pytest.raises(PartitionError, match=r"draw 1 of .* leaves \d\d of 100 clients .* raise alpha, or lower"):
        dirichlet(data, 100, 0.01, min_examples=5)
    with pytest.raises(PartitionError, match="draw 10 of"):
        dirichlet(data, 10, 0.01, min_examples=60)
    with pytest.raises(PartitionError, match="above 0 and finite, got 0"):
        dirichlet(data, 10, 0)
    with pytest.raises(PartitionError, match="1 to 140 clients"):
        dirichlet(data, 141, 0.1, min_examples=5)


def test_self_balancing(data: Dataset) -> None:
    plain, balanced = (audit(data, dirichlet(data, 10, 0.3, 1, self_balancing=on)) for on in (False, True))
    assert balanced.sizes[2] < plain.sizes[2]
    with pytest.raises(PartitionError, match="turn self_balancing off"):
        for seed in range(20):
            dirichlet(data, 3, 1e-4, seed, self_balancing=True)


def test_shards_leave_classes_unused_only_if_allowed(data: Dataset) -> None:
    with pytest.raises(PartitionError, match="at least 10 clients, or set allow_unused"):
        shards(data, 3, 2)
    made = shards(data, 3, 2, allow_unused=True)
    assert audit(data, made, allow_unused=True).unused >= 280
    with pytest.raises(PartitionError, match="must be 1 to 10"):
        shards(data, 10, 11)
    with pytest.raises(PartitionError, match="smallest has 70"):
        shards(data, 700, 2)


def test_natural_drops_small_clients_only_if_allowed() -> None:
    data = toy(20)
    with pytest.raises(PartitionError, match=r"fewer than 3 examples: 'g6';"):
        natural(data, "group", min_examples=3)
    made = natural(data, "group", min_examples=3, allow_unused=True)
    assert len(made.train) == 6 and len(held(made)) == 18
    with pytest.raises(PartitionError, match="did you mean 'group'"):
        natural(data, "groups")


def test_schemes_that_need_classes_reject_texts(data: Dataset) -> None:
    text = data._replace(train={"tokens": torch.zeros(700, 3)}, classes=())
    for scheme in (lambda: dirichlet(text, 5, 1.0), lambda: shards(text, 5, 2)):
        with pytest.raises(PartitionError, match="one class per example"):
            scheme()
    assert audit(text, iid(text, 5)).counts.tolist() == [[140]] * 5


def test_make_dispatches_and_validates(data: Dataset) -> None:
    assert same(make_partition(data, "dirichlet", 10, 1, alpha=0.5), MADE["dirichlet"](data))
    assert same(make_partition(data, "natural", seed=1, key="group"), MADE["natural"](data))
    for arguments, message in (
        ({"scheme": "dirichelt", "clients": 3}, "did you mean 'dirichlet'"),
        ({"scheme": "dirichlet", "clients": 3}, "needs alpha: set partition.alpha"),
        ({"scheme": "iid"}, "needs clients"),
        ({"scheme": "dirichlet", "clients": 3, "alhpa": 1}, "did you mean 'alpha'"),
        ({"scheme": "natural", "clients": 3, "key": "group"}, "makes 7 from this data"),
        ({"scheme": "iid", "clients": 3, "min_examples": 0}, "at least 1"),
        ({"scheme": "iid", "clients": 3, "test_fraction": 1.0}, "below 1"),
    ):
        with pytest.raises(PartitionError, match=message):
            make_partition(data, **arguments)


def test_ten_thousand_clients() -> None:
    data = toy(50_000)
    made = iid(data, 10_000)
    assert audit(data, made).sizes == (5, 5.0, 5)


@pytest.mark.parametrize("rows", [0.5, "x", None, torch.tensor([0.0]), torch.tensor([[1]]), torch.tensor([True])])
def test_rows_that_are_no_row_numbers_are_rejected(rows: object) -> None:
    with pytest.raises(PartitionError, match="rows of client 1"):
        Partition("made", 0, (torch.tensor([0]), rows), (), {})  # type: ignore[arg-type]


def test_lists_and_other_integers_become_rows(data: Dataset) -> None:
    made = Partition("made", 0, ([0, 1], np.array([2, 3], np.int32), []), (), {})  # type: ignore[arg-type]
    assert [rows.tolist() for rows in made.train] == [[0, 1], [2, 3], []]
    assert made.train.values.dtype == torch.int64 and not made.test and len(made.train) == 3
