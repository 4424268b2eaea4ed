"""Tables of named entries, and references to functions of other packages."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Annotated

import pytest
from pydantic import TypeAdapter, ValidationError

from fedloru.errors import ConfigError, ModelError
from fedloru.settings import In, Setting, Table, expectation, is_reference, listed, problems_of, resolve, short

TABLE: Table[int] = Table("codec", {"exact": 1, "bf16": 2, "fp16": 3}, ModelError)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a folder the working directory, and restore the imported modules and ``sys.path``."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_table_is_a_mapping() -> None:
    assert (list(TABLE), len(TABLE), TABLE["bf16"], "fp32" in TABLE) == (["exact", "bf16", "fp16"], 3, 2, False)
    with pytest.raises(KeyError):
        TABLE["fp32"]


def test_find_returns_an_entry() -> None:
    assert [TABLE.find(name) for name in TABLE] == [1, 2, 3]


def test_unknown_names_suggest_the_nearest() -> None:
    with pytest.raises(ModelError) as error:
        TABLE.find("bf61")
    assert str(error.value) == (
        "there is no codec 'bf61'; did you mean 'bf16'? There are: bf16, exact, fp16, or python:package.module:function"
    )
    with pytest.raises(ModelError, match=r"there is no codec 'zip'\. There are: bf16, exact, fp16, or python:"):
        TABLE.find("zip")


def test_errors_are_config_errors_by_default() -> None:
    with pytest.raises(ConfigError, match=r"the scheme has 1 problem:\n  - there is no scheme 'b'\. There is: aaa"):
        Table("scheme", {"aaa": 1}).find("b")


def test_entries_of_a_table_do_not_follow_its_source() -> None:
    entries = {"a": 1}
    table = Table("kind", entries)
    entries["b"] = 2
    assert list(table) == ["a"]


def test_references_are_resolved() -> None:
    assert TABLE.find("python:math:sqrt") is math.sqrt
    assert resolve("python:os.path:join", ModelError) is __import__("os").path.join


@pytest.mark.parametrize("reference", ["python:", "python:math", "python::sqrt", "python:math:", "python:math:sq rt"])
def test_malformed_references_raise(reference: str) -> None:
    assert not is_reference(reference)
    with pytest.raises(ModelError, match=re.escape(f"'{reference}' does not name a function; write python:")):
        TABLE.find(reference)


def test_missing_modules_raise(modules: Path) -> None:
    with pytest.raises(ModelError, match=r"python:absent_module:f: the module absent_module cannot be imported \(No"):
        TABLE.find("python:absent_module:f")
    (modules / "needs_absent.py").write_text("import absent_module\n")
    with pytest.raises(ModelError, match=r"needs_absent cannot be imported \(No module named 'absent_module'\)"):
        TABLE.find("python:needs_absent:f")


def test_missing_functions_raise() -> None:
    for name in ("absent", "pi"):  # pi is not callable
        with pytest.raises(ModelError, match=f"python:math:{name}: the module math has no function {name}"):
            TABLE.find(f"python:math:{name}")


def test_modules_that_fail_on_import_raise(modules: Path) -> None:
    (modules / "failing.py").write_text("raise ValueError('too small')\n")
    with pytest.raises(ModelError, match=r"the module failing fails on import \(ValueError: too small\)"):
        TABLE.find("python:failing:f")


def test_the_working_directory_is_appended_if_the_package_is_not_found(modules: Path) -> None:
    before = list(sys.path)
    assert TABLE.find("python:math:cos") is math.cos
    assert sys.path == before  # not needed
    (modules / "local").mkdir()
    (modules / "local" / "inner.py").write_text("def f():\n    return 'local'\n")
    assert TABLE.find("python:local.inner:f")() == "local"  # type: ignore[operator]
    assert sys.path == [*before, str(modules)]
    assert TABLE.find("python:local.inner:f")() == "local"  # type: ignore[operator]
    assert sys.path == [*before, str(modules)]


def test_missing_submodules_do_not_change_the_path() -> None:
    before = list(sys.path)
    with pytest.raises(ModelError, match=r"No module named 'json\.absent'"):
        TABLE.find("python:json.absent:f")
    assert sys.path == before


def test_the_working_directory_never_shadows_an_installed_package(modules: Path) -> None:
    installed = modules / "site-packages"
    installed.mkdir()
    (installed / "shadowed.py").write_text("def f():\n    return 'installed'\n")
    (modules / "shadowed.py").write_text("def f():\n    return 'local'\n")
    (modules / "only_here.py").write_text("def f():\n    return 'local'\n")
    sys.path.insert(0, str(installed))
    assert TABLE.find("python:only_here:f")() == "local"  # type: ignore[operator]
    assert sys.path[-1] == str(modules)
    assert TABLE.find("python:shadowed:f")() == "installed"  # type: ignore[operator]


def test_listed_returns_public_functions_in_order() -> None:
    module = ModuleType("catalogue")
    for name in ("a", "b", "c", "_private"):
        setattr(module, name, lambda: None)
    module.number = 3  # type: ignore[attr-defined]
    assert list(listed(module)) == ["a", "b", "c"]
    assert list(listed(module, ["c", "a"])) == ["c", "a", "b"]


def test_short_names() -> None:
    assert short("python:package.module:function") == "function" and short("fedavg") == "fedavg"


def test_in_accepts_names_and_references() -> None:
    annotation = Annotated[str, In(TABLE)]
    adapter = TypeAdapter(annotation)
    for name in ("exact", "python:package.module:function"):
        assert adapter.validate_python(name) == name
    for value in ("fp32", "python:package.module", 3):
        with pytest.raises(ValidationError):
            adapter.validate_python(value)
    assert expectation(annotation) == "'exact', 'bf16' or 'fp16', or python:package.module:function"
    declared = {"codec": Setting("codec", annotation, "exact", "")}
    assert list(problems_of(declared, {"codec": "fp32"})) == [f"codec is 'fp32', expected {expectation(annotation)}"]
