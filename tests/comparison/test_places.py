"""The files of a comparison replace only files of their kind, and are never written into run folders."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fedloru.comparison import texts
from fedloru.comparison.compared import Comparison
from fedloru.comparison.groups import Group
from fedloru.comparison.pictures import check_pictures
from fedloru.comparison.places import check_place, write
from fedloru.errors import RunFolderError
from fedloru.report import write as write_report

from .made_up import results

WRITERS: dict[str, Callable[[Comparison, Path], object]] = {
    "page": lambda made, path: made.page(path),
    "latex": lambda made, path: write(path, made.latex(), "latex"),
    "markdown": lambda made, path: write(path, made.markdown(), "markdown"),
    "table": lambda made, path: write(path, made.csv(), "table"),
    "rounds": lambda made, path: write(path, texts.rounds_csv(made.results), "rounds"),
    ".pdf": lambda made, path: made.pictures(path),
    ".png": lambda made, path: made.pictures(path),
    ".svg": lambda made, path: made.pictures(path),
}


@pytest.fixture
def made(groups: list[Group]) -> Comparison:
    return Comparison(results(groups))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_of_the_kind_is_replaced_and_no_other(kind: str, made: Comparison, tmp_path: Path) -> None:
    path = tmp_path / f"file{kind if kind.startswith('.') else '.txt'}"
    path.touch()  # an empty file has nothing to lose
    WRITERS[kind](made, path)
    first = path.read_bytes()
    WRITERS[kind](made, path)
    assert path.read_bytes() == first
    for other in (b"\\documentclass{article}", b"group,weight\n", b"%PDF-1.7 by others", b"<!DOCTYPE html><title>x"):
        path.write_bytes(other)
        with pytest.raises(RunFolderError, match=r"file\.\w+ exists and is not the .* of a comparison"):
            WRITERS[kind](made, path)
        assert path.read_bytes() == other and not list(tmp_path.glob(".*"))


def test_the_page_of_a_run_is_kept(made: Comparison, run: Path, tmp_path: Path) -> None:
    page = write_report(run)
    copy = tmp_path / "copy.html"
    copy.write_bytes(before := page.read_bytes())
    with pytest.raises(RunFolderError, match=r"copy\.html exists and is not the page of a comparison"):
        made.page(copy)
    with pytest.raises(RunFolderError, match=r"report\.html is in the run folder .*demo: write the comparison some"):
        made.page(page)
    assert page.read_bytes() == copy.read_bytes() == before


@pytest.mark.parametrize("name", ["new.tex", "studies/new.tex"])
def test_nothing_is_written_into_a_run_folder(name: str, run: Path) -> None:
    (run / "studies").mkdir()
    with pytest.raises(RunFolderError, match="is in the run folder"):
        check_place(run / name, "latex")
    with pytest.raises(RunFolderError, match="is in the run folder"):
        check_pictures(run / "pictures")


def test_pictures_need_a_folder_or_a_known_ending(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunFolderError, match=r"a\.jpg is neither a folder nor a file that ends in \.pdf"):
        check_pictures(tmp_path / "a.jpg")
    with pytest.raises(RunFolderError, match="file is a file"):
        check_pictures(tmp_path / "file")
    (tmp_path / "v1.2").mkdir()
    check_pictures(tmp_path / "v1.2")
    check_pictures(tmp_path / "new" / "figures")


def test_pictures_in_a_folder_replace_no_other_picture(made: Comparison, tmp_path: Path) -> None:
    (tmp_path / "accuracy-over-bytes.svg").write_text("<svg/>")
    with pytest.raises(RunFolderError, match=r"accuracy-over-bytes\.svg exists"):
        made.pictures(tmp_path)
    assert not list(tmp_path.glob("*.pdf"))
    (tmp_path / "accuracy-over-bytes.svg").unlink()
    names = {path.name for path in made.pictures(tmp_path)}
    assert names == {f"accuracy-over-{axis}.{form}" for axis in ("rounds", "bytes") for form in ("pdf", "png", "svg")}
