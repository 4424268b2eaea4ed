"""The page on writing a method: its file is short, obeys the laws, and works with every command.

``UPDATE_DOCS=1 pytest tests/test_writing_a_method.py`` writes the outputs of the page again.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import fedloru as fl
from fedloru.cli import app
from tests.cli.conftest import rows, same

PAGE = Path(__file__).parent.parent / "docs" / "writing-a-method.md"
QUICK = ("small", "-s", "method.name=python:mymethods:topk", "-s", "rounds=4", "-s", "method.tau=2")
FILE, CHECK, FORGOTTEN, WRAPPER, _ = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)

Cli = Callable[..., Result]


def commands() -> list[list[str]]:
    (block,) = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [shlex.split(line.removeprefix("$ fedloru ")) for line in block.splitlines()]


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Save the file of the page in an empty working directory."""
    (tmp_path / "mymethods.py").write_text(f"{FILE}\n\n{WRAPPER}", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mymethods", raising=False)
    yield
    sys.modules.pop("mymethods", None)


@pytest.fixture
def cli() -> Cli:
    def run(*args: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "100", "TERM": "dumb"})
        assert "Traceback" not in result.output and result.exit_code == code, result.output
        return result

    return run


def shown(number: int, output: str) -> None:
    """Compare an output with the block ``number`` of the page, or write it there."""
    output = "\n".join(line.rstrip() for line in output.strip("\n").splitlines())
    page = PAGE.read_text(encoding="utf-8")
    blocks = list(re.finditer(r"```text\n(.*?)\n```", page, re.DOTALL))
    if os.environ.get("UPDATE_DOCS"):
        page = page[: blocks[number].start(1)] + output + page[blocks[number].end(1) :]
        PAGE.write_text(page, encoding="utf-8")
        return
    assert blocks[number].group(1) == output


def printed(code: str, names: dict[str, object]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, names)
    return out.getvalue()


def test_the_file_is_short() -> None:
    assert len(FILE.splitlines()) < 60


def test_the_method_obeys_the_laws_and_a_forgotten_formula_is_found() -> None:
    names: dict[str, object] = {}
    shown(0, printed(CHECK, names))
    (failed,) = [line for line in printed(FORGOTTEN, names).splitlines() if line.startswith("FAILS")]
    shown(1, failed)


@pytest.mark.parametrize("settings", [{}, {"keep": 0.9}, {"accumulate": "exact"}, {"reset": "keep"}])
def test_the_method_obeys_the_laws_with_other_settings(settings: dict[str, object]) -> None:
    names: dict[str, object] = {}
    printed(CHECK, names)
    report = fl.check(names["topk"](**{"tau": 2, **settings}), names["net"])  # type: ignore[operator, arg-type]
    assert report.holds, str(report)


@pytest.mark.parametrize("codec", ["exact", "fp32", "bf16"])
def test_measured_bytes_are_the_formula_with_every_codec(cli: Cli, codec: str) -> None:
    cli("run", *QUICK, "-s", f"wire.codec={codec}", "-q", "--out", "run")
    config = fl.config.load("run/config.toml")
    plan = fl.config.plan(config)
    cohorts = [row["cohort"] for row in rows(Path("run"))]
    formula = fl.wire.cost(plan.net, plan.method, cohorts, codec=codec)
    for row, expected in zip(rows(Path("run")), formula, strict=True):
        for way, table in expected.table().items():
            assert {**row["bytes"][way], "envelope": 0} == table


def test_half_of_the_bytes_of_the_factors_are_saved(cli: Cli) -> None:
    sent = {}
    for name in ("fedloru", "python:mymethods:topk"):
        folder = f"run-{name[-4:]}"
        cli("run", *QUICK, "-s", f"method.name={name}", "-q", "--out", folder)
        up = rows(Path(folder))[-1]["bytes"]["up"]
        sent[name] = up["factors"] + up["aux"]
    assert sent["python:mymethods:topk"] == sent["fedloru"] / 2


def test_the_commands_of_the_page(cli: Cli) -> None:
    outputs = {args[0]: cli(*args) for args in commands()}
    assert list(outputs) == ["run", "cost", "methods", "compare"]
    assert "topk on digits" in outputs["run"].output
    assert 'name = "python:mymethods:topk"' in Path("runs/small/config.toml").read_text(encoding="utf-8")
    page = Path("runs/small/report.html").read_text(encoding="utf-8")
    assert '<p class="method">topk</p>' in page
    shown(2, outputs["cost"].stdout)
    (line,) = [line for line in outputs["methods"].stdout.splitlines() if line.split()[:1] == ["topk"]]
    assert "unsent" in line
    table = [line.split()[0] for line in outputs["compare"].stdout.splitlines() if line.split()[1:2] == ["0"]]
    assert table == ["FedLoRU", "topk"]
    if os.environ.get("UPDATE_DOCS"):
        shown(3, outputs["compare"].stdout.partition("ETA 0.00 s\n")[2].rpartition("ETA 0.00 s\n")[2])


def test_a_stopped_run_is_resumed(cli: Cli) -> None:
    cli("run", *QUICK, "-s", "output.checkpoint_every=1", "-q", "--out", "whole")
    config = fl.config.load("small", [*QUICK[2::2], "output.checkpoint_every=1", "output.dir=stopped"])
    generator = iter(fl.start(config))
    next(generator), next(generator)
    generator.close()  # type: ignore[attr-defined]
    cli("resume", "stopped", "-q")
    same(Path("whole"), Path("stopped"))


def test_studies_and_exports_take_the_run(cli: Cli) -> None:
    cli("run", *QUICK, "-q", "--out", "run")
    tiny = ("--top", "2", "--probes", "2", "--steps", "3", "--tolerance", "0.9")
    cli("rank", "run", "--clients", "0", *tiny)
    cli("align", "run", "--clients", "2", "--ranks", "1", "--top", "0")
    cli("report", "run")
    for format in ("merged", "peft"):
        cli("export", "run", "--format", format, "--out", format, code=0 if format == "merged" else 2)
    assert "Sequential by topk" in Path("merged/README.md").read_text(encoding="utf-8")


def test_wrappers_and_settings(cli: Cli) -> None:
    wrap = "method.wrap=[{name = 'python:mymethods:l1', weight = 1e-4}]"
    for setting in (wrap, "method.prox=0.1", "server.rule=adam", "method.accumulate=exact"):
        cli("run", *QUICK, "-s", setting, "-q", "--out", setting[:10].strip("["))
    refused = cli("run", *QUICK, "-s", "method.clip=0.001", "-q", "--out", "clipped", code=2)
    assert "clip compares what a client sends with what it received, but topk sends fc1.a in another" in refused.output


def test_settings_of_a_function_are_dropped_when_another_method_is_chosen(cli: Cli) -> None:
    Path("own.toml").write_text('[method]\nname = "python:mymethods:topk"\nkeep = 0.1\ntau = 5\n', encoding="utf-8")
    assert fl.config.load("own.toml").method.keep == 0.1
    other = fl.config.load("own.toml", ["method.name=fedloru"])
    assert other.method.tau == 5 and not hasattr(other.method, "keep")
