"""Text between two comments of a page, which a benchmark replaces."""

from __future__ import annotations

from pathlib import Path


def problem(page: Path, name: str) -> str | None:
    """Return why the text called ``name`` cannot be put into ``page``, or None if it can."""
    if not page.is_file():
        return f"there is no page {page}"
    begin, end = _lines(name)
    if [line for line in page.read_text(encoding="utf-8").splitlines() if line in (begin, end)] != [begin, end]:
        return f"{page} needs one line {begin} and, after it, one line {end}, between which the table is put"
    return None


def put(page: Path, name: str, text: str) -> None:
    """Replace what is between the comments called ``name`` in ``page`` by ``text``."""
    begin, end = _lines(name)
    before, rest = page.read_text(encoding="utf-8").split(begin)
    page.write_text(f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}", encoding="utf-8")


def _lines(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->", f"<!-- /{name} -->"
