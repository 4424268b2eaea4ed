"""Where the files of a comparison may be written: not into run folders, and not over files of another origin."""

from __future__ import annotations

import re
from pathlib import Path

from fedloru.errors import RunFolderError
from fedloru.files import write_atomic
from fedloru.reading import UnreadableError, read_bytes
from fedloru.report.records import CONFIG, ROUNDS

ORIGINS = {
    "page": r"<!DOCTYPE html>.{,2000}<title>\d+ runs? in \d+ groups? · fedloru</title>",
    "latex": r"% Comparison by fedloru",
    "markdown": r"<!-- Comparison by fedloru -->",
    "rounds": r"group,seed,round,",
    "table": r"group,seeds,",
    ".pdf": r"%PDF.*fedloru",
    ".png": r"\x89PNG.*fedloru",
    ".svg": r"<\?xml.*fedloru",
}
"""How the files of each kind begin; only these are overwritten."""

KINDS = {"page": "page", "latex": "LaTeX table", "markdown": "Markdown table", "rounds": "CSV file", "table": "table"}

LARGEST = 50_000_000
"""The largest file, in bytes, that may be of a comparison."""


def check_place(path: Path, kind: str) -> None:
    """Check that a file of a comparison can be written to ``path``: it is free, empty or holds one of this ``kind``.

    Raises:
        RunFolderError: it is a folder, belongs to a run, is in a folder that does not exist, or is another file.
    """
    folder = path.parent
    if path.is_dir() or not folder.is_dir():
        problem = "is a folder" if path.is_dir() else "is in a folder that does not exist"
        raise RunFolderError(f"{path} {problem}: name a file to write to")
    check_outside(folder, path)
    if path.exists() and not _is_ours(path, kind):
        raise RunFolderError(
            f"{path} exists and is not the {KINDS.get(kind, 'picture')} of a comparison: choose another file, or "
            "remove this one"
        )


def check_outside(folder: Path, path: Path) -> None:
    """Check that ``folder``, into which ``path`` is to be written, is not part of a run folder.

    Raises:
        RunFolderError: it is.
    """
    absolute = folder.resolve()
    if run := next((each for each in (absolute, *absolute.parents) if is_run(each)), None):
        raise RunFolderError(f"{path} is in the run folder {run}: write the comparison somewhere else")


def is_run(folder: Path) -> bool:
    """Return whether ``folder`` is a run folder."""
    return all((folder / name).is_file() for name in (CONFIG, ROUNDS))


def write(path: Path, text: str, kind: str) -> Path:
    """Write ``text`` to ``path``, unless another file is there, and return ``path``.

    Raises:
        RunFolderError: the file cannot be written there.
        OSError: the folder is not writable.
    """
    check_place(path, kind)
    write_atomic(path, text.encode(errors="replace"))
    return path


def _is_ours(path: Path, kind: str) -> bool:
    try:
        content = read_bytes(path, LARGEST)
    except (OSError, UnreadableError):
        return False
    return not content or bool(re.match(ORIGINS[kind].encode(), content, re.DOTALL))
