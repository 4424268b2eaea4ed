"""Matrices as integer codes, which the codecs ``int8`` and ``int4`` send in place of their values.

A tensor of two or more dimensions is treated as a matrix (o, i), as a site treats its weight. Each row, or each column
if there are fewer, has a scale m, its largest absolute value in float32. With L = 127 for 8 bits and 7 for 4, the code
of a value x is c = round(x/m·L), and the value of a code is c·m/L, computed in float64 and rounded once to the dtype of
the tensor. In a message, the codes (n,) are under the key of the tensor: one per int8, or two per uint8, the first in
the lower half. The scales are under the same key with ``SCALES`` appended.

Rounding to nearest has an error of at most m/(2L). Stochastic rounding has one of at most m/L, and the mean of its
results is the value. Quotients within ``SNAP`` of an integer are always rounded to it: values on the grid stay
unchanged, in float32 and float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Literal, Protocol

import torch
from torch import Tensor

from fedloru import lowrank, tree
from fedloru.errors import WireError, quoted
from fedloru.lowrank import Site
from fedloru.lowrank.site import matrix
from fedloru.method import State
from fedloru.net import Net
from fedloru.tree import Params
from fedloru.wire.codec import find
from fedloru.wire.header import reject

SCALES = "@scales"
LEVELS = {8: 127, 4: 7}
"""The largest code L for each number of bits."""
SNAP = 1e-3
PADDING = 8
"""The half of a byte that fills up an odd number of codes; as a code it would be -8, which does not occur."""

Section = Literal["shared", "aux"]
Draw = Callable[[str], torch.Generator]
"""Returns the generator of the stochastic rounding of a tensor, by its key."""


class Like(Protocol):
    """Anything with the shape and the dtype of a tensor."""

    @property
    def shape(self) -> Sequence[int]:
        """The shape."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype."""


def widths(net: Net, section: Section, tensors: Mapping[str, Like], codec: str) -> dict[str, int]:
    """Return the bits of a code of each tensor of a message that is sent as codes; the others are not.

    Factors have the bits of the codec. All other matrices have 8, since dense weights do not survive 4 bits, and
    buffers, such as attention masks of -inf, are not sent as codes.
    """
    bits = find(codec).bits
    if not bits:
        return {}
    factors = net.factors if section == "shared" else frozenset[str]()
    return {key: bits if key in factors else 8 for key in _matrices(tensors) if key not in net.buffers}


def increment_widths(increment: Mapping[str, Like], codec: str) -> dict[str, int]:
    """Return the bits of a code of each tensor of an increment, which has no tensors but factors."""
    bits = find(codec).bits
    return dict.fromkeys(_matrices(increment), bits) if bits else {}


def pack(
    tensors: Mapping[str, Tensor],
    bits: Mapping[str, int],
    draw: Draw | None = None,
    received: Mapping[str, Tensor] | None = None,
) -> Params:
    """Return ``tensors`` with codes and scales in place of those in ``bits``, on the CPU.

    Args:
        tensors: the tensors of a message.
        bits: the bits of a code of each tensor that is sent as codes.
        draw: the generators of stochastic rounding; by default, values are rounded to nearest.
        received: what the receiver has already sent. The difference from a tensor of the same key and shape is sent.

    Raises:
        WireError: a value is not finite, or too large for float32.
    """
    packed: Params = {}
    for key, t in tensors.items():
        if key not in bits:
            packed[key] = t
            continue
        values = t.detach().cpu().to(torch.promote_types(t.dtype, torch.float32))
        if (known := _known(received, key, t)) is not None:
            values = values - known.to(values.dtype)
        generator = None if draw is None else draw(key)
        packed[key], packed[key + SCALES] = _codes(key, values.reshape(matrix(t.shape)), bits[key], generator)
    return packed


def unpack(
    tensors: Mapping[str, Tensor], like: Mapping[str, Like], received: Mapping[str, Tensor] | None = None
) -> Params:
    """Return ``tensors`` with values in place of codes and scales, in the shapes and dtypes of ``like``, on the CPU.

    ``received`` is that of ``pack``: the differences are added to it.

    Raises:
        WireError: codes or scales do not have the form that ``pack`` gives a tensor like the one in ``like``.
    """
    sent_as_codes = {key for key in _matrices(like) if key in tensors and key + SCALES in tensors}
    if not sent_as_codes:
        return dict(tensors)
    unpacked: Params = {}
    for key, t in tensors.items():
        if key in sent_as_codes:
            values = _values(key, t, tensors[key + SCALES], like[key])
            if (known := _known(received, key, like[key])) is not None:
                values += known
            unpacked[key] = values.to(like[key].dtype)
        elif key.removesuffix(SCALES) not in sent_as_codes:
            unpacked[key] = t
    return unpacked


