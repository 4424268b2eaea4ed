"""Read the lines of text files: UTF-8, with or without a byte order mark, and of bounded length."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fedloru.data.paths import regular
from fedloru.errors import DataError

MAX_LINE, MAX_FILE = 2**26, 2**31
"""The maximum sizes of a line, and of a file that is read as a whole, in bytes."""

BOM = b"\xef\xbb\xbf"
MAGIC = {
    b"\x1f\x8b": "compressed (gzip): decompress it",
    b"PK\x03\x04": "a zip archive: unpack it",
    b"\x28\xb5\x2f\xfd": "compressed (zstd): decompress it",
    b"BZh": "compressed (bzip2): decompress it",
    b"\xfd7zXZ": "compressed (xz): decompress it",
    b"PAR1": "a parquet file: name it *.parquet",
    b"\xff\xfe": "UTF-16 text: save it as UTF-8",
    b"\xfe\xff": "UTF-16 text: save it as UTF-8",
}
"""The first bytes of files that are not UTF-8 text, and what these files are."""


def lines(file: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield the number of each line, from 1, and its text with its end; ``name`` is the file's name in messages.

    Raises:
        DataError: the file is not UTF-8 text, or a line has more than ``MAX_LINE`` bytes.
    """
    with regular(file).open("rb") as opened:
        check_start(opened.peek(8), name)
        number = 0
        while line := opened.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                raise DataError(
                    f"{name}: line {number} has more than {MAX_LINE:,} bytes: expected one row per line; split the row"
                )
            yield number, decoded(line.removeprefix(BOM) if number == 1 else line, f"{name}, line {number}")


def whole(file: Path, name: str) -> str:
    """Return the text of a file of at most ``MAX_FILE`` bytes; ``name`` is its name in messages.

    Raises:
        DataError: the file is larger, or not UTF-8 text.
    """
    content = regular(file, MAX_FILE).read_bytes()
    check_start(content[:8], name)
    return decoded(content.removeprefix(BOM), name)


def check_start(start: bytes, name: str) -> None:
    """Check that a file does not start like a file of another kind.

    Raises:
        DataError: it does.
    """
    for magic, kind in MAGIC.items():
        if start.startswith(magic):
            raise DataError(f"{name} is {kind}")


def decoded(content: bytes, where: str) -> str:
    """Return ``content`` as text.

    Raises:
        DataError: it is not UTF-8.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        found = content[error.start : error.start + 1].hex()
        place = f"{where}, line {line}" if line > 1 else where
        raise DataError(f"{place} is not UTF-8 text (byte 0x{found}): save the file as UTF-8") from error
