"""Values as bytes: JSON in which tensors are numbered, then the tensors as safetensors.

The records that may occur are listed, so nothing else can be made from the bytes. A function is its name in this
package.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from types import FunctionType
from typing import IO, Any

import safetensors.torch
import torch
from torch import Tensor

from fedloru import errors
from fedloru.engine.parts.worker import Blueprint, Process, Result, Round
from fedloru.engine.task import Outcome
from fedloru.errors import FedloruError
from fedloru.method import Down, Reply, State, Total, Up
from fedloru.net import Source
from fedloru.reading import parse_json, parse_tensors
from fedloru.recipe import Recipe
from fedloru.session import Job
from fedloru.wire import Traffic

RECORDS: dict[str, type[Any]] = {
    kind.__name__: kind
    for kind in (Blueprint, Down, Job, Outcome, Process, Recipe, Reply, Result, Round, Source, State, Total, Up)
}
ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (*vars(errors).values(), torch.OutOfMemoryError)
    if isinstance(kind, type) and issubclass(kind, FedloruError | torch.OutOfMemoryError)
}
PACKAGE = "fedloru."


def write(file: IO[bytes], value: Any) -> None:
    """Write ``value``.

    Raises:
        OSError: the reader is gone.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_encoded(value, tensors, {})).encode()
    data = safetensors.torch.save(tensors)
    file.write(len(text).to_bytes(8, "little") + len(data).to_bytes(8, "little"))
    file.write(text)
    file.write(data)
    file.flush()


def read(file: IO[bytes]) -> Any:
    """Return the next value.

    Raises:
        EOFError: the writer is gone.
        UnreadableError: the bytes are not those of a value.
    """
    sizes = _read(file, 16)
    text = _read(file, int.from_bytes(sizes[:8], "little"))
    tensors, _ = parse_tensors(_read(file, int.from_bytes(sizes[8:], "little")))
    return _decoded(parse_json(text, object), tensors)


def _read(file: IO[bytes], size: int) -> bytes:
    data = file.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _encoded(value: Any, tensors: dict[str, Tensor], known: dict[int, str]) -> Any:
    """Return ``value`` as JSON, and add its tensors to ``tensors``, once for each object."""

    def each(values: Any) -> list[Any]:
        return [_encoded(item, tensors, known) for item in values]

    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        if id(value) not in known:
            known[id(value)] = str(len(tensors))
            tensors[known[id(value)]] = value.detach().clone(memory_format=torch.contiguous_format)
        return {"tensor": known[id(value)]}
    if isinstance(value, dict):
        return {"dict": each(item for pair in value.items() for item in pair)}
    if isinstance(value, list):
        return {"list": each(value)}
    if isinstance(value, tuple):
        return {"record": type(value).__name__, "of": each(value)} if hasattr(value, "_fields") else {"of": each(value)}
    if isinstance(value, Traffic):
        return {"traffic": value.table()}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, FunctionType):
        return {"function": f"{value.__module__}:{value.__qualname__}"}
    if isinstance(value, Exception):
        return {"error": type(value).__name__, "text": str(value), "of": each([vars(value)])}
    raise TypeError(f"a {type(value).__name__} cannot be sent to another process")


def _decoded(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    for name, make in _OTHERS.items():
        if name in value:
            return make(value[name])
    items = [_decoded(item, tensors) for item in next(value[kind] for kind in ("dict", "list", "of") if kind in value)]
    if "dict" in value:
        return dict(zip(items[::2], items[1::2], strict=True))
    if "list" in value:
        return items
    if "error" in value:
        return _error(value["error"], value["text"], items[0])
    return RECORDS[value["record"]](*items) if "record" in value else tuple(items)


def _error(kind: str, text: str, attributes: dict[str, Any]) -> Exception:
    known = ERRORS.get(kind, FedloruError)
    made = known.__new__(known)
    Exception.__init__(made, text)
    vars(made).update(attributes)
    return made


def _function(name: str) -> Callable[..., Any]:
    module, _, own = name.partition(":")
    if not module.startswith(PACKAGE):
        raise ValueError(f"{name} is not a function of this package")
    found: Callable[..., Any] = getattr(import_module(module), own)
    return found


_OTHERS: dict[str, Callable[[Any], Any]] = {
    "traffic": lambda table: Traffic(**table),
    "dtype": lambda name: getattr(torch, name),
    "function": _function,
}
