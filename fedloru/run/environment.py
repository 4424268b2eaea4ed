"""The environment of a run: what its results depend on, bit for bit, apart from configuration, data and model.

Sums are ordered by the number of threads, the processor and the device, and kernels change between versions, so only
the same environment gives the same bits. It is recorded when a run starts and compared when it is resumed.
"""

from __future__ import annotations

import json
import logging
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from fedloru.engine import Chosen
from fedloru.errors import RunFolderError
from fedloru.files import write_atomic
from fedloru.reading import UnreadableError, read_json
from fedloru.run.plan import Plan

FILE = "environment.json"
"""A list of environments, each with the round after which it began; in the folder of the checkpoints."""
THREADS, AFTER = "threads", "after"
LIBRARIES = ("fedloru", "torch", "numpy")

Environment = dict[str, str | int]
log = logging.getLogger(__name__)


def environment(plan: Plan, engine: Chosen) -> Environment:
    """Return what the bits of a run of ``plan`` depend on in this process."""
    here = torch.device(plan.device)
    libraries = (*LIBRARIES, "transformers") if plan.net.local_base else LIBRARIES
    cuda = here.type == "cuda"
    return {
        THREADS: torch.get_num_threads(),
        "device": torch.cuda.get_device_name(here) if cuda else here.type,
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
        "system": platform.system(),
        "engine": engine.name,
        "clients at a time": engine.clients,
        **({"workers": engine.workers} if engine.workers else {}),
        "python": ".".join(map(str, sys.version_info[:2])),
        **{name: version(name) for name in libraries},
        "default dtype": str(torch.get_default_dtype()),
        "matrix precision": torch.get_float32_matmul_precision(),
        "deterministic algorithms": str(torch.are_deterministic_algorithms_enabled()).lower(),
        "oneDNN": str(torch.backends.mkldnn.enabled).lower(),
        **({"CUDA": str(torch.version.cuda), "cuDNN": str(torch.backends.cudnn.version())} if cuda else {}),
        **({"cuDNN benchmark": str(torch.backends.cudnn.benchmark).lower()} if cuda else {}),
    }


def save(checkpoints: Path, now: Environment, after: int = 0) -> None:
    """Record that the rounds after round ``after`` are trained in ``now``."""
    earlier = _until(checkpoints, after) if after else []
    if not earlier or _changes(earlier[-1], {**now, AFTER: earlier[-1][AFTER]}):
        earlier = [*earlier, {AFTER: after, **now}]
    write_atomic(checkpoints / FILE, json.dumps(earlier, indent=1).encode())


def recorded(checkpoints: Path, round: int) -> Environment:
    """Return the environment in which ``round`` was trained; {} if there is no record.

    Raises:
        RunFolderError: the record is damaged.
    """
    entries = _until(checkpoints, max(round, 1))
    return {key: value for key, value in entries[-1].items() if key != AFTER} if entries else {}


def restore_threads(checkpoints: Path, round: int) -> None:
    """Use as many CPU threads as ``round`` was trained with, and log it if this process had another number.

    Raises:
        RunFolderError: the record is damaged.
    """
    before, now = recorded(checkpoints, round).get(THREADS), torch.get_num_threads()
    if isinstance(before, int) and before > 0 and before != now:
        torch.set_num_threads(before)
        log.warning(
            "the number of CPU threads was %d, and is %d in this process: the run is resumed with %d, so that its bits "
            "stay the same (--accept-changes keeps the new number)",
            before,
            now,
            before,
        )


def check_environment(checkpoints: Path, round: int, now: Environment, *, accept: bool) -> None:
    """Check that a run resumed after ``round`` has the environment in which it was trained.

    If it has another one and ``accept`` is set, the new one is recorded.

    Raises:
        RunFolderError: it differs, and ``accept`` is not set; or the record is damaged.
    """
    before = recorded(checkpoints, round)
    if not before:
        log.warning(
            "%s has no record of the threads, device and versions that the run was trained with, so it equals an "
            "uninterrupted run bit for bit only if they are the same now",
            checkpoints.parent,
        )
    elif changed := _changes(before, now):
        if not accept:
            raise RunFolderError(
                f"the run in {checkpoints.parent} was trained in another environment: {'; '.join(changed)}. Its bits "
                "depend on it: restore it, or accept a run that differs by rounding with --accept-changes "
                "(accept_changes=True from Python)"
            )
        log.warning("the environment has changed after round %d, which is accepted: %s", round, "; ".join(changed))
    save(checkpoints, now, round)


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return [
        f"{key} was {before.get(key, 'missing')}, is {now.get(key, 'missing')}"
        for key in dict.fromkeys([*before, *now])
        if before.get(key) != now.get(key)
    ]


def _until(checkpoints: Path, round: int) -> list[dict[str, Any]]:
    """Return the environments in which rounds up to ``round`` were trained, in order."""
    path = checkpoints / FILE
    try:
        entries = read_json(path, list)
        if not all(isinstance(entry, dict) and isinstance(entry.get(AFTER), int) for entry in entries):
            raise UnreadableError(f"an entry has no integer {AFTER!r}")
    except FileNotFoundError:
        return []
    except (OSError, UnreadableError) as error:
        raise RunFolderError(
            f"{path} is damaged ({error}): restore the file, or remove it to resume without a comparison"
        ) from error
    return [entry for entry in entries if entry[AFTER] < round]
