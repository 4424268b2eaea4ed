"""Taking home what a run has learnt, in a form that the rest of the ecosystem loads.

::

    learnt    the state of a run after a round      formats   merged and peft: written, and loaded again
    checks    the scores of both, compared          cards     README.md and fedloru.json
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedloru.errors import ConfigError, choices
from fedloru.exports.cards import card, facts
from fedloru.exports.checks import check
from fedloru.exports.formats import FORMATS
from fedloru.exports.trained import of
from fedloru.files import write_atomic
from fedloru.run.loop import Run


def export(
    run: Run | str | Path,
    out: str | Path,
    *,
    format: str = "merged",
    round: int | None = None,
    rank: int | None = None,
) -> dict[str, Any]:
    """Write what ``run``, or that of a folder, has learnt into the folder ``out``, and return its facts.

    ``merged`` is the whole model, ``peft`` an adapter for its base, of the rank of all cycles together or cut to
    ``rank``. ``round`` is that of a checkpoint of the folder; without it, the last. What was written is loaded again
    and compared with the model that was trained: ``facts["check"]`` tells by how much they differ.

    Raises:
        ConfigError: ``out`` is there already, or a setting is none.
        ModelError: what was learnt has no such form, or what was written scores otherwise; then nothing is left.
        RunFolderError: the run, its checkpoint or its increments are missing or damaged.
    """
    if format not in FORMATS:
        raise ConfigError([f"there is no format {format!r}{choices(format, FORMATS)}"], "export")
    with _made_whole(Path(out)) as folder:
        learnt = of(run, round)
        written = FORMATS[format](learnt, folder, rank)
        found = check(learnt.plan.net, written, learnt.tensors, learnt.plan.data.test)
        told = facts(learnt, format, written, found)
        write_atomic(folder / "fedloru.json", json.dumps(told, indent=2).encode())
        write_atomic(folder / "README.md", card(told, learnt).encode())
    return told


@contextmanager
def _made_whole(out: Path) -> Iterator[Path]:
    """Make a folder that gets its name when all is in it, and goes if anything fails.

    Raises:
        ConfigError: it is there already, or cannot be made where it is to be.
    """
    if out.exists() or not out.resolve().parent.is_dir():
        what = "exists already" if out.exists() else "is in a folder that does not exist"
        raise ConfigError([f"{out} {what}: name a new folder"], "export")
    temporary = out.resolve().with_name(f".{out.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)  # what an export that was killed has left
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


__all__ = ["FORMATS", "export"]
