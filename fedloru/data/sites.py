"""One file per site: a folder of files, or a table from names of sites to files. The names are those of the clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from fedloru.data import files
from fedloru.data.parquet_rows import check_classes
from fedloru.data.paths import unread_files
from fedloru.data.table import Table, joined
from fedloru.errors import DataError, listed, quoted

FILE = "file"
"""The column with the name of the site that a row comes from."""

Paths = str | Mapping[str, str]


class Sites(NamedTuple):
    """The file of each site by name, a file of test rows, and remarks on what is not read."""

    files: dict[str, Path]
    test: Path | None = None
    remarks: tuple[str, ...] = ()


def named(path: Paths) -> str:
    """Return the name of a data set: that of its file or folder, or those of its sites."""
    return Path(path).stem if isinstance(path, str) else "+".join(path)[:40]


def find(path: Paths, test: str | None = None) -> Sites:
    """Return the sites of a file, a folder or a table from names to files; a site in a folder is called like its file.

    ``test`` is a file of test rows. A folder with only ``train`` and ``test`` files is one data set, and not two sites.

    Raises:
        DataError: there is no file, two have the same name, or a name is empty.
    """
    held_out = None if test is None else _existing(test, "", "data.test")
    if not isinstance(path, str):
        named = {_name(name, path): _existing(file, f" for the site {quoted(name)}") for name, file in path.items()}
        return Sites(named, held_out)
    if not Path(path).is_dir():
        return Sites({_name(Path(path).stem, path): _existing(path)}, held_out)
    found = _in_folder(Path(path))
    remarks = unread_files(Path(path), found.values(), "not a table")
    if held_out is None and found.keys() == {"train", "test"}:
        held_out = found.pop("test")
    return Sites(found, held_out, remarks)


def _in_folder(place: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in sorted(place.iterdir()):
        if file.name.startswith(".") or file.suffix.lower() not in files.READERS or not file.is_file():
            continue
        name = _name(file.stem, place)
        if name in found:
            raise DataError(f"{found[name]} and {file} would both be the site {quoted(name)}: rename one of them")
        found[name] = file
    if not found:
        raise DataError(
            f"{place} has no file of a site: expected files such as berlin.csv (*{', *'.join(files.READERS)})"
        )
    return found


def read(sites: Mapping[str, Path], columns: Sequence[str], *, alike: bool = True) -> Table:
    """Return the rows of all sites; if ``file`` is in ``columns``, and no column of the files, with the row's site.

    Raises:
        DataError: a file is damaged or has no rows, class names differ or, if ``alike``, columns do.
    """
    tables = [_read(name, file, FILE in columns) for name, file in sites.items()]
    for table in tables[1:]:
        differ = {*table.column_names} ^ {*tables[0].column_names}
        if alike and differ:
            raise DataError(
                f"{tables[0].where} and {table.where} do not have the same columns, but differ in "
                f"{listed([quoted(name) for name in sorted(differ)])}: rename, add or remove them"
            )
        check_classes(tables[0].where, tables[0].classes, table.where, table.classes)
    return joined(tables)


def _read(name: str, file: Path, with_name: bool) -> Table:
    table = files.read(file)
    if not table.num_rows:
        raise DataError(f"{file} has no rows: add some, or remove the file")
    return table.extended(FILE, [name] * table.num_rows) if with_name and FILE not in table.column_names else table


def _name(name: str, where: object) -> str:
    found = normalize("NFC", name)  # macOS separates letters from their accents
    if not found.strip():
        raise DataError(f"a site of {quoted(where)} has an empty name: name it")
    return found


def _existing(path: str, what: str = "", setting: str = "data.path") -> Path:
    if not Path(path).is_file():
        raise DataError(f"there is no file {path}{what}: check {setting}")
    return Path(path)
