"""The increments of a run, kept in its folder so that the updates of all cycles can be exported as one adapter.

The increment of version 7 is ``v000007.safetensors``: the merged factors under their own keys, and in the header the
sites with their scales. Version 0 is what was merged before the run, such as an adapter.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import safetensors
import safetensors.torch

from fedloru.errors import RunFolderError
from fedloru.files import remove, write_atomic
from fedloru.lowrank import Increment, Site

SITES = "sites"
"""The header entry that has, for each weight, the keys of A and B, the shape, and the scale."""


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
        with safetensors.safe_open(path, "pt") as file:
            table = json.loads(file.metadata()[SITES])
            factors = {key: file.get_tensor(key) for key in sorted(file.keys())}
        sites = tuple(
            Site(weight, a, b, tuple(shape), len(factors[a]), scale) for weight, (a, b, shape, scale) in table.items()
        )
    except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise RunFolderError(f"{path} cannot be read: {error}. Restore it, or export the merged model") from error
    return Increment(sites, factors)
