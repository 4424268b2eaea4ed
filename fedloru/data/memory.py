"""The memory for examples: sizes that a file states are checked before anything is allocated.

A data set needs the bytes of its values as they are stored, and four more per value for its float32 copy. It is refused
if that is more than the memory of the machine, or of its container.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from fedloru.errors import DataError

UNKNOWN = 2**36
"""The bytes assumed where the system does not say how much memory it has."""

CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


SPLIT = "split it, or remove rows and columns"
"""The advice for a file of rows."""


@cache
def memory() -> int:
    """Return the memory of the machine, or of its container if that has less, in bytes."""
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        machine = UNKNOWN
    return min([machine, *_container_limits()])


def check_size(values: int, itemsize: int, what: str) -> None:
    """Check that ``values`` numbers of ``itemsize`` bytes, and their float32 copy, fit into memory.

    Raises:
        DataError: they do not fit.
    """
    needed = values * (itemsize + 4)
    if needed > memory():
        raise DataError(
            f"{what} would need {needed / 2**30:,.1f} GiB of memory, but there are {memory() / 2**30:,.1f}; "
            "use fewer or smaller examples, or replace the file if it should be smaller"
        )


@contextmanager
def in_memory(what: str, advice: str = "use fewer or smaller examples") -> Iterator[None]:
    """Report a failed allocation inside the context as one of ``what``, with ``advice``.

    Raises:
        DataError: an allocation failed.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # Torch reports a failed allocation on the CPU as a plain RuntimeError.
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            raise DataError(f"{what} does not fit into memory: {advice}") from error
        raise


def _container_limits() -> Iterator[int]:
    for place in CONTAINER_LIMITS:
        try:
            yield int(Path(place).read_text())
        except (OSError, ValueError):
            continue  # no such file, or "max"