def outline(tensors: Mapping[str, Tensor], bits: Mapping[str, int]) -> Params:
    """Return ``tensors`` with codes and scales without values, on the meta device, in place of those in ``bits``."""
    packed: Params = {}
    for key, t in tensors.items():
        if key in bits:
            codes, dtype = (prod(t.shape), torch.int8) if bits[key] == 8 else (-(-prod(t.shape) // 2), torch.uint8)
            packed[key] = torch.empty(codes, dtype=dtype, device="meta")
            packed[key + SCALES] = torch.empty(min(matrix(t.shape)), dtype=torch.float32, device="meta")
        else:
            packed[key] = t
    return packed


def count(tensors: Mapping[str, Tensor], key: str) -> int:
    """Return the number of values of a tensor of a message, which may have been sent as codes."""
    return _number(tensors[key]) if key + SCALES in tensors else tensors[key].numel()


def on_grid(sites: Sequence[Site], before: State, after: State, codec: str) -> State:
    """Return the state ``after`` a server step with an increment that its codes represent without loss.

    A base is the sum of its increments, which server and clients add bit for bit. So a codec with integer codes rounds
    an increment to nearest before the server merges it.
    """
    sent = lowrank.sent_part(sites, after.base, after.increment)
    bits = increment_widths(sent, codec)
    if after.version == before.version or not bits:
        return after
    rounded = {key: value.to(sent[key].device) for key, value in unpack(pack(sent, bits), sent).items()}
    base = lowrank.advance(sites, before.base, rounded)
    return after._replace(base=tree.select(base, after.base), increment=after.increment | rounded)


def _matrices(tensors: Mapping[str, Like]) -> list[str]:
    """Return the keys of the tensors that can be sent as codes."""
    return [key for key, t in tensors.items() if t.dtype.is_floating_point and len(t.shape) > 1 and 0 not in t.shape]


def _known(received: Mapping[str, Tensor] | None, key: str, like: Like) -> Tensor | None:
    """Return what the receiver of a difference has, if it has a tensor of this shape."""
    if received is None or key not in received or tuple(received[key].shape) != tuple(like.shape):
        return None
    return received[key].detach().cpu()


def _codes(key: str, x: Tensor, bits: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Return the codes and the scales of a matrix in float32 or wider."""
    largest = x.abs().amax(_axis(x.shape), keepdim=True)
    scales = largest.float()
    if not bool(scales.isfinite().all()):
        raise WireError(
            f"{key} has a value that is not finite, or too large for float32, which integer codes cannot represent: "
            "lower the learning rate if training diverges, or use the codec exact"
        )
    levels = LEVELS[bits]
    # Relative to the unrounded maximum, so that its code is ±L and the scale of decoded values is the same again.
    quotients = (x / largest.where(scales > 0, 1.0)).mul_(levels)
    codes = _rounded(quotients, generator).clamp_(-levels, levels).to(torch.int8).flatten()
    return codes if bits == 8 else _pairs(codes), scales.flatten()


def _rounded(quotients: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return x rounded to nearest, or ⌊x + u⌋ with u ~ U(0, 1), cut off so that x ± SNAP is rounded to an integer x."""
    if generator is None:
        return quotients.round_()
    return quotients.add_(torch.rand(quotients.shape, generator=generator).clamp_(SNAP, 1 - SNAP)).floor_()


def _values(key: str, codes: Tensor, scales: Tensor, like: Like) -> Tensor:
    """Return the values of codes, in float64 and in the shape of ``like``, after checking codes and scales."""
    o, i = matrix(like.shape)
    if codes.dim() != 1 or codes.dtype not in (torch.int8, torch.uint8) or _number(codes) != o * i:
        reject(f"the codes {quoted(key)} are {_form(codes)}; expected {o * i} codes, as int8 or two per uint8")
    bits = 8 if codes.dtype == torch.int8 else 4
    codes, levels = codes if bits == 8 else _singles(codes), LEVELS[bits]
    low, high = (int(code) for code in codes.aminmax())
    if not -levels <= low <= high <= levels:
        reject(f"{quoted(key)} has codes from {low} to {high}; expected {-levels} to {levels}")
    if scales.dtype != torch.float32 or tuple(scales.shape) != (min(o, i),):
        reject(f"the scales of {quoted(key)} are {_form(scales)}; expected float32 ({min(o, i)},)")
    if not bool((scales.isfinite() & (scales >= 0)).all()):
        reject(f"the scales of {quoted(key)} have values that are negative or not finite")
    m = scales.double().unsqueeze(_axis((o, i)))
    return codes.double().view(o, i).mul_(m).div_(levels).reshape(tuple(like.shape))


def _axis(shape: Sequence[int]) -> int:
    """Return the axis of a matrix along which values share a scale: the longer one."""
    return int(shape[0] <= shape[1])


def _pairs(codes: Tensor) -> Tensor:
    """Return codes of 4 bits, two in each byte."""
    halves = codes.view(torch.uint8) & 15
    if len(halves) % 2:
        halves = torch.cat([halves, halves.new_tensor([PADDING])])
    return halves[::2] | halves[1::2] << 4


def _singles(pairs: Tensor) -> Tensor:
    """Return the codes that ``_pairs`` has joined."""
    halves = torch.stack([pairs & 15, pairs >> 4], 1).flatten()[: _number(pairs)]
    return (halves ^ 8).to(torch.int8) - 8


def _number(codes: Tensor) -> int:
    """Return the number of codes in a tensor of codes."""
    if codes.dtype != torch.uint8 or not codes.numel():
        return codes.numel()
    return 2 * codes.numel() - int(codes.flatten()[-1] >> 4 == PADDING)


def _form(t: Tensor) -> str:
    return f"{str(t.dtype).removeprefix('torch.')} {tuple(t.shape)}"
