"""Short names of layers: without ``.weight`` and without the prefix that all of them share."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile

LENGTH = 40
"""The length to which a name is cut, from the left: its end says which layer it is."""


def prefix(names: Iterable[str]) -> str:
    """Return the longest prefix that all dotted names share and that ends with a dot, or "" if there is none."""
    parents = [name.split(".")[:-1] for name in map(_bare, names) if "." in _bare(name)]
    levels = zip(*parents, strict=False) if len(parents) > 1 else ()
    return "".join(f"{level[0]}." for level in takewhile(lambda level: len(set(level)) == 1, levels))


def short(names: Iterable[str]) -> dict[str, str]:
    """Return the short name of each name, or longer ones if two short ones would be equal."""
    names = list(dict.fromkeys(names))
    start = prefix(names)
    bare = {name: _bare(name) for name in names}
    shortest = {name: _cut(text.removeprefix(start)) for name, text in bare.items()}
    all = ({name: name for name in names}, bare, shortest)
    return [found for found in all if len(set(found.values())) == len(names)][-1]


def without(names: Iterable[str]) -> str:
    """Return a sentence on the prefix that short names lack, "" if there is none."""
    start = prefix(names)
    return f'Names of layers are shown without "{start}".' if start else ""


def _bare(name: str) -> str:
    return name.removesuffix(".weight")


def _cut(name: str) -> str:
    return name if len(name) <= LENGTH else f"…{name[1 - LENGTH :]}"
