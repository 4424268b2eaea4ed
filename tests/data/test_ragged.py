from __future__ import annotations

import pytest
import torch

from fedloru.data import Ragged

ENTRIES = [torch.tensor([3, 1]), torch.tensor([], dtype=torch.int64), torch.tensor([0, 7, 2])]


def test_a_ragged_behaves_like_a_tuple_of_tensors() -> None:
    made = Ragged.of(ENTRIES)
    assert len(made) == 3 and made.sizes.tolist() == [2, 0, 3] and made.owners.tolist() == [0, 0, 2, 2, 2]
    assert [entry.tolist() for entry in made] == [entry.tolist() for entry in ENTRIES]
    assert [made[k].tolist() for k in (0, 1, 2, -1, -3)] == [[3, 1], [], [0, 7, 2], [0, 7, 2], [3, 1]]
    assert made[1:] == Ragged.of(ENTRIES[1:]) and made[::-1] == Ragged.of(ENTRIES[::-1])
    assert made + tuple(ENTRIES) == Ragged.of(ENTRIES * 2) and made != Ragged.of(ENTRIES[:2])
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"no entry {index} of 3"):
            made[index]
    assert not Ragged.of(()) and not list(Ragged.of(()))


def test_entries_are_views() -> None:
    made = Ragged.of(ENTRIES)
    assert made[2].data_ptr() == made.values[2:].data_ptr()


def test_ordering_grouping_and_selecting() -> None:
    made = Ragged.of(ENTRIES)
    assert [entry.tolist() for entry in made.ordered()] == [[1, 3], [], [0, 2, 7]]
    assert [entry.tolist() for entry in Ragged.grouped(torch.tensor([2, 0, 2, 0]), 4)] == [[1, 3], [], [0, 2], []]
    assert [entry.tolist() for entry in made.where(made.values > 1)] == [[3], [], [7, 2]]
    assert [entry.tolist() for entry in made.select(made.sizes > 0)] == [[3, 1], [0, 7, 2]]
    assert Ragged.of(()).ordered() == Ragged.of(())
