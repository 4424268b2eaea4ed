"""What to do with a value of another library that was given where a part of fedloru is expected."""

from __future__ import annotations

from typing import Any

FUNCTIONS: tuple[tuple[str, str, str], ...] = (
    ("torch.nn.", "Module", "fedloru.attach(model, rank=8) or fedloru.make(model) makes a Net of it"),
    ("torch.utils.data.", "DataLoader", "fedloru.data.from_torch(loader.dataset) makes a Dataset of its data"),
    ("torch.utils.data.", "Dataset", "fedloru.data.from_torch(dataset) makes a Dataset of it"),
    (
        "datasets.",
        "Dataset",
        'fedloru.data.from_arrow(dataset.with_format("arrow")[:], label="…") makes a Dataset of it',
    ),
    ("pandas.", "DataFrame", 'fedloru.data.from_frame(df, label="…") makes a Dataset of it'),
    ("polars.", "DataFrame", 'fedloru.data.from_arrow(df.to_arrow(), label="…") makes a Dataset of it'),
    ("pyarrow.", "Table", 'fedloru.data.from_arrow(table, label="…") makes a Dataset of it'),
    ("torch", "Tensor", "fedloru.data.from_tensors(x, y) makes a Dataset of examples and labels"),
    ("numpy", "ndarray", "fedloru.data.from_tensors(x, y) makes a Dataset of examples and labels"),
    ("fedloru.data.", "Dataset", 'fedloru.data.iid(dataset, clients=10) or natural(dataset, "KEY") makes a Partition'),
    ("builtins", "str", 'fedloru.data.load("csv", path=…, label="…") reads a file'),
)
"""The module and the name of a type or of one of its bases, and what to do with its values."""


def instead(value: Any) -> str:
    """Return which function makes the expected part of ``value``, for the end of a message; "" if none is known."""
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return instead(value[0])
    for base in type(value).__mro__:
        for module, name, advice in FUNCTIONS:
            if base.__name__ == name and f"{base.__module__}.".startswith(module):
                return advice
    return ""


def hint(value: Any, before: str = "") -> str:
    """Return ``instead(value)`` after a colon and ``before``, for the end of a message; "" if there is neither."""
    advice = instead(value)
    return f": {before}{advice}" if before or advice else ""


def got(value: Any) -> str:
    """Return what ``value`` is, for messages: its type, and those of its two parts if it is a pair."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return f"a {type(value).__name__} of {type(value[0]).__name__} and {type(value[1]).__name__}"
    return f"a {type(value).__name__}"
