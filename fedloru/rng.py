"""Random generators, named by their purpose, as in ``gen(seed, "batches", round, client)``.

A generator depends only on ``(seed, *path)``, so the draws of a run do not depend on the order of clients, the chunk
size, the process or the engine.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager

import torch

Device = str | torch.device


def derive(seed: int, *path: str | int) -> int:
    """Return the 63-bit seed for ``path``, derived from ``seed``."""
    name = repr((int(seed), *(part if isinstance(part, str) else int(part) for part in path))).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1


def gen(seed: int, *path: str | int, device: Device = "cpu") -> torch.Generator:
    """Return a new generator for ``path``, seeded from ``seed``; its initial state is always the same."""
    return torch.Generator(device).manual_seed(derive(seed, *path))


def forked(device: torch.device) -> AbstractContextManager[None]:
    """Restore torch's global generators, from which a model may draw, at the end of the context."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def reseed(device: torch.device, seed: int) -> list[torch.Tensor]:
    """Seed torch's global generators of the CPU and of ``device``, and return their states.

    ``torch.manual_seed`` does so for the accelerators that are absent as well, and formats a stack trace for each.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
    return states(device)


def states(device: torch.device) -> list[torch.Tensor]:
    """Return the states of torch's global generators of the CPU and of ``device``."""
    found = [torch.default_generator.get_state()]
    if device.type == "cuda":
        found.append(torch.cuda.get_rng_state(device))
    elif device.type == "mps":
        found.append(torch.mps.get_rng_state())
    return found
