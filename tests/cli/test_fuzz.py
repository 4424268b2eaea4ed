"""Damaged run folders and random configurations: every reader works or prints an error, and changes nothing."""

from __future__ import annotations

import json
import os
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from fedloru.cli import app
from fedloru.config import SECTIONS, dump, parse, presets
from fedloru.errors import ConfigError, FedloruError
from fedloru.reading import parse_toml
from fedloru.run.folder import BEST, INCREMENTS, MODEL, REPORT, SUMMARY
from fedloru.run.row_files import START

SOURCE = Path(__file__).parent.parent / "legacy" / "run-9a41fbb"
FILES = sorted(str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*") if path.is_file())
COMMANDS = {
    "report": ["report", "run"],
    "compare": ["compare", "run", str(SOURCE), "-o", "page.html"],
    "resume": ["resume", "run", "--quiet"],
    "export": ["export", "run", "--format", "merged", "--out", "exported"],
}
QUIET = {"deadline": None, "suppress_health_check": list(HealthCheck)}

VALUES: list[Any] = [
    *(-1, 0, 1, 3, 2**70, 1.5, 1e308, float("nan"), float("inf"), None, True, "x", "", "\x1b[2J\x07", "9" * 5000),
    *([], {}, [[]], [1, "a"], {"a": {"b": 1}}, "../..", "fedloru", "mlp", "python:", "python:nope:f", "hf:"),
]


def edited(draw: Any, value: Any) -> Any:
    """Return a JSON value with one node, at any depth, replaced, removed or renamed."""
    if not isinstance(value, dict | list) or not value or draw(st.booleans()):
        return deepcopy(draw(st.sampled_from(VALUES)))
    key = draw(st.sampled_from(list(value) if isinstance(value, dict) else range(len(value))))
    change = draw(st.sampled_from(["inside", "inside", "remove", "rename"]))
    if change == "inside" or isinstance(value, list):
        value[key] = edited(draw, value[key])
    else:
        removed = value.pop(key)
        if change == "rename":
            value["renamed"] = removed
    return value


def damage(draw: Any, path: Path) -> None:
    """Change a file of a run folder in one of many ways."""
    data = path.read_bytes()
    at = draw(st.integers(0, len(data)))
    kind = draw(
        st.sampled_from(["json", "json", "json", "flip", "cut", "insert", "binary", "nested", "folder", "gone"])
    )
    if kind == "json" and path.suffix in (".json", ".jsonl"):
        *lines, last = [json.loads(line) for line in (data.splitlines() if path.suffix == ".jsonl" else [data])]
        path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, edited(draw, last)]))
    elif kind in ("folder", "gone"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
    else:
        changed = {
            "cut": data[:at],
            "insert": data[:at] + draw(st.binary(min_size=1, max_size=8)) + data[at:],
            "binary": bytes(range(256)),
            "nested": b"[" * 100_000,
        }
        flipped = (
            data[:at] + bytes([data[at] ^ 1 << draw(st.integers(0, 7))]) + data[at + 1 :] if at < len(data) else b""
        )
        path.write_bytes(changed.get(kind, flipped))


def contents(folder: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


def check_damaged(draw: Any, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    for name in ("run", "exported"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    shutil.copytree(SOURCE, folder)
    damage(draw, folder / draw(st.sampled_from(FILES)))
    before = contents(folder)
    command = COMMANDS[draw(st.sampled_from(list(COMMANDS)))]
    done = CliRunner().invoke(app, command, env={"COLUMNS": "120"})
    assert done.exit_code in (0, 2), (command, done.output, done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), command
    assert "\x1b" not in done.output
    if done.exit_code == 2:
        assert "Error: " in done.output and len(done.output) < 5000
        assert contents(folder) == before, command


@settings(max_examples=20, **QUIET)
@given(st.data())
def test_damaged_run_folders(workplace: Path, data: st.DataObject) -> None:
    check_damaged(data.draw, workplace)


@pytest.mark.slow
@settings(max_examples=500, **QUIET)
@given(st.data())
def test_many_damaged_run_folders(workplace: Path, data: st.DataObject) -> None:
    check_damaged(data.draw, workplace)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


WRITTEN = dict.fromkeys((SUMMARY, REPORT, MODEL, START, "generations.jsonl"), "file")
WRITTEN |= dict.fromkeys((INCREMENTS, "checkpoint", BEST), "folder")


@pytest.mark.parametrize("name", WRITTEN)
def test_a_name_that_the_run_writes_to_is_taken(workplace: Path, name: str) -> None:
    shutil.copytree(SOURCE, workplace / "run")
    (workplace / "run" / SUMMARY).unlink()
    path = workplace / "run" / name
    if WRITTEN[name] == "file":
        path.unlink(missing_ok=True)
        path.mkdir()
    else:
        shutil.rmtree(path, ignore_errors=True)
        path.write_text("mine")
    before = contents(workplace / "run")
    done = CliRunner().invoke(app, ["resume", "run", "--quiet"], env={"COLUMNS": "120"})
    assert done.exit_code == 2 and f"run/{name}" in done.output, done.output
    assert contents(workplace / "run") == before


PRESETS = [parse_toml(text) for text in presets().values()]
KEYS = sorted({key for forms in SECTIONS.values() for form in forms.all.values() for key in form.model_fields})


def check_configuration(draw: Any) -> None:
    table = deepcopy(draw(st.sampled_from(PRESETS)))
    for _ in range(draw(st.integers(1, 3))):
        name, value = draw(st.sampled_from([*SECTIONS, "seed", "rounds", "zz"])), draw(st.sampled_from(VALUES))
        section = table.setdefault(name, {})
        if isinstance(section, dict) and draw(st.integers(0, 4)):
            section[draw(st.sampled_from([*KEYS, "zz", "", "\x1b[2J", "k" * 5000]))] = deepcopy(value)
        else:
            table[name] = deepcopy(value)
    try:
        config = parse(table)
    except ConfigError as error:
        assert all(len(problem) < 800 for problem in error.problems)
        assert "\x1b" not in str(error)
    except FedloruError as error:
        assert len(str(error)) < 2000
    else:
        assert parse(dump(config)) == config


@settings(max_examples=250, **QUIET)
@given(st.data())
def test_random_configurations(data: st.DataObject) -> None:
    check_configuration(data.draw)


@pytest.mark.slow
@settings(max_examples=10_000, **QUIET)
@given(st.data())
def test_many_random_configurations(data: st.DataObject) -> None:
    check_configuration(data.draw)


def test_an_integer_that_toml_cannot_represent_is_refused(tmp_path: Path) -> None:
    for text in ("seed = 0x" + "f" * 17, "seed = 0x" + "f" * 6000, "seed = " + "9" * 6000):
        (tmp_path / "c.toml").write_text(text)
        done = CliRunner().invoke(app, ["config", str(tmp_path / "c.toml")])
        assert done.exit_code == 2 and len(done.output) < 500, done.output


@pytest.mark.skipif(os.name != "posix", reason="needs the pipes of POSIX")
@pytest.mark.parametrize("name", FILES)
def test_a_pipe_in_place_of_a_file_does_not_hang(workplace: Path, name: str) -> None:
    shutil.copytree(SOURCE, workplace / "run")
    (workplace / "run" / name).unlink()
    os.mkfifo(workplace / "run" / name)
    for command in ("report", "export"):
        done = CliRunner().invoke(app, COMMANDS[command])
        assert done.exit_code in (0, 2), done.output
