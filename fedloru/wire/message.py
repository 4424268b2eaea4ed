"""Messages as bytes: a hash, a checked header and named sections of tensors. Pickle is not used.

Layout: 7 bytes ``fedloru``; 1 byte with the format number; 16 bytes with the BLAKE2b hash of everything after it; and
the rest in the safetensors format: 8 bytes, little-endian, with the length n of a JSON header; the n bytes of that
header; the payload, which is the data of all tensors in sequence. The key of a tensor is ``section/key``. The metadata
entry ``fedloru`` holds the ``Header`` and one letter per tensor in the order of the keys: the dtype before the codec
narrowed the tensor, or "-" if it did not; trailing dashes are omitted. The envelope is everything except the payload:
``len(message) - payload(sections, codec)``.

The hash detects damage, and it is checked before anything is parsed. It has no key, so it does not authenticate the
sender: whoever can change a message can also change its hash. Authentication is up to the transport, such as TLS.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from fedloru.errors import quoted
from fedloru.tree import Params
from fedloru.wire.codec import pack, wire_dtype
from fedloru.wire.header import Header, Kind, check, check_fields, reject
from fedloru.wire.layout import layout, unsupported

FORMAT = 2
"""The number of this layout; ``decode`` rejects all others."""

MAGIC = b"fedloru"
HASH = 16
START = len(MAGIC) + 1 + HASH
"""The position of the part in the safetensors format."""
MAX_HEADER = 32 * 2**20
"""The largest length of the JSON header, in bytes: about 100,000 tensors."""

_COMPACT = json.JSONEncoder(separators=(",", ":"))
_ORIGINAL_DTYPES: dict[str, torch.dtype | None] = {"-": None, "s": torch.float32, "d": torch.float64}
_LETTERS = {dtype: letter for letter, dtype in _ORIGINAL_DTYPES.items()}

__all__ = ["FORMAT", "Header", "Kind", "check", "decode", "encode"]


def encode(header: Header, sections: Mapping[str, Mapping[str, Tensor]], codec: str) -> bytes:
    """Return a message as bytes. Views, shared storage and tensors on other devices are copied as needed.

    Raises:
        WireError: a header field is invalid, or a tensor cannot be encoded with this codec.
    """
    tensors = flat(sections)
    packed = pack(tensors, codec)
    description = described(header, letters(tensors, {key: t.dtype for key, t in packed.items()}))
    try:
        content = safetensors.torch.save(_separate_storage(packed), {"fedloru": description})
    except (KeyError, ValueError) as error:
        raise unsupported(error) from error
    return framed(content)


def length(header: Header, sections: Mapping[str, Mapping[str, Tensor]], codec: str) -> int:
    """Return the length of a message in bytes, without encoding it.

    Raises:
        WireError: a header field is invalid, or the format does not have such tensors.
    """
    tensors = flat(sections)
    dtypes = {key: wire_dtype(codec, t.dtype) for key, t in tensors.items()}
    return START + layout(tensors, dtypes).length(described(header, letters(tensors, dtypes)))


def flat(sections: Mapping[str, Mapping[str, Tensor]]) -> Params:
    """Return the tensors of all sections by their keys in the message, section/key."""
    return {f"{name}/{key}": t for name, section in sections.items() for key, t in section.items()}


def letters(tensors: Mapping[str, Tensor], dtypes: Mapping[str, torch.dtype]) -> str:
    """Return the letters of the original dtypes of ``tensors``, if they are sent in ``dtypes``."""
    narrowed = (_LETTERS[tensors[key].dtype] if dtypes[key] != tensors[key].dtype else "-" for key in sorted(tensors))
    return "".join(narrowed).rstrip("-")


def described(header: Header, narrowed: str) -> str:
    """Return the metadata of a message.

    Raises:
        WireError: a header field is invalid.
    """
    fields = header._asdict() | {"numbers": {name: float(value) for name, value in header.numbers.items()}}
    check_fields(fields)
    return _COMPACT.encode({"header": fields, "narrowed": narrowed})


def framed(content: bytes) -> bytes:
    """Return the part in the safetensors format as a message."""
    return b"".join((MAGIC, bytes([FORMAT]), _hash(content), content))


def decode(data: bytes) -> tuple[Header, dict[str, Params]]:
    """Return the header and the sections of a message, with keys sorted by name and tensors in their original dtypes.

    Sections without tensors are omitted. Each tensor has its own aligned memory, because the last bits of products of
    factors depend on the alignment. The tensors are those that the sender chose: compare them with what you expect,
    as ``decode_down``, ``decode_up`` and ``decode_sync`` do.

    Raises:
        WireError: the bytes are not a complete message in this format.
    """
    content = _content(data)
    try:
        table = _table(content)
        tensors = safetensors.torch.load(content)
        description = json.loads(_metadata(table), object_pairs_hook=_without_duplicates)
    except Exception as error:  # the parsers do not document what they raise on arbitrary bytes
        reject(f"the message of {len(data)} bytes is truncated, damaged, or not from fedloru ({quoted(error, 200)})")
    header, narrowed = _parse(description)
    return header, _sections(tensors, narrowed)


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=HASH).digest()


def _content(data: bytes) -> bytes:
    """Return the part in the safetensors format, after comparing the format number and the hash."""
    found = _format(data)
    if found is not None and found != FORMAT:
        reject(f"the message has format {found}, but this version of fedloru reads format {FORMAT}")
    content = data[START:]
    if found is None or data[len(MAGIC) + 1 : START] != _hash(content):
        reject(
            f"the message of {len(data)} bytes is truncated, damaged, or not from fedloru: "
            + ("its first bytes are not those of a message" if found is None else "its hash differs")
        )
    return content


def _format(data: bytes) -> int | None:
    """Return the format number of a message; None if there is none. In format 1, it was in the safetensors header."""
    if data[: len(MAGIC)] == MAGIC:
        return data[len(MAGIC)] if len(data) > len(MAGIC) else None
    length = min(int.from_bytes(data[:8], "little"), MAX_HEADER)
    found = re.search(rb'\\"format\\":\s*(\d{1,9})\b', data[8 : 8 + length])
    return int(found[1]) if found else None


def _table(content: bytes) -> dict[str, Any]:
    """Return the JSON header of the safetensors format."""
    length = int.from_bytes(content[:8], "little")
    if length > min(MAX_HEADER, len(content) - 8):
        raise ValueError(f"its header has a length of {length} bytes")
    table: dict[str, Any] = json.loads(content[8 : 8 + length], object_pairs_hook=_without_duplicates)
    return table


def _metadata(table: dict[str, Any]) -> str:
    metadata = table["__metadata__"]
    if metadata.keys() != {"fedloru"}:
        raise ValueError("its metadata has other entries than 'fedloru'")
    return str(metadata["fedloru"])


def _without_duplicates(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    table: dict[str, Any] = {}
    for key, value in pairs:
        if key in table:
            raise ValueError(f"the key {quoted(key)} occurs twice")
        table[key] = value
    return table


def _parse(description: Any) -> tuple[Header, str]:
    """Return the header, and the letters of the original dtypes."""
    if not isinstance(description, dict) or description.keys() != {"header", "narrowed"}:
        reject(f"the message has the description {quoted(description)}; expected header and narrowed")
    fields, narrowed = description["header"], description["narrowed"]
    if not isinstance(fields, dict) or not isinstance(narrowed, str):
        reject(
            f"the message has the header {quoted(fields)} and the dtype letters {quoted(narrowed)}, but a dict and a "
            "str are expected"
        )
    check_fields(fields)
    return Header(**fields), narrowed


def _sections(tensors: Params, narrowed: str) -> dict[str, Params]:
    if len(narrowed) > len(tensors) or not set(narrowed) <= set(_ORIGINAL_DTYPES) or narrowed.endswith("-"):
        reject(f"the message has the dtype letters {quoted(narrowed)} for {len(tensors)} tensors")
    sections: dict[str, Params] = {}
    for key, letter in zip(sorted(tensors), narrowed.ljust(len(tensors), "-"), strict=True):
        section, slash, name = key.partition("/")
        if not slash:
            reject(f"the key of the tensor {quoted(key)} does not name a section; expected section/key")
        sections.setdefault(section, {})[name] = _widened(key, tensors[key], _ORIGINAL_DTYPES[letter])
    return sections


def _widened(key: str, t: Tensor, original: torch.dtype | None) -> Tensor:
    """Return a copy of ``t`` in the dtype that it had before the codec narrowed it."""
    if original is None:
        return t.clone()
    if not t.is_floating_point() or t.dtype.itemsize >= original.itemsize:
        reject(f"the tensor {quoted(key)} of {t.dtype} cannot have been narrowed from {original}")
    try:
        return t.to(original)
    except (RuntimeError, TypeError) as error:  # a packed type of less than a byte
        reject(f"the tensor {quoted(key)} of {t.dtype} cannot be converted to {original} ({quoted(error)})")


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
