"""Check files before they are opened: files that a user names, and files that are named inside of data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedloru.data.raw import unread
from fedloru.errors import DataError

MAX_NAMED = 2**28
"""The maximum size of a file that is named inside of data, in bytes."""

ABOUT = ("readme", "license", "licence", "copying", "citation", "dataset_infos.json", ".gitattributes", ".gitignore")
"""How the names of files start that describe a data set; they are not reported as unread."""


def regular(path: Path, most: int | None = None) -> Path:
    """Return ``path`` if it is a regular file of at most ``most`` bytes.

    Raises:
        DataError: it does not exist, is a folder, a device or a pipe, or is larger.
    """
    try:
        if not path.is_file():
            problem = "is not a regular file" if path.exists() else "does not exist"
            raise DataError(f"{path} {problem}: name a file")
        size = path.stat().st_size
    except (OSError, ValueError) as error:  # a name that is too long, or has a NUL character
        raise DataError(f"{str(path)[:200]!r} cannot be opened: {error}") from error
    if most is not None and size > most:
        raise DataError(f"{path} has {size:,} bytes, but at most {most:,} are read: split it into smaller files")
    return path


def named(path: str, folders: Sequence[Path], where: str) -> bytes:
    """Return the content of the file ``path``, which the data at ``where`` names.

    A relative path starts at the first of ``folders``. The file must be in one of them after symbolic links are
    resolved, so that data cannot read other files of the machine.

    Raises:
        DataError: the file is elsewhere, does not exist, is not a regular file, or has more than ``MAX_NAMED`` bytes.
    """
    try:
        place = Path(folders[0], path).resolve()
        inside = any(place.is_relative_to(folder.resolve()) for folder in folders)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{where} names a file that cannot be opened ({error}): correct its path") from error
    if not inside:
        raise DataError(
            f"{where} names the file {path[:200]!r}, which is not in the data's folder {folders[0]}: move it there, or "
            "store the content of files in the data"
        )
    try:
        return regular(place, MAX_NAMED).read_bytes()
    except (DataError, OSError) as error:
        raise DataError(f"{where} names the file {path[:200]!r}, which cannot be read: {error}") from error


def unread_files(folder: Path, read: Iterable[Path], reason: str) -> tuple[str, ...]:
    """Return a remark on the files below ``folder`` that are not among ``read``; () if there are none.

    Files that describe a data set, such as README.md, are left out.
    """
    used = {path.resolve() for path in read}
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.resolve() not in used)
    return unread(
        [path.relative_to(folder).as_posix() for path in found if not path.name.lower().startswith(ABOUT)], reason
    )


@contextmanager
def in_memory(place: Path | str) -> Iterator[None]:
    """Turn a ``MemoryError`` while ``place`` is read into a sentence.

    Raises:
        DataError: there is not enough memory.
    """
    try:
        yield
    except MemoryError as error:
        raise DataError(f"{place} does not fit into memory: split it, or remove rows and columns") from error
