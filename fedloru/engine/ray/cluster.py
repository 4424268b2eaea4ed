"""The connection of this process to Ray: to the cluster at RAY_ADDRESS, or to a Ray on this machine.

A connection that exists already is used and stays. One that is made here is shared by all runs of the process, and
closed with the last of them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from typing import Any

import torch

from fedloru.errors import ConfigError, FedloruError, optional, quoted, sentence

ADDRESS = "RAY_ADDRESS"
NAME = "the engine 'ray'"

_users = 0
_ours = False


def library() -> Any:
    """Return the module of Ray.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    return optional("ray", extra="ray", purpose=NAME)


def join(workers: int | None) -> None:
    """Connect to Ray if there is no connection yet; a Ray on this machine has room for ``workers`` processes.

    Raises:
        FedloruError: there is no cluster at the address, or Ray does not start.
    """
    global _users, _ours
    if not library().is_initialized():
        _connect(workers)
        _ours = True
    _users += 1


def leave() -> None:
    """End one use of the connection, and close it with the last one if it was made here."""
    global _users, _ours
    _users -= 1
    if _ours and not _users:
        library().shutdown()
        _ours = False


def capacity(device: torch.device) -> int:
    """Return the number of CPUs, or of GPUs if ``device`` is one, of the cluster.

    Raises:
        ConfigError: there is none.
    """
    kind = "GPU" if device.type == "cuda" else "CPU"
    found = int(library().cluster_resources().get(kind, 0))
    if not found:
        raise ConfigError([f"the Ray cluster has no {kind} for the device {str(device)!r}: add a machine"], NAME)
    return found


def _connect(workers: int | None) -> None:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get(ADDRESS) or "local"
    local: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {}
    try:
        _reach(address)
        # Ray puts the working directory first in the search path of workers, where a file such as torch.py would
        # replace an installed package. So it gets one without modules; workers append the right one.
        with contextlib.chdir(sys.prefix):
            library().init(address=address, log_to_driver=False, logging_level="error", **local)
    except Exception as error:  # ray raises errors of many types
        if address == "local":
            raise FedloruError(f"Ray does not start on this machine: {sentence(error)}") from error
        raise FedloruError(
            f"there is no Ray cluster at {quoted(address)} ({sentence(error)}): start one with `ray start --head`, "
            f"correct {ADDRESS}, or unset it to use this machine"
        ) from error


def _reach(address: str) -> None:
    """Raise ``OSError`` if nothing listens at host:port, for which Ray itself would wait for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
