"""Runs the blocks of a page of the documentation in order, and compares outputs with those that the page shows.

A page takes part with the comment ``<!-- tested -->``; ``<!-- tested: hf -->`` also marks its test. Its blocks share a
temporary working directory:

- ``python`` blocks share their names. A ``text`` block right after one shows what it prints, or the error that it
  raises.
- ``console`` blocks hold commands after ``$``, each followed by its output or by nothing. ``fedloru`` and ``python``
  are run, the commands of ``NOT_RUN`` are not, and others fail. A command fails if and only if the page shows an error.
  ``> FILE`` saves what it prints. Notes and errors come before other output.
- A block with a title, such as ``toml title="my.toml"``, is saved as that file. Other ``toml`` blocks are
  configurations, and ``json`` blocks are valid JSON.
- Code in a comment, from ``<!-- setup`` to ``-->``, is run but not shown: it prepares files that a reader would have.

In an output, ``...`` stands for anything, and white space is not compared. ``UPDATE_DOCS=1`` writes the outputs.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import runpy
import shlex
import sys
import tomllib
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from fedloru.cli import app
from fedloru.config import parse
from fedloru.errors import FedloruError

MARK = re.compile(r"^<!-- tested(?:: ([\w ]+))? -->$", re.MULTILINE)
BLOCK = re.compile(
    r"^(?:<!-- setup\n(?P<setup>.*?)^-->"
    r'|```(?P<language>\w+)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```)$',
    re.DOTALL | re.MULTILINE,
)
COMMAND = re.compile(r"^\$ (?P<line>(?:.*\\\n)*.*)\n(?P<shown>(?:(?!\$ ).*\n)*)", re.MULTILINE)
NOT_RUN = {"pip", "git", "make", "cd", "jupyter"}


def marks(text: str) -> list[str] | None:
    """Return the markers of a page's test; None if its blocks are not run."""
    found = MARK.search(text)
    return found and (found[1] or "").split()


def matches(shown: str, printed: str) -> bool:
    return OutputChecker().check_output(shown.rstrip() + "\n", printed.rstrip() + "\n", ELLIPSIS | NORMALIZE_WHITESPACE)


def tidy(printed: str) -> str:
    """Return an output without the white space at the ends of its lines, and with one newline at its end."""
    return "\n".join(line.rstrip() for line in printed.strip("\n").splitlines()) + "\n"


@dataclass
class Session:
    """The working directory and the names that the blocks of one page share.

    Args:
        page: the Markdown file.
        folder: the working directory; the caller has changed to it.
    """

    page: Path
    folder: Path
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    edits: list[tuple[int, int, str]] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Run all blocks, and compare or update their outputs.

        Raises:
            AssertionError: a block fails, or prints something else than the page shows.
        """
        text = self.page.read_text(encoding="utf-8")
        blocks = list(BLOCK.finditer(text))
        fenced = [block for block in blocks if block["language"]]
        assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * len(fenced), f"{self.page.name}: unknown blocks"
        for block, following in zip(blocks, [*blocks[1:], None], strict=True):
            self.block(block, following)
        if os.environ.get("UPDATE_DOCS"):
            for start, end, printed in reversed(self.edits):
                text = text[:start] + printed + text[end:]
            self.page.write_text(text, encoding="utf-8")
        else:
            assert not self.differences, f"{self.page.name}:\n\n" + "\n".join(self.differences)

    def block(self, block: re.Match[str], following: re.Match[str] | None) -> None:
        """Run one block, whose output ``following`` shows if that is a ``text`` block."""
        if block["title"]:
            path = self.folder / block["title"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block["text"], encoding="utf-8")
        elif block["setup"]:
            self.python(block["setup"])
        elif block["language"] == "python":
            if following and following["language"] == "text" and not following["title"]:
                printed = self.python(block["text"], may_raise=(FedloruError, TypeError))
                self.compare(block["text"], following["text"], printed, following.start("text"))
            else:
                self.python(block["text"])
        elif block["language"] == "console":
            for command in COMMAND.finditer(block["text"]):
                self.console(command, block.start("text"))
        elif block["language"] == "toml":
            parse(tomllib.loads(block["text"]))
        elif block["language"] == "json":
            json.loads(block["text"])
        else:
            assert block["language"] == "text", f"{self.page.name}: nothing runs a block of {block['language']}"

    def python(self, code: str, may_raise: tuple[type[Exception], ...] = ()) -> str:
        """Return what code prints, followed by the error that it raises."""
        with contextlib.redirect_stdout(io.StringIO()) as out:
            try:
                exec(compile(code, self.page.name, "exec"), self.names)
            except may_raise as error:
                print("".join(traceback.format_exception_only(error)))
        return out.getvalue()

    def console(self, command: re.Match[str], offset: int) -> None:
        line, _, target = command["line"].replace("\\\n", " ").partition(" > ")
        program, *args = shlex.split(line, comments=True)
        if program in NOT_RUN:
            return
        if program == "python":
            printed, failed = self.script(*args), False
        else:
            assert program == "fedloru", f"{self.page.name}: nothing runs {program}"
            result = CliRunner().invoke(app, args, prog_name="fedloru", env={"COLUMNS": "80", "TERM": "dumb"})
            failed = result.exit_code != 0
            printed = result.stdout if target else result.stderr + result.stdout
            assert "Traceback" not in result.output, result.output
        expected = bool(re.search(r"^Error: ", command["shown"], re.MULTILINE))
        assert failed == expected, f"{self.page.name}: $ {command['line']}\n{printed}"
        if target:
            (self.folder / target.strip()).write_text(printed, encoding="utf-8")
        if command["shown"].strip():
            self.compare(command["line"], command["shown"], printed, offset + command.start("shown"))

    def script(self, file: str, *args: str) -> str:
        """Return what a Python file prints."""
        with contextlib.redirect_stdout(io.StringIO()) as out:
            before, sys.argv = sys.argv, [file, *args]
            try:
                runpy.run_path(str(self.folder / file), run_name="__main__")
            finally:
                sys.argv = before
        return out.getvalue()

    def compare(self, code: str, shown: str, printed: str, start: int) -> None:
        if not matches(shown, printed):
            self.differences.append(f"{code}\nshows\n{shown}\nbut prints\n{printed}")
            self.edits.append((start, start + len(shown), tidy(printed)))


@contextlib.contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Make the modules of a folder importable, and forget them afterwards."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name, module in list(sys.modules.items()):
            if (file := getattr(module, "__file__", None)) and Path(file).is_relative_to(folder):
                del sys.modules[name]
