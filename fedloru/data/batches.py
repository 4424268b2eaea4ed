"""Deterministic local batches: which examples a client sees at each of its steps, and how they are augmented.

Texts differ in length, and a batch is as long as its longest. So ``fetch`` leaves out the padding that no example of a
batch needs, and ``schedule`` can put examples of like length into one batch: of every ``WINDOW`` batches of an epoch's
order the examples are sorted by length, and then the batches are shuffled.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fedloru.data.dataset import Examples
from fedloru.errors import DataError
from fedloru.rng import gen

WINDOW = 8
"""Batches whose examples are sorted by length together: more would pad less, and mix less."""

PADDED = ("input_ids", "labels")
"""Tensors (N, T) of tokens, whose padding beyond the longest example of a batch is left out."""


class Schedule(NamedTuple):
    """The local steps of one client in one round: S steps of up to b examples.

    ``rows`` (S, b) int64 are rows of the data set; a short batch is padded with its own first row, and ``counts``
    (S,) int64 says how many are valid. ``shifts`` (S, b, 2) int64 are crop offsets, down and right, from 0 to
    2·crop, and ``flips`` (S, b) bool say which images are mirrored; None where not asked for. ``longest`` (S,) int64
    are the tokens of the longest text of each step; None where examples have no length, or it is not known yet.
    """

    rows: Tensor
    counts: Tensor
    shifts: Tensor | None
    flips: Tensor | None
    longest: Tensor | None = None


def schedule(
    rows: Tensor,
    *,
    batch_size: int,
    epochs: int = 1,
    steps: int | None = None,
    lengths: Tensor | None = None,
    crop: int = 0,
    flip: bool = False,
    seed: int,
    round: int,
    client: int,
) -> Schedule:
    """Return the batches of a client that holds ``rows`` (n,): every row once an epoch, in a fresh order each.

    The last batch of an epoch is short where b = min(batch_size, n) does not divide n. ``steps``, where given,
    replaces ``epochs``: epochs follow each other until there are that many batches. With the ``lengths`` (n,) of the
    rows, batches are of like length, and the short one may come anywhere in the epoch.

    Raises:
        DataError: there are no rows, or a setting is below 1 (``crop``: below 0).
    """
    _check(len(rows), batch_size, epochs if steps is None else steps, crop)
    b = min(batch_size, len(rows))
    each = -(-len(rows) // b)
    if steps is None:
        steps = epochs * each
    g = gen(seed, "batches", round, client)
    # One randperm an epoch costs 3 µs and less than sorting random numbers for all epochs at once.
    order = torch.stack([torch.randperm(len(rows), generator=g) for _ in range(-(-steps // each))])
    if lengths is not None:
        order = _by_length(order, lengths.cpu(), WINDOW * b)
    batches, counts = _cut(order, b)
    if lengths is not None:
        shuffled = torch.cat([torch.randperm(each, generator=g) + start for start in range(0, len(counts), each)])
        batches, counts = batches[shuffled], counts[shuffled]
    shifts, flips = _draw((steps, b), crop, flip, gen(seed, "augment", round, client))
    return Schedule(rows.cpu()[batches[:steps]], counts[:steps], shifts, flips)


def fetch(
    data: Examples,
    rows: Tensor,
    shifts: Tensor | None = None,
    flips: Tensor | None = None,
    crop: int = 0,
    longest: int | None = None,
) -> Examples:
    """Return the examples at ``rows``, of any shape, as one batch of M = rows.numel() on the device of ``data``.

    With ``shifts`` (…, 2), "x" is padded by ``crop`` pixels of 0, which is the mean after normalisation, and the
    window at that offset is kept; with ``flips`` (…), that window is mirrored left to right where true. Tokens
    (N, T) with a "length" (N,) are cut to the ``longest`` of the batch; where it is not given, the device is asked.

    Raises:
        DataError: "x" is not images (N, C, H, W), but should be shifted or mirrored.
    """
    index = rows.flatten().to(next(iter(data.values())).device)
    if longest is None and "length" in data:
        longest = int(data["length"][index].max())
    batch = {key: (value[:, :longest] if key in PADDED else value)[index] for key, value in data.items()}
    if shifts is not None or flips is not None:
        if "x" not in batch:
            raise DataError(f"crop and flip need images, but an example is {' and '.join(batch)}; turn them off")
        batch["x"] = _augment(batch["x"], shifts, flips, crop)
    return batch


def _by_length(order: Tensor, lengths: Tensor, window: int) -> Tensor:
    """Sort each epoch of ``order`` (epochs, n) by length within windows of so many rows."""
    where = torch.arange(order.shape[1]) // window
    key = where * (lengths.max() + 1) + lengths[order]
    return order.gather(1, key.argsort(dim=1, stable=True))


def _cut(order: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """Cut each epoch of ``order`` (epochs, n) into batches of ``b``, and return them with their numbers of rows."""
    epochs, n = order.shape
    each = -(-n // b)
    last = (each - 1) * b
    padding = order[:, last : last + 1].expand(-1, each * b - n)
    counts = torch.full((epochs, each), b)
    counts[:, -1] = n - last
    return torch.cat([order, padding], 1).view(-1, b), counts.flatten()


def _augment(x: Tensor, shifts: Tensor | None, flips: Tensor | None, crop: int) -> Tensor:
    """Crop and mirror ``x`` (M, C, H, W) by one gather of pixels."""
    if x.ndim != 4:
        raise DataError(f"crop and flip need images (N, C, H, W), but x has shape {('N', *x.shape[1:])}; turn them off")
    (m, c, h, w), device = x.shape, x.device
    down, right = torch.arange(h, device=device).expand(m, h), torch.arange(w, device=device).expand(m, w)
    if flips is not None:
        right = torch.where(flips.reshape(m, 1).to(device), w - 1 - right, right)
    if shifts is not None:
        offset = shifts.reshape(m, 2).to(device)
        down, right = down + offset[:, :1], right + offset[:, 1:]
        x = F.pad(x, (crop, crop, crop, crop))
    pixels = down[:, :, None] * x.shape[-1] + right[:, None, :]
    return x.flatten(2).gather(2, pixels.view(m, 1, h * w).expand(m, c, h * w)).view(m, c, h, w)


def _draw(shape: tuple[int, int], crop: int, flip: bool, g: torch.Generator) -> tuple[Tensor | None, Tensor | None]:
    shifts = torch.randint(0, 2 * crop + 1, (*shape, 2), generator=g) if crop else None
    flips = torch.rand(shape, generator=g) < 0.5 if flip else None
    return shifts, flips


def _check(rows: int, batch_size: int, length: int, crop: int) -> None:
    if not rows:
        raise DataError("a client without examples cannot train: give every client one, or leave it out")
    if batch_size < 1 or length < 1 or crop < 0:
        raise DataError(
            f"batch_size {batch_size}, epochs or steps {length} and crop {crop} were given; "
            "batch_size and epochs or steps must be at least 1, crop at least 0"
        )
