"""Where runs are: a new folder with a number that is not used yet, and the newest run among those that exist."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from fedloru.run import lock
from fedloru.run.folder import CONFIG, MODEL, SUMMARY
from fedloru.run.row_files import ROUNDS

RUNS = Path("runs")
"""The folder of the runs whose folder is not named."""


@contextmanager
def reserved(path: Path) -> Iterator[Path]:
    """Create the first of ``path``, ``path``-2, ``path``-3, … that does not exist, and yield it.

    No two processes get the same one. If it is still empty at the end, because the run could not be started, it is
    removed.
    """
    new = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = next(filter(_created, _numbered(path)))
    try:
        yield folder
    finally:
        with suppress(OSError):  # of the first that is not empty
            for empty in (folder, *new):
                empty.rmdir()


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    yield from (path.with_name(f"{path.name}-{number}") for number in count(2))


def _created(path: Path) -> bool:
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def is_finished(folder: Path) -> bool:
    """Return whether the run in ``folder`` has finished all its rounds and written its model and summary."""
    return all((folder / name).is_file() for name in (MODEL, SUMMARY))


def is_stopped(folder: Path) -> bool:
    """Return whether the run in ``folder`` is neither finished nor running."""
    return not is_finished(folder) and not lock.in_use(folder)


def newest(suits: Callable[[Path], bool] = lambda folder: True) -> Path | None:
    """Return the folder in runs/ whose run recorded a round, or was created, last; of those that ``suits`` accepts."""
    found = [path.parent for path in RUNS.glob(f"*/{CONFIG}")]
    return next(filter(suits, sorted(found, key=_last_change, reverse=True)), None)


def _last_change(folder: Path) -> tuple[float, str]:
    existing = [path for path in (folder / ROUNDS, folder / CONFIG) if path.is_file()]
    return max((path.stat().st_mtime for path in existing), default=0.0), folder.name
