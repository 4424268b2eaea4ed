"""Export the model of a run as merged weights or as a PEFT adapter.

::

    trained   the state of a run after a round      formats   write merged weights or an adapter, and load them again
    checks    compare the scores of both models     cards     README.md and fedloru.json
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
from fedloru.exports.formats import FORMATS, TRAINED
from fedloru.exports.trained import trained_run
from fedloru.files import share_like, write_atomic
from fedloru.run.loop import Run


def export(
    run: Run | str | Path,
    out: str | Path,
    *,
    format: str = "merged",
    round: int | None = None,
    best: bool = False,
    rank: int | None = None,
    base: str | None = None,
) -> dict[str, Any]:
    """Export the model of ``run``, a run or a run folder, to the new folder ``out``.

    The exported model is loaded again and its scores are compared with those of the trained model.

    Args:
        run: a run, or the path of a run folder.
        out: the folder to create.
        format: ``"merged"`` for the whole model, ``"peft"`` for an adapter of its base.
        round: the round of a checkpoint in the run folder; default: the last one.
        best: whether to export the model of the best evaluation, which a run with ``keep_best`` keeps.
        rank: truncate the adapter to this rank; default: the rank of all increments and factors together.
        base: the name of the base in the files of the adapter, such as a name on the hub; default: the name of the
            run's model, or the absolute path of its folder.

    Returns:
        The contents of ``fedloru.json``; ``["check"]`` holds the result of the comparison.

    Raises:
        ConfigError: ``out`` exists, or an argument is invalid.
        ModelError: the model cannot be exported in this format, or the exported model has other scores; ``out`` is
            then not created.
        RunFolderError: the run, its checkpoint or its increments are missing or damaged.
    """
    if format not in FORMATS:
        raise ConfigError([f"there is no format {format!r}{choices(format, FORMATS)}"], "export")
    with _new_folder(Path(out)) as folder:
        trained = trained_run(run, round, best=best)
        written = FORMATS[format](trained, folder, rank, base)
        checked = check(trained.plan.net, written, trained.tensors, trained.plan.dataset.test)
        summary = facts(trained, format, written, checked)
        write_atomic(folder / "fedloru.json", json.dumps(summary, indent=2).encode())
        write_atomic(folder / "README.md", card(summary, trained).encode())
        share_like(folder, folder / "README.md")  # safetensors writes files that only the owner can read
    return summary


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to ``out`` on success, and removed on any error.

    Raises:
        ConfigError: ``out`` exists, or its parent does not.
    """
    if out.exists() or not out.resolve().parent.is_dir():
        what = "exists already" if out.exists() else "is in a folder that does not exist"
        raise ConfigError([f"{out} {what}: name a new folder"], "export")
    temporary = out.resolve().with_name(f".{out.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)  # left over from an export that was killed
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


__all__ = ["FORMATS", "TRAINED", "export"]
