"""A message: a checked header and named sections of tensors, as one safetensors file in memory, and never pickle.

Layout: 8 bytes, little-endian, with the length n of a JSON header; the n bytes of that header; the payload, all
tensors one after the other. A tensor's key is ``section/key``. The metadata entry ``fedloru`` holds the format
number, the ``Header``, and one letter a tensor, in the order of their keys: the type that the codec narrowed.
The envelope is everything but the payload: ``len(message) - payload(sections, codec)``.
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
from fedloru.tree import Params
from fedloru.wire.codec import pack

FORMAT = 1
"""The number of this layout: a reader refuses every other."""

Kind = Literal["down", "up", "sync"]
Fresh = Literal["", "a", "both"]

_WIDE: dict[str, torch.dtype | None] = {"-": None, "s": torch.float32, "d": torch.float64}
_LETTER = {dtype: letter for letter, dtype in _WIDE.items()}
_CHOICES: dict[str, tuple[str, ...]] = {"kind": get_args(Kind), "fresh": get_args(Fresh)}


class Header(NamedTuple):
    """What a message says about itself.

    ``run`` is the hash of W₀ that both ends must share, ``round`` counts from 1, and ``version`` is the number
    of increments in the base that the message belongs to. ``fresh`` tells that the factors are left out, since
    the receiver draws them itself: ``lowrank.fresh(sites, seed, version, like, init=fresh)``, with sites of
    ``rank`` at most where that is not 0. ``numbers`` are finite, such as a client's weight and loss.
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


_REMEDY = {
    "kind": "the two ends are at different steps of the exchange; start the round again",
    "method": "give client and server the same [method] settings",
    "run": "the client's base model differs from the server's, so start both from the same model, seed and weights",
    "round": "the message is of another round; drop it, and wait for the right one",
    "version": "the base has another number of increments; let the client catch up first",
}


def encode(header: Header, sections: Mapping[str, Mapping[str, Tensor]], codec: str) -> bytes:
    """Return the bytes of a message; views, shared storage and tensors on any device are copied as needed.

    Raises:
        WireError: the header has a value of a wrong type, or a tensor cannot travel with this codec.
    """
    header = header._replace(numbers={name: float(value) for name, value in header.numbers.items()})
    _check_fields(header._asdict())
    given = {f"{name}/{key}": t for name, section in sections.items() for key, t in section.items()}
    packed = pack(given, codec)
    changed = (_LETTER[given[key].dtype] if packed[key].dtype != given[key].dtype else "-" for key in sorted(given))
    about = {"format": FORMAT, "header": header._asdict(), "narrowed": "".join(changed).rstrip("-")}
    metadata = {"fedloru": json.dumps(about, separators=(",", ":"))}
    try:
        return safetensors.torch.save(_own_storage(packed), metadata)
    except (KeyError, ValueError) as error:
        raise WireError(
            f"a tensor cannot be written as safetensors ({error}); send dense tensors of real type"
        ) from error


def decode(data: bytes) -> tuple[Header, dict[str, Params]]:
    """Return the header and the sections of a message, in the types from before the codec, keys sorted by name.

    A section without tensors is not there. Every tensor has its own aligned memory: products of factors depend
    on it in the last bit.

    Raises:
        WireError: these bytes are not a whole message in this format.
    """
    try:
        tensors = safetensors.torch.load(data)
        about = json.loads(_metadata(data))
    except Exception as error:  # the readers do not say what they raise on bytes that anybody may have sent
        _refuse(f"the message of {len(data)} bytes is truncated, damaged, or none of fedloru's ({error!r:.200})")
    header, narrowed = _read(about)
    return header, _sections(tensors, narrowed)


def check(
    header: Header, *, kind: Kind, method: str, run: str, round: int | None = None, version: int | None = None
) -> None:
    """Compare a header with what the receiver expects; None is not compared.

    Raises:
        WireError: something differs; says what, both values, and what to do.
    """
    expected = {"kind": kind, "method": method, "run": run, "round": round, "version": version}
    for name, wanted in expected.items():
        got = getattr(header, name)
        if wanted is not None and got != wanted:
            sender = f" from client {header.client}" if header.client >= 0 else ""
            raise WireError(
                f"the {header.kind} message{sender} for round {header.round} has {name} {got!r}, "
                f"but {wanted!r} is expected: {_REMEDY[name]}"
            )


def _own_storage(tensors: Params) -> Params:
    """Return dense tensors that each fill a storage of their own: safetensors refuses shared memory."""
    seen: set[int] = set()
    own: Params = {}
    for key, t in tensors.items():
        dense = t.cpu().contiguous()
        storage = dense.untyped_storage()
        alone = storage.nbytes() == dense.nbytes and storage.data_ptr() not in seen
        seen.add(storage.data_ptr())
        own[key] = dense if alone else dense.clone()
    return own


def _metadata(data: bytes) -> str:
    length = int.from_bytes(data[:8], "little")
    return str(json.loads(data[8 : 8 + length])["__metadata__"]["fedloru"])


def _read(about: Any) -> tuple[Header, str]:
    if not isinstance(about, dict) or about.get("format") != FORMAT:
        got = about.get("format") if isinstance(about, dict) else about
        _refuse(f"the message has format {_show(got)}, and this fedloru reads format {FORMAT}")
    fields, narrowed = about.get("header"), about.get("narrowed")
    if not isinstance(fields, dict) or not isinstance(narrowed, str):
        _refuse(f"the message has the header {_show(fields)} and the types {_show(narrowed)}, not a dict and a str")
    _check_fields(fields)
    return Header(**fields), narrowed


def _check_fields(fields: Mapping[str, Any]) -> None:
    if set(fields) != set(Header._fields):
        _refuse(f"the header has the fields {sorted(fields)!s:.200}, not {', '.join(Header._fields)}")
    for name, wanted in _TYPES.items():
        value = fields[name]
        if type(value) is not wanted or value not in _CHOICES.get(name, (value,)):
            _refuse(f"the header's {name} is {_show(value)}, not {_CHOICES.get(name, wanted.__name__)}")
    for name, value in fields["numbers"].items():
        if type(value) is not float or not math.isfinite(value):
            _refuse(f"the header's number {_show(name)} is {_show(value)}, not a finite float")


def _sections(tensors: Params, narrowed: str) -> dict[str, Params]:
    if len(narrowed) > len(tensors) or not set(narrowed) <= set(_WIDE):
        _refuse(f"the message has the types {_show(narrowed)} for {len(tensors)} tensors")
    sections: dict[str, Params] = {}
    for key, letter in zip(sorted(tensors), narrowed.ljust(len(tensors), "-"), strict=True):
        section, slash, name = key.partition("/")
        wide, t = _WIDE[letter], tensors[key]
        if not slash or (wide is not None and not t.is_floating_point()):
            _refuse(f"the message has a tensor {_show(key)} of {t.dtype}, which belongs to no section or codec")
        sections.setdefault(section, {})[name] = t.clone() if wide is None else t.to(wide)
    return sections


def _show(value: object) -> str:
    return f"{value!r:.80}" if value is None or isinstance(value, str | int | float) else type(value).__name__


def _refuse(problem: str) -> NoReturn:
    raise WireError(f"{problem}; send it again, with the same version of fedloru on both ends")
