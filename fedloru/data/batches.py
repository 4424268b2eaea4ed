"""Deterministic local batches: which examples a client uses in each local step, and how they are augmented.

Texts differ in length, and a batch is padded to its longest text. ``fetch`` therefore cuts padding that no example of
the batch needs, and ``schedule`` can form batches of similar length: it sorts the examples of every ``WINDOW``
consecutive batches of an epoch by length, then shuffles the batches of the epoch.
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
"""Number of batches that are sorted by length together. A larger window means less padding and less mixing."""

PADDED = ("input_ids", "labels")
"""Keys of the token tensors (N, T) that are cut to the longest example of a batch."""


class Schedule(NamedTuple):
    """The local steps of one client in one round: S steps of up to b examples.

    Attributes:
        rows: (S, b) int64 rows of the data set; a short batch is padded with its own first row.
        counts: (S,) int64 number of valid rows in each batch.
        shifts: (S, b, 2) int64 crop offsets, down and right, from 0 to 2·crop; None without cropping.
        flips: (S, b) bool mask of the images to mirror; None without mirroring.
        longest: (S,) int64 number of tokens of the longest text in each batch; None if examples have no length, or
            if it is not known yet.
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
    drop_last: bool = False,
    lengths: Tensor | None = None,
    crop: int = 0,
    flip: bool = False,
    seed: int,
    round: int,
    client: int,
) -> Schedule:
    """Return the batches of a client that holds ``rows`` (n,): every row once per epoch, reshuffled for each epoch.

    The last batch of an epoch is short if b = min(batch_size, n) does not divide n; with ``drop_last``, it is dropped.

    Args:
        rows: (n,) rows of the data set that the client holds.
        batch_size: maximum number of examples in a batch.
        epochs: number of passes over ``rows``.
        steps: number of batches; overrides ``epochs``. Epochs are repeated until there are that many batches.
        drop_last: whether to drop the short batch of each epoch; which rows are in it changes with every epoch.
        lengths: (n,) number of tokens of each row. If given, batches contain examples of similar length, and the
            short batch may come anywhere in the epoch.
        crop: draw crop offsets for images padded by this many pixels on each side.
        flip: draw which images to mirror.
        seed: seed of the run.
        round: number of the round.
        client: client that holds the rows.

    Raises:
        DataError: there are no rows, or a setting is below 1 (``crop``: below 0).
    """
    _check(len(rows), batch_size, epochs if steps is None else steps, crop)
    b = min(batch_size, len(rows))
    per_epoch = batches_per_epoch(len(rows), batch_size, drop_last)
    if steps is None:
        steps = epochs * per_epoch
    g = gen(seed, "batches", round, client)
    order = torch.empty(-(-steps // per_epoch), len(rows), dtype=torch.int64)
    for epoch in order.unbind():  # faster than sorting random numbers for all epochs at once
        torch.randperm(len(rows), generator=g, out=epoch)
    if drop_last:
        order = order[:, : per_epoch * b]
    if lengths is not None:
        order = _by_length(order, lengths.cpu(), WINDOW * b)
    batches, counts = _cut(order, b)
    if lengths is not None:
        starts = range(0, len(counts), per_epoch)
        shuffled = torch.cat([torch.randperm(per_epoch, generator=g) + start for start in starts])
        batches, counts = batches[shuffled], counts[shuffled]
    shifts, flips = None, None
    if crop or flip:
        shifts, flips = _draw_augmentation((steps, b), crop, flip, gen(seed, "augment", round, client))
    return Schedule(rows.cpu().take(batches[:steps]), counts[:steps], shifts, flips)


def batches_per_epoch(examples: int, batch_size: int, drop_last: bool) -> int:
    """Return the number of batches in an epoch of a client; one that has fewer examples than a batch has one."""
    return examples // min(batch_size, examples) if drop_last else -(-examples // batch_size)


def fetch(
    data: Examples,
    rows: Tensor,
    shifts: Tensor | None = None,
    flips: Tensor | None = None,
    crop: int = 0,
    longest: int | None = None,
) -> Examples:
    """Return the examples at ``rows`` as one batch of M = rows.numel() examples, on the device of ``data``.

    Args:
        data: the examples.
        rows: rows of ``data``, of any shape (…).
        shifts: (…, 2) crop offsets. "x" is padded by ``crop`` pixels of 0, which is the mean after normalization,
            and the window at the offset is kept.
        flips: (…) bool mask of the images to mirror left to right, after cropping.
        crop: padding on each side, in pixels.
        longest: length to cut tokens (N, T) to; default: the "length" (N,) of the longest example of the batch, if
            ``data`` has lengths, which is then read from the device.

    Raises:
        DataError: "x" does not hold images (N, C, H, W), but ``shifts`` or ``flips`` are given.
    """
    index = rows.flatten().to(next(iter(data.values())).device)
    if longest is None and "length" in data:
        longest = int(data["length"][index].max())
    # Indexing with a tensor takes five times as long.
    batch = {
        key: (value[:, :longest] if key in PADDED else value).index_select(0, index) for key, value in data.items()
    }
    if shifts is not None or flips is not None:
        if "x" not in batch:
            raise DataError(f"crop and flip need images, but the examples have {' and '.join(batch)}; turn them off")
        batch["x"] = _augment(batch["x"], shifts, flips, crop)
    return batch


def _by_length(order: Tensor, lengths: Tensor, window: int) -> Tensor:
    """Sort each epoch of ``order`` (epochs, n) by length within windows of ``window`` rows."""
    windows = torch.arange(order.shape[1]) // window
    keys = windows * (lengths.max() + 1) + lengths[order]
    return order.gather(1, keys.argsort(dim=1, stable=True))


def _cut(order: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """Cut each epoch of ``order`` (epochs, n) into batches of ``b``; return them and their numbers of valid rows."""
    epochs, n = order.shape
    per_epoch = -(-n // b)
    if n == per_epoch * b:
        return order.reshape(-1, b), torch.full((epochs * per_epoch,), b)
    last = (per_epoch - 1) * b
    padding = order[:, last : last + 1].expand(-1, per_epoch * b - n)
    counts = torch.full((epochs, per_epoch), b)
    counts[:, -1] = n - last
    return torch.cat([order, padding], 1).view(-1, b), counts.flatten()


def _augment(x: Tensor, shifts: Tensor | None, flips: Tensor | None, crop: int) -> Tensor:
    """Crop and mirror ``x`` (M, C, H, W) with a single gather of pixels."""
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


def _draw_augmentation(
    shape: tuple[int, int], crop: int, flip: bool, g: torch.Generator
) -> tuple[Tensor | None, Tensor | None]:
    shifts = torch.randint(0, 2 * crop + 1, (*shape, 2), generator=g) if crop else None
    flips = torch.rand(shape, generator=g) < 0.5 if flip else None
    return shifts, flips


def _check(rows: int, batch_size: int, length: int, crop: int) -> None:
    if not rows:
        raise DataError(
            "a client without examples cannot train; give every client at least one example, or remove the client"
        )
    if batch_size < 1 or length < 1 or crop < 0:
        raise DataError(
            "batch_size and epochs (or steps) must be at least 1, and crop at least 0; "
            f"got batch_size {batch_size}, epochs or steps {length} and crop {crop}"
        )
