"""Messages as bytes: a validated header and named sections of tensors, in the safetensors format. Pickle is not used.

Layout: 8 bytes, little-endian, with the length n of a JSON header; the n bytes of that header; the payload, which is
the data of all tensors in sequence. The key of a tensor is ``section/key``. The metadata entry ``fedloru`` holds the
format number, the ``Header``, and one letter per tensor in the order of the keys: the dtype before the codec narrowed
the tensor, or "-" if it did not; trailing dashes are omitted. The envelope is everything except the payload:
``len(message) - payload(sections, codec)``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, NoReturn, get_args

import safetensors.torch
import torch
from torch import Tensor

from fedloru.errors import WireError
from fedloru.method import Fresh
from fedloru.tree import Params
from fedloru.wire.codec import pack

FORMAT = 1
"""The number of this layout; ``decode`` rejects all others."""

Kind = Literal["down", "up", "sync"]

_ORIGINAL_DTYPES: dict[str, torch.dtype | None] = {"-": None, "s": torch.float32, "d": torch.float64}
_LETTERS = {dtype: letter for letter, dtype in _ORIGINAL_DTYPES.items()}
_CHOICES: dict[str, tuple[str, ...]] = {"kind": get_args(Kind), "fresh": get_args(Fresh)}


class Header(NamedTuple):
    """The metadata of a message.

    ``run`` is the hash of W₀, which client and server share. ``round`` counts from 1. ``version`` is the number of
    increments in the base that the message belongs to. If ``fresh`` is not "", the factors are omitted, and the
    receiver draws them itself: ``lowrank.init_factors(sites, seed, version, like, init=fresh)``; if ``rank`` is not 0,
    it limits the rank of those sites. ``numbers`` are finite values, such as a client's weight and loss.
    """

    kind: Kind
    method: str
    run: str
    round: int
    version: int
    client: int = -1
    seed: int = 0
    fresh: Fresh = ""
    rank: int = 0
    numbers: dict[str, float] = {}


_TYPES: dict[str, type] = {
    **dict.fromkeys(("kind", "method", "run", "fresh"), str),
    **dict.fromkeys(("round", "version", "client", "seed", "rank"), int),
    "numbers": dict,
}


_HINTS = {
    "kind": "client and server are at different steps of the exchange; restart the round",
    "method": "use the same [method] settings on client and server",
    "run": "the client's base model differs from the server's; start both from the same model, seed and weights",
    "round": "the message belongs to another round; discard it, and wait for the message of this round",
    "version": "the base has a different number of increments; the client must catch up first",
}


def encode(header: Header, sections: Mapping[str, Mapping[str, Tensor]], codec: str) -> bytes:
    """Return a message as bytes. Views, shared storage and tensors on other devices are copied as needed.

    Raises:
        WireError: a header field is invalid, or a tensor cannot be encoded with this codec.
    """
    header = header._replace(numbers={name: float(value) for name, value in header.numbers.items()})
    _check_fields(header._asdict())
    tensors = {f"{name}/{key}": t for name, section in sections.items() for key, t in section.items()}
    packed = pack(tensors, codec)
    narrowed = {key for key, t in tensors.items() if packed[key].dtype != t.dtype}
    letters = (_LETTERS[tensors[key].dtype] if key in narrowed else "-" for key in sorted(tensors))
    description = {"format": FORMAT, "header": header._asdict(), "narrowed": "".join(letters).rstrip("-")}
    metadata = {"fedloru": json.dumps(description, separators=(",", ":"))}
    try:
        return safetensors.torch.save(_separate_storage(packed), metadata)
    except (KeyError, ValueError) as error:
        raise WireError(
            f"a tensor cannot be written in the safetensors format ({error}); send dense tensors of a real dtype"
        ) from error


def decode(data: bytes) -> tuple[Header, dict[str, Params]]:
    """Return the header and the sections of a message, with keys sorted by name and tensors in their original dtypes.

    Sections without tensors are omitted. Each tensor has its own aligned memory, because the last bits of products of
    factors depend on the alignment.

    Raises:
        WireError: the bytes are not a complete message in this format.
    """
    try:
        tensors = safetensors.torch.load(data)
        description = json.loads(_metadata(data))
    except Exception as error:  # the parsers do not document what they raise on arbitrary bytes
        _reject(f"the message of {len(data)} bytes is truncated, damaged, or not from fedloru ({error!r:.200})")
    header, narrowed = _parse(description)
    return header, _sections(tensors, narrowed)


def check(
    header: Header, *, kind: Kind, method: str, run: str, round: int | None = None, version: int | None = None
) -> None:
    """Compare a header with the values that the receiver expects; None is not compared.

    Raises:
        WireError: a field differs. The message names the field and both values, and says what to do.
    """
    expected = {"kind": kind, "method": method, "run": run, "round": round, "version": version}
    for name, wanted in expected.items():
        got = getattr(header, name)
        if wanted is not None and got != wanted:
            sender = f" from client {header.client}" if header.client >= 0 else ""
            raise WireError(
                f"the {header.kind} message{sender} for round {header.round} has {name} {got!r}, "
                f"but {wanted!r} is expected: {_HINTS[name]}"
            )


def _separate_storage(tensors: Params) -> Params:
    """Return contiguous tensors on the CPU, each with its own storage, because safetensors rejects shared memory."""
    seen: set[int] = set()
    separate: Params = {}
    for key, t in tensors.items():
        contiguous = t.cpu().contiguous()
        storage = contiguous.untyped_storage()
        unshared = storage.nbytes() == contiguous.nbytes and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        separate[key] = contiguous if unshared else contiguous.clone()
    return separate


def _metadata(data: bytes) -> str:
    length = int.from_bytes(data[:8], "little")
    return str(json.loads(data[8 : 8 + length])["__metadata__"]["fedloru"])


def _parse(description: Any) -> tuple[Header, str]:
    """Return the header, and the letters of the original dtypes."""
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        got = description.get("format") if isinstance(description, dict) else description
        _reject(f"the message has format {_show(got)}, but this version of fedloru reads format {FORMAT}")
    fields, narrowed = description.get("header"), description.get("narrowed")
    if not isinstance(fields, dict) or not isinstance(narrowed, str):
        _reject(
            f"the message has the header {_show(fields)} and the dtype letters {_show(narrowed)}, but a dict and a "
            "str are expected"
        )
    _check_fields(fields)
    return Header(**fields), narrowed


def _check_fields(fields: Mapping[str, Any]) -> None:
    if set(fields) != set(Header._fields):
        _reject(f"the header has the fields {sorted(fields)!s:.200}; expected {', '.join(Header._fields)}")
    for name, expected in _TYPES.items():
        value = fields[name]
        if type(value) is not expected or value not in _CHOICES.get(name, (value,)):
            choices = f"one of {_CHOICES[name]}" if name in _CHOICES else expected.__name__
            _reject(f"the header field {name} is {_show(value)}; expected {choices}")
    for name, value in fields["numbers"].items():
        if type(value) is not float or not math.isfinite(value):
            _reject(f"the header's number {_show(name)} is {_show(value)}; expected a finite float")


def _sections(tensors: Params, narrowed: str) -> dict[str, Params]:
    if len(narrowed) > len(tensors) or not set(narrowed) <= set(_ORIGINAL_DTYPES):
        _reject(f"the message has the dtype letters {_show(narrowed)} for {len(tensors)} tensors")
    sections: dict[str, Params] = {}
    for key, letter in zip(sorted(tensors), narrowed.ljust(len(tensors), "-"), strict=True):
        section, slash, name = key.partition("/")
        original, t = _ORIGINAL_DTYPES[letter], tensors[key]
        if not slash:
            _reject(f"the key of the tensor {_show(key)} does not name a section; expected section/key")
        if original is not None and not t.is_floating_point():
            _reject(f"the tensor {_show(key)} of {t.dtype} cannot have been narrowed from {original}")
        sections.setdefault(section, {})[name] = t.clone() if original is None else t.to(original)
    return sections


def _show(value: object) -> str:
    return f"{value!r:.80}" if value is None or isinstance(value, str | int | float) else type(value).__name__


def _reject(problem: str) -> NoReturn:
    raise WireError(f"{problem}. Send the message again, and use the same version of fedloru on client and server")
