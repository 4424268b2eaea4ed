from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedloru.data import Schedule, fetch, schedule
from fedloru.data.batches import WINDOW
from fedloru.errors import DataError

counts = st.integers(1, 40)


def plan(rows: Tensor, **changes: object) -> Schedule:
    given = {"batch_size": 4, "epochs": 1, "seed": 0, "round": 1, "client": 2} | changes
    return schedule(rows, **given)  # type: ignore[arg-type]


def valid(made: Schedule) -> list[list[int]]:
    return [rows[:count].tolist() for rows, count in zip(made.rows, made.counts.tolist(), strict=True)]


@given(n=counts, batch_size=st.integers(1, 50), epochs=st.integers(1, 4), seed=st.integers(0, 2**40))
def test_every_epoch_visits_every_row_once(n: int, batch_size: int, epochs: int, seed: int) -> None:
    rows = torch.arange(100, 100 + n)
    made = plan(rows, batch_size=batch_size, epochs=epochs, seed=seed)
    each = -(-n // min(batch_size, n))
    assert made.rows.shape == (epochs * each, min(batch_size, n))
    assert made.rows.dtype == made.counts.dtype == torch.int64
    batches = valid(made)
    for epoch in range(epochs):
        visited = [row for batch in batches[epoch * each : (epoch + 1) * each] for row in batch]
        assert sorted(visited) == rows.tolist()


@given(n=counts, batch_size=st.integers(1, 50), steps=st.integers(1, 60))
def test_steps_truncate_repeated_epochs(n: int, batch_size: int, steps: int) -> None:
    rows = torch.arange(n)
    epochs = -(-steps // -(-n // min(batch_size, n)))
    made = plan(rows, batch_size=batch_size, steps=steps, epochs=99)
    assert len(made.counts) == steps
    assert valid(made) == valid(plan(rows, batch_size=batch_size, epochs=epochs))[:steps]


def test_short_batches_are_padded_with_their_own_first_row() -> None:
    made = plan(torch.arange(10), epochs=3)
    assert made.counts.tolist() == [4, 4, 2] * 3
    for batch in made.rows[2::3]:
        assert batch[2:].tolist() == [int(batch[0])] * 2


@given(n=counts, batch_size=st.integers(1, 10), epochs=st.integers(1, 3), seed=st.integers(0, 1000))
def test_batches_of_similar_length_visit_every_row_once(n: int, batch_size: int, epochs: int, seed: int) -> None:
    lengths = torch.randint(1, 9, (n,), generator=torch.Generator().manual_seed(seed))
    made = plan(torch.arange(50, 50 + n), batch_size=batch_size, epochs=epochs, lengths=lengths)
    b = min(batch_size, n)
    each = -(-n // b)
    for epoch in range(epochs):
        batches = valid(made)[epoch * each : (epoch + 1) * each]
        assert sorted(row for batch in batches for row in batch) == list(range(50, 50 + n))
        assert sorted(map(len, batches)) == sorted([b] * (each - 1) + [n - (each - 1) * b])
        assert [batch[0] for batch in batches] == made.rows[epoch * each : (epoch + 1) * each, 0].tolist()


def test_within_a_window_batches_are_runs_of_the_sorted_lengths_in_random_order() -> None:
    lengths = torch.randperm(WINDOW * 4, generator=torch.Generator().manual_seed(0))
    made = plan(torch.arange(len(lengths)), lengths=lengths)
    runs = lengths[made.rows].tolist()
    assert sorted(runs) == torch.arange(len(lengths)).view(-1, 4).tolist()
    assert runs != sorted(runs)
    again, later = plan(torch.arange(len(lengths)), lengths=lengths), plan(torch.arange(32), lengths=lengths, round=2)
    assert torch.equal(made.rows, again.rows) and not torch.equal(made.rows, later.rows)


def test_windows_differ_between_epochs() -> None:
    lengths = torch.arange(200) % 7
    first, second = plan(torch.arange(200), epochs=2, lengths=lengths).rows.chunk(2)
    assert {tuple(sorted(rows)) for rows in first.tolist()} != {tuple(sorted(rows)) for rows in second.tolist()}


def test_batches_of_similar_length_pad_less() -> None:
    g = torch.Generator().manual_seed(1)
    lengths = (torch.rand(300, generator=g) ** 3 * 500).long() + 1

    def padding(made: Schedule) -> int:
        return sum(
            len(rows) * int(lengths[rows].max()) - int(lengths[rows].sum()) for rows in map(torch.tensor, valid(made))
        )

    rows = torch.arange(300)
    assert padding(plan(rows, lengths=lengths)) < 0.2 * padding(plan(rows))


def test_draws_depend_on_seed_round_and_client() -> None:
    rows = torch.arange(30)
    made = plan(rows, crop=2, flip=True)
    same = plan(rows, crop=2, flip=True)
    assert made.shifts is not None and same.shifts is not None and made.flips is not None and same.flips is not None
    assert torch.equal(made.rows, same.rows) and torch.equal(made.counts, same.counts)
    assert torch.equal(made.shifts, same.shifts) and torch.equal(made.flips, same.flips)
    for change in ({"seed": 1}, {"round": 2}, {"client": 3}):
        assert not torch.equal(made.rows, plan(rows, **change).rows)
    assert torch.equal(made.rows, plan(rows).rows), "augmentation does not change the order"


def test_epochs_differ() -> None:
    first, second = plan(torch.arange(30), batch_size=30, epochs=2).rows
    assert not torch.equal(first, second)


def test_augmentation_is_drawn_in_range() -> None:
    made = plan(torch.arange(500), crop=3, flip=True)
    assert made.shifts is not None and made.flips is not None
    assert made.shifts.shape == (*made.rows.shape, 2) and made.flips.shape == made.rows.shape
    assert set(made.shifts.flatten().tolist()) == set(range(7))
    assert 0.4 < made.flips.float().mean() < 0.6
    assert plan(torch.arange(5)).shifts is None and plan(torch.arange(5)).flips is None


@pytest.mark.parametrize("change", [{"batch_size": 0}, {"epochs": 0}, {"steps": 0}, {"crop": -1}])
def test_settings_out_of_range_are_rejected(change: dict[str, int]) -> None:
    with pytest.raises(DataError, match="at least 1"):
        plan(torch.arange(5), **change)


def test_a_client_without_rows_is_rejected() -> None:
    with pytest.raises(DataError, match="without examples"):
        plan(torch.arange(0))


def reference(image: Tensor, shift: tuple[int, int] | None, flip: bool, crop: int) -> Tensor:
    """Crop and mirror one image, pixel by pixel."""
    h, w = image.shape[1:]
    out = torch.zeros_like(image)
    for i in range(h):
        for j in range(w):
            column = w - 1 - j if flip else j
            down, right = shift or (crop, crop)
            y, x = i + down - crop, column + right - crop
            if 0 <= y < h and 0 <= x < w:
                out[:, i, j] = image[:, y, x]
    return out


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 6)),
    m=st.integers(1, 5),
    crop=st.integers(0, 4),
    shifted=st.booleans(),
    mirrored=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_crop_and_flip_match_the_reference(
    shape: tuple[int, int, int], m: int, crop: int, shifted: bool, mirrored: bool, seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    data = {"x": torch.randn(7, *shape, generator=g), "y": torch.arange(7)}
    rows = torch.randint(0, 7, (m,), generator=g)
    shifts = torch.randint(0, 2 * crop + 1, (m, 2), generator=g) if shifted else None
    flips = torch.rand(m, generator=g) < 0.5 if mirrored else None
    got = fetch(data, rows, shifts, flips, crop)
    assert torch.equal(got["y"], rows)
    for k in range(m):
        shift = None if shifts is None else (int(shifts[k, 0]), int(shifts[k, 1]))
        want = reference(data["x"][rows[k]], shift, flips is not None and bool(flips[k]), crop)
        assert torch.equal(got["x"][k], want)


def test_fetch_flattens_rows_of_any_shape() -> None:
    data = {"x": torch.randn(20, 1, 4, 4), "y": torch.arange(20)}
    made = plan(torch.arange(11), crop=1, flip=True)
    folded = fetch(data, made.rows, made.shifts, made.flips, crop=1)
    assert folded["x"].shape == (made.rows.numel(), 1, 4, 4)
    assert made.shifts is not None and made.flips is not None
    for step in range(len(made.counts)):
        one = fetch(data, made.rows[step], made.shifts[step], made.flips[step], crop=1)
        assert torch.equal(one["x"], folded["x"].view(-1, *made.rows.shape[1:], 1, 4, 4)[step])


def test_tokens_are_cut_to_the_longest_of_the_batch() -> None:
    tokens, length = torch.arange(24).view(4, 6), torch.tensor([2, 5, 3, 1])
    data = {"input_ids": tokens, "labels": -tokens, "length": length, "x": torch.randn(4, 6), "y": length}
    batch = fetch(data, torch.tensor([2, 0]))
    assert torch.equal(batch["input_ids"], tokens[[2, 0], :3]) and torch.equal(batch["labels"], -tokens[[2, 0], :3])
    assert torch.equal(batch["x"], data["x"][[2, 0]]) and batch["length"].tolist() == [3, 2]
    assert fetch(data, torch.tensor([[3, 0], [1, 3]]))["input_ids"].shape == (4, 5)
    del data["length"]
    assert fetch(data, torch.tensor([2, 0]))["input_ids"].shape == (2, 6)


def test_known_lengths_are_not_read_from_the_device() -> None:
    """The tensors are on the device "meta", which cannot be read from."""
    data = {key: torch.zeros(4, 6, device="meta") for key in ("input_ids", "labels")}
    data["length"] = torch.zeros(4, dtype=torch.int64, device="meta")
    assert fetch(data, torch.tensor([2, 0]), longest=3)["labels"].shape == (2, 3)
    with pytest.raises(RuntimeError, match="meta"):
        fetch(data, torch.tensor([2, 0]))


def test_fetch_copies() -> None:
    data = {"x": torch.zeros(3, 2), "y": torch.arange(3)}
    fetch(data, torch.arange(3))["x"].add_(1)
    assert not data["x"].any()


def test_rows_and_draws_are_moved_to_the_device_of_the_data() -> None:
    data = {"x": torch.zeros(20, 1, 4, 4, device="meta"), "y": torch.zeros(20, device="meta")}
    made = plan(torch.arange(9), crop=1, flip=True)
    batch = fetch(data, made.rows, made.shifts, made.flips, crop=1)
    assert batch["x"].device.type == batch["y"].device.type == "meta" and batch["x"].shape == (12, 1, 4, 4)


def test_vectors_cannot_be_flipped() -> None:
    for data in ({"x": torch.zeros(3, 2)}, {"input_ids": torch.zeros(3, 2)}):
        with pytest.raises(DataError, match="need images"):
            fetch(data, torch.arange(3), flips=torch.ones(3, dtype=torch.bool))


@pytest.mark.parametrize(("examples", "batches"), [(33, 2), (32, 2), (17, 1), (5, 1), (1, 1)])
@pytest.mark.parametrize("by_length", [False, True])
def test_drop_last_leaves_out_the_short_batch(examples: int, batches: int, by_length: bool) -> None:
    rows = torch.arange(examples)
    lengths = rows + 1 if by_length else None
    plan = schedule(rows, batch_size=16, epochs=3, drop_last=True, lengths=lengths, seed=0, round=1, client=0)
    assert plan.counts.tolist() == [min(16, examples)] * (3 * batches)
    epochs = plan.rows.view(3, -1)
    assert all(len(epoch.unique()) == min(16, examples) * batches for epoch in epochs)
    assert examples % 16 == 0 or examples < 16 or len(epochs.unique()) > len(epochs[0])
