"""The code and the commands in the README and in docs/ work as printed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedloru.cli import app

ROOT = Path(__file__).parent.parent
TUTORIAL = ROOT / "docs" / "writing-a-method.md"  # its blocks build on each other: test_writing_a_method.py runs them
PAGES = [ROOT / "README.md", *sorted(set((ROOT / "docs").glob("*.md")) - {TUTORIAL})]


def blocks(language: str) -> list[tuple[str, str]]:
    found = []
    for page in PAGES:
        fence = re.compile(rf"^```{language}\n(.*?)^```", re.DOTALL | re.MULTILINE)
        found += [(page.name, text) for text in fence.findall(page.read_text())]
    return found


@pytest.mark.parametrize(("page", "code"), blocks("python"))
def test_python_blocks_run(page: str, code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, page, "exec"), {})
    assert capsys.readouterr().out


def test_there_is_a_python_block() -> None:
    assert ("README.md" in dict(blocks("python"))) and blocks("console")


@pytest.mark.parametrize(
    ("page", "line"),
    [(page, line) for page, text in blocks("console") for line in text.splitlines() if line.startswith("$ fedloru ")],
)
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
