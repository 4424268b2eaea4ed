"""Wherever a configuration takes a name, ``python:package.module:function`` takes its place."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import fedloru as fl
from fedloru.cli import app
from fedloru.settings import short

OWN = '''
import torch
from torch import nn

import fedloru as fl
from fedloru.engine import Setup
from fedloru.engine.sequential import sequential
from fedloru.settings.types import Count, Positive
from fedloru.wire import Codec

calls = []


def undeclared(*, slowness: Positive = 2.0):
    """FedLoRA, by a function without a declaration."""
    return fl.fedlora()


def failing():
    raise RuntimeError("not today")


def nothing(*args, **settings):
    return None


def shrink(inner, *, factor: Positive):
    """Scale what clients send."""
    def up(net, train, down, client_state, steps):
        sent, state = inner.up(net, train, down, client_state, steps)
        calls.append(factor)
        return sent._replace(shared={key: factor * value for key, value in sent.shared.items()}), state

    return inner._replace(up=up)


def odd():
    """FedLoRA, whose server fails in the second round."""
    method = fl.fedlora()

    def server(net, state, total):
        if state.round:
            raise KeyError("fc9")
        return method.server(net, state, total)

    return method._replace(server=server)


def stopping(setup: Setup):
    def run(task):
        raise RuntimeError("out of luck")

    return run


def half():
    return Codec(torch.bfloat16)


def backwards(setup: Setup):
    run = sequential(setup.net, setup.method, setup.data)
    return lambda task: run(task._replace(jobs=task.jobs[::-1]))


def wide(classes, in_features, *, width: Count = 8, act: str = "relu"):
    """Return a perceptron.

    Args:
        width: its hidden features.
    """
    layers = {"relu": nn.ReLU, "tanh": nn.Tanh}
    return nn.Sequential(nn.Flatten(), nn.Linear(in_features, width), layers[act](), nn.Linear(width, classes))
'''


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "ownparts.py").write_text(OWN, encoding="utf-8")
    (tmp_path / "broken_module.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("ownparts", None)


def cli(*settings: str, code: int = 0) -> Result:
    changes = [part for setting in settings for part in ("-s", setting)]
    result = CliRunner().invoke(app, ["run", "small", "-s", "rounds=2", *changes, "-q", "--out", "run"])
    assert result.exit_code == code and "Traceback" not in result.output, result.output
    return result


def summary() -> dict[str, object]:
    return dict(json.loads(Path("run/summary.json").read_text(encoding="utf-8")))


def test_a_method_without_a_declaration() -> None:
    cli("method.name=python:ownparts:undeclared", "method.slowness=3.0")
    assert summary()["method"] == "python:ownparts:undeclared"
    method = fl.config.plan(fl.config.load("run/config.toml")).method
    assert (method.name, method.config) == ("python:ownparts:undeclared", {"slowness": 3.0})
    assert fl.methods.rebuild(method.name, method.config).config == method.config


def test_a_wrapper_in_the_list_of_wrappers() -> None:
    entry = {"name": "python:ownparts:shrink", "factor": 0.5}
    toml = "method.wrap = [{name = 'prox', mu = 0.1}, {name = 'python:ownparts:shrink', factor = 0.5}]"
    cli(toml)
    assert sys.modules["ownparts"].calls == [0.5] * 10
    method = fl.config.plan(fl.config.load("run/config.toml")).method
    assert method.config["wrap"] == [{"name": "prox", "mu": 0.1}, entry]
    assert fl.methods.rebuild(method.name, method.config).config == method.config


def test_a_codec_determines_the_bytes() -> None:
    sent = []
    for codec in ("fp32", "python:ownparts:half"):
        cli(f"wire.codec={codec}")
        sent.append(summary()["bytes"]["up"]["factors"])  # type: ignore[index]
        plan = fl.config.plan(fl.config.load("run/config.toml"))
        cohorts = [json.loads(line)["cohort"] for line in Path("run/rounds.jsonl").read_text("utf-8").splitlines()]
        formula = fl.wire.cost(plan.net, plan.method, cohorts, codec=codec)
        assert sum(each.up["factors"] for each in formula) == sent[-1]
        Path("run").rename(f"run-{len(sent)}")
    assert sent[0] == 2 * sent[1]


def test_an_engine_runs_and_is_recorded_by_its_short_name() -> None:
    cli("engine.name=python:ownparts:backwards")
    assert summary()["engine"] == "backwards"
    assert 'name = "python:ownparts:backwards"' in Path("run/config.toml").read_text(encoding="utf-8")


def test_a_model_has_the_settings_of_its_signature() -> None:
    cli("model.name=python:ownparts:wide", "model.width=5", "model.act=tanh", "lowrank.targets=['1']")
    plan = fl.config.plan(fl.config.load("run/config.toml"))
    assert plan.net.params["1.weight"].shape == (5, 64)


@pytest.mark.parametrize(
    ("setting", "problem"),
    [
        ("method.name=python:nowhere:f", "the module nowhere cannot be imported"),
        ("method.name=python:ownparts:f", "the module ownparts has no function f"),
        ("method.name=python:ownparts", "'hetlora' (or python:package.module:function)"),
        ("method.name=python:broken_module:f", "the module broken_module fails on import (ZeroDivisionError: "),
        ("method.name=python:ownparts:failing", "failed: RuntimeError: not today"),
        ("method.name=python:ownparts:nothing", "it returned NoneType, not a fedloru.Method"),
        ("method.wrap=[{name='python:ownparts:f'}]", "the module ownparts has no function f"),
        (
            "method.wrap=[{name='python:ownparts:shrink', factor=1.0, factr=1.0}]",
            "there is no setting 'factr'; did you mean 'fac",
        ),
        ("method.wrap=[{name='python:ownparts:shrink', factor=0.0}]", "factor is 0.0, expected a number > 0"),
        ("method.wrap=[{name='python:ownparts:shrink'}]", "factor is missing, expected a number > 0"),
        ("method.wrap=[{name='prox'}]", "mu is missing, expected a number >= 0"),
        ("method.wrap=[{name='python:ownparts:nothing'}]", "it returned NoneType, not a fedloru.Method"),
        ("model.name=python:nowhere:f", "the module nowhere cannot be imported"),
        ("wire.codec=python:nowhere:f", "the module nowhere cannot be imported"),
        ("wire.codec=python:ownparts:nothing", "returned NoneType, not a fedloru.wire.Codec"),
        ("wire.codec=python:ownparts:failing", "failed: RuntimeError: not today"),
        ("engine.name=python:nowhere:f", "the module nowhere cannot be imported"),
        ("engine.name=python:ownparts:nothing", "it returned NoneType, not an engine"),
        ("engine.name=python:ownparts:failing", "failed: "),
    ],
)
def test_a_wrong_reference_is_reported_before_there_is_a_folder(setting: str, problem: str) -> None:
    output = cli(setting, code=2).output
    assert problem in output and output.startswith("Error: ") and len(output.splitlines()) <= 2, output
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (("method.name=python:ownparts:undeclared", "method.slownes=1.0"), "did you mean 'method.slowness'"),
        (("method.name=python:ownparts:undeclared", "method.slowness=-1"), "expected a number > 0"),
        (("model.name=python:ownparts:wide", "model.widht=3"), "did you mean 'model.width'"),
        (("model.name=python:ownparts:wide", "model.width=0"), "model.width is 0, expected an integer >= 1"),
        (("model.name=python:ownparts:wide", "model.act=3"), "model.act is 3, expected a string"),
    ],
)
def test_a_wrong_setting_is_reported_by_the_signature(settings: tuple[str, ...], problem: str) -> None:
    output = cli(*settings, code=2).output
    assert problem in output and len(output.splitlines()) == 2, output


def test_the_short_name_is_that_of_the_function() -> None:
    assert short("python:package.module:function") == "function" and short("fedloru") == "fedloru"


def test_labels_are_whole_if_short_names_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "otherparts.py").write_text(OWN, encoding="utf-8")
    for count, module in enumerate(("ownparts", "otherparts"), 1):
        cli(f"method.name=python:{module}:undeclared")
        Path("run").rename(f"run-{count}")
    output = CliRunner().invoke(app, ["compare", "run-1", "run-2"], env={"COLUMNS": "120"}).stdout
    assert "python:ownparts:undeclared" in output and "python:otherparts:undeclared" in output
    sys.modules.pop("otherparts")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("method.name=python:ownparts:odd", "Error: round 2: python:ownparts:odd failed: KeyError: 'fc9' ("),
        ("engine.name=python:ownparts:stopping", "Error: round 1: python:ownparts:stopping failed: RuntimeError: out"),
    ],
)
def test_an_exception_during_a_round_is_one_sentence(setting: str, message: str, tmp_path: Path) -> None:
    arguments = ["run", "small", "-s", setting, "--out", "stopped", "--quiet"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})
    assert result.exit_code == 2 and result.stderr.startswith(message), result.output
    assert f"{tmp_path / 'ownparts.py'}, line " in result.stderr and "Traceback" not in result.output
