"""Every random draw of a run, named by what it is for.

A generator is a function of ``(seed, *path)`` alone, so that the order of clients, the chunking, the process
and the engine change nothing: ``gen(seed, "batches", round, client)``.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager

import torch

Device = str | torch.device


def derive(seed: int, *path: str | int) -> int:
    """Return the 63-bit seed that belongs to ``path`` under ``seed``."""
    name = repr((int(seed), *(part if isinstance(part, str) else int(part) for part in path))).encode()
    return int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big") >> 1


def gen(seed: int, *path: str | int, device: Device = "cpu") -> torch.Generator:
    """Return a fresh generator for ``path`` under ``seed``, always in the same state."""
    return torch.Generator(device).manual_seed(derive(seed, *path))


def forked(device: torch.device) -> AbstractContextManager[None]:
    """Let torch's global generators, which a model may draw from, come back as they were."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])
