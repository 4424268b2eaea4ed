"""The code and the commands in the README and in docs/ work as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedloru.cli import app
from tests.pages import marks

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    fence = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return fence.findall(page.read_text(encoding="utf-8"))


def is_tested(page: Path) -> bool:
    return marks(page.read_text(encoding="utf-8")) is not None


def commands() -> list[tuple[str, str]]:
    """Return the commands of pages that test_pages.py does not run."""
    pages = [page for page in PAGES if not is_tested(page)]
    lines = [(page.name, line) for page in pages for text in blocks(page, "console") for line in text.splitlines()]
    return [(name, line) for name, line in lines if line.startswith("$ fedloru ")]


def test_the_python_block_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(README, "python")
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out


def test_other_pages_with_python_are_tested() -> None:
    """The blocks of tested pages are run by test_pages.py, those of the tutorial by test_writing_a_method.py."""
    others = {page.stem for page in PAGES if blocks(page, "python") and not is_tested(page)}
    assert others == {"README", "writing-a-method"}


@pytest.mark.parametrize(("page", "line"), commands())
def test_commands_exist_with_these_options(page: str, line: str) -> None:
    """Every command in a console block exists, and its help lists the options that the block uses."""
    words = line.removeprefix("$ fedloru ").split("#")[0].split()
    options = [word for word in words[1:] if word.startswith("-")]
    shown = CliRunner().invoke(app, [words[0], "--help"], terminal_width=200)
    assert shown.exit_code == 0
    assert all(option in shown.output for option in options)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_point_to_existing_files(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    assert all((page.parent / target).exists() for target in targets)


def test_make_targets_of_the_readme_exist() -> None:
    named = re.findall(r"^\$ make (\w+)", (ROOT / "README.md").read_text(), re.MULTILINE)
    makefile = (ROOT / "Makefile").read_text()
    assert named
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)
