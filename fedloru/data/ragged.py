"""Sequences of tensors of different lengths, kept as one tensor and offsets."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import torch
from torch import Tensor

from fedloru.errors import PartitionError, quoted


class Ragged(Sequence[Tensor]):
    """A sequence of K integer tensors; entry k is ``values[offsets[k] : offsets[k + 1]]``, a view.

    Attributes:
        values: (N,) int64, all entries in sequence.
        offsets: (K + 1,) int64, where entries start and end.
    """

    __slots__ = ("offsets", "values")

    def __init__(self, values: Tensor, offsets: Tensor) -> None:
        self.values, self.offsets = values, offsets

    @classmethod
    def sized(cls, values: Tensor, sizes: Tensor) -> Ragged:
        """Return ``values`` (N,) cut into entries of ``sizes`` (K,)."""
        return cls(values, torch.cat([torch.zeros(1, dtype=torch.int64), sizes.to(torch.int64).cumsum(0)]))

    @classmethod
    def of(cls, entries: Iterable[Tensor]) -> Ragged:
        """Return ``entries`` as one tensor, and a ``Ragged`` as it is.

        Raises:
            PartitionError: an entry is not a vector of integers.
        """
        if isinstance(entries, Ragged):
            return entries
        each = [_vector(entry, client) for client, entry in enumerate(entries)]
        sizes = torch.tensor([len(entry) for entry in each], dtype=torch.int64)
        return cls.sized(torch.cat([*each, torch.empty(0, dtype=torch.int64)]), sizes)

    @classmethod
    def grouped(cls, owners: Tensor, clients: int) -> Ragged:
        """Return the positions in ``owners`` (N,) of each of ``clients`` clients, in ascending order."""
        return cls.sized(owners.argsort(stable=True), torch.bincount(owners, minlength=clients))

    @property
    def sizes(self) -> Tensor:
        """The length of every entry, (K,) int64."""
        return self.offsets.diff()

    @property
    def owners(self) -> Tensor:
        """The number of the entry of every value, (N,) int64."""
        return torch.arange(len(self)).repeat_interleave(self.sizes)

    def ordered(self) -> Ragged:
        """Return the entries with their values, which are not negative, in ascending order."""
        span = int(self.values.max()) + 1 if len(self.values) else 1
        return Ragged((self.owners * span + self.values).sort().values % span, self.offsets)

    def where(self, mask: Tensor) -> Ragged:
        """Return the entries without the values at which ``mask`` (N,) is False."""
        sizes = torch.bincount(self.owners[mask], minlength=len(self))
        return Ragged.sized(self.values[mask], sizes)

    def select(self, mask: Tensor) -> Ragged:
        """Return the entries at which ``mask`` (K,) is True."""
        return Ragged.sized(self.values[mask[self.owners]], self.sizes[mask])

    def __len__(self) -> int:
        """Return the number of entries."""
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Tensor: ...
    @overload
    def __getitem__(self, index: slice) -> Ragged: ...
    def __getitem__(self, index: int | slice) -> Tensor | Ragged:
        """Return an entry, or the entries of a slice."""
        if isinstance(index, slice):
            return Ragged.of([self[entry] for entry in range(*index.indices(len(self)))])
        entry = operator.index(index)
        entry += len(self) * (entry < 0)
        if not 0 <= entry < len(self):
            raise IndexError(f"there is no entry {index} of {len(self)}")
        return self.values[int(self.offsets[entry]) : int(self.offsets[entry + 1])]

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the entries in order."""
        return iter(self.values.split(self.sizes.tolist()))

    def __add__(self, other: Iterable[Tensor]) -> Ragged:
        """Return the entries of both."""
        more = Ragged.of(other)
        return Ragged.sized(torch.cat([self.values, more.values]), torch.cat([self.sizes, more.sizes]))

    def __eq__(self, other: object) -> bool:
        """Return whether both have the same entries."""
        if not isinstance(other, Ragged):
            return NotImplemented
        return torch.equal(self.offsets, other.offsets) and torch.equal(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]  # the tensors can be changed

    def __repr__(self) -> str:
        """Return the number of entries and of values."""
        return f"Ragged({len(self)} entries, {len(self.values)} values)"


def _vector(entry: Tensor, client: int) -> Tensor:
    try:
        vector = torch.as_tensor(entry)
    except (TypeError, ValueError, RuntimeError) as error:
        raise PartitionError(
            f"the rows of client {client} are {quoted(entry)}; expected a tensor of integers"
        ) from error
    if vector.dim() != 1 or (vector.numel() and (vector.is_floating_point() or vector.is_complex())):
        raise PartitionError(
            f"the rows of client {client} are {vector.dtype} of shape {tuple(vector.shape)}; expected row numbers, (n,)"
        )
    if vector.dtype == torch.bool and vector.numel():
        raise PartitionError(f"the rows of client {client} are a mask; expected row numbers: use mask.nonzero()[:, 0]")
    return vector.detach().to("cpu", torch.int64)
