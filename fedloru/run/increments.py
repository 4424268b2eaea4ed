"""The increments of a run, kept in its folder so that the updates of all cycles can be exported as one adapter.

The increment of version 7 is ``v000007.safetensors``: the merged factors under their own keys, and in the header the
sites with their scales. Version 0 is what was merged before the run, such as an adapter.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
from pydantic import Field, TypeAdapter

from fedloru.errors import RunFolderError, quoted
from fedloru.files import remove, write_atomic
from fedloru.lowrank import Increment, Site
from fedloru.reading import UnreadableError, parse_json, read_tensors
from fedloru.tree import Params

SITES = "sites"
"""The header entry that has, for each weight, the keys of A and B, the shape, and the scale."""
_ENTRY: TypeAdapter[tuple[str, str, list[int], float]] = TypeAdapter(
    tuple[str, str, Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2)], float]
)


def save(folder: Path, version: int, increment: Increment) -> None:
    """Write the increment that was merged as ``version``."""
    folder.mkdir(exist_ok=True)
    factors = {key: value.detach().cpu().clone().contiguous() for key, value in increment.factors.items()}
    sites = {site.weight: [site.a, site.b, list(site.shape), site.scale] for site in increment.sites}
    write_atomic(_path(folder, version), safetensors.torch.save(factors, {SITES: json.dumps(sites)}))


def versions(folder: Path) -> list[int]:
    """Return the versions of all stored increments, in ascending order."""
    named = (re.fullmatch(r"v(\d{6,})\.safetensors", path.name) for path in folder.glob("v*.safetensors"))
    return sorted(int(match[1]) for match in named if match)


def load(folder: Path, version: int) -> tuple[Increment, ...]:
    """Return all increments up to and including ``version``, in order.

    Raises:
        RunFolderError: an increment is missing or damaged.
    """
    kept = [each for each in versions(folder) if each <= version]
    if missing := sorted(set(range(1, version + 1)) - set(kept)):
        raise RunFolderError(
            f"{folder} lacks the increments of versions {', '.join(map(str, missing))}, of {version} in all: they are "
            "kept if output.increments = true. Restore them, or export the merged model"
        )
    return tuple(_read(_path(folder, each)) for each in kept)


def forget_after(folder: Path, version: int) -> None:
    """Remove the increments after ``version``, to which a run has been reset."""
    for later in versions(folder):
        if later > version:
            remove(_path(folder, later))


def _path(folder: Path, version: int) -> Path:
    return folder / f"v{version:06d}.safetensors"


def _read(path: Path) -> Increment:
    try:
        factors, metadata = read_tensors(path)
        table = parse_json(metadata.get(SITES, "").encode(), dict)
        sites = tuple(_site(weight, entry, factors) for weight, entry in table.items())
    except (OSError, UnreadableError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}. Restore it, or export the merged model") from error
    return Increment(sites, factors)


def _site(weight: str, entry: Any, factors: Params) -> Site:
    """Return the site of ``weight`` from its entry in the header, at the rank of its factors."""
    try:
        a, b, shape, scale = _ENTRY.validate_python(entry)
        site = Site(weight, a, b, tuple(shape), len(factors[a]), scale)
        fits = (factors[a].shape, factors[b].shape) == (site.a_shape(), site.b_shape())
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise UnreadableError(f"its entry for {quoted(weight)} is not valid") from error
    if not fits:
        raise UnreadableError(f"its factors for {quoted(weight)} do not have the shape of a weight {tuple(shape)}")
    return site
