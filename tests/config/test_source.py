"""Configurations are loaded from files, presets and overrides, and written as complete TOML."""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloru.config import dump, load, parse, presets, stored, text
from fedloru.errors import ConfigError

CHOICES = {
    "seed": ["0", "7"],
    "method.name": ["fedloru", "fedlora", "fedavg"],
    "server.rule": ["none", "yogi", "momentum"],
    "partition.scheme": ["iid", "dirichlet"],
    "partition.seed": ["3"],
    "partition.min_examples": ["2"],
    "model.name": ["mlp", "cnn", "resnet10", "python:my.module:build"],
    "model.seed": ["5"],
    "data.source": ["digits", "synthetic"],
    "lowrank.alpha": ["3", "0.5"],
    "lowrank.ranks.'layer1.*'": ["2"],
    "method.prox": ["0.1"],
    "client.lr": ["1", "1e-3"],
    "client.steps": ["4"],
    "wire.codec": ["bf16"],
    "engine.chunk": ["3"],
}


@settings(max_examples=60, deadline=None)
@given(st.fixed_dictionaries({}, optional={key: st.sampled_from(values) for key, values in CHOICES.items()}))
def test_the_text_of_a_configuration_is_parsed_to_an_equal_one(chosen: dict[str, str]) -> None:
    if chosen.get("model.name", "").startswith("python:"):
        chosen["model.depth"] = "3"
    config = load("small", [f"{key}={value}" for key, value in chosen.items()])
    assert parse(tomllib.loads(text(config))) == config


def test_the_text_is_complete_and_has_no_none() -> None:
    table = dump(load("demo"))
    assert table["client"]["weight_decay"] == 0.0
    assert table["output"] == {"dir": "runs/demo", "checkpoint_every": 10}
    assert "alpha" not in dump(load("small"))["lowrank"]
    assert next(iter(table["method"])) == "name"


def test_infinity_is_preserved() -> None:
    config = load("demo", ["method.tau=inf"])
    assert math.isinf(parse(tomllib.loads(text(config))).method.tau)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("method.tau=5", 5),
        ("method.tau=inf", math.inf),
        ("method.tau=[3, 9]", [3, 9]),
        ("method.tau = 7", 7),
    ],
)
def test_an_override_is_read_as_toml(override: str, value: object) -> None:
    assert load("demo", [override]).method.tau == value  # type: ignore[union-attr]


def test_what_is_not_toml_is_a_string() -> None:
    config = load("demo", ["client.optimizer=adam", "client.momentum=0", "output.dir=runs/my run", "data.seed=1"])
    assert (config.client.optimizer, config.output.dir) == ("adam", "runs/my run")


def test_lists_and_tables_can_be_overridden() -> None:
    config = load("demo", ["lowrank.targets=['conv2','fc1']", "lowrank.ranks={fc1 = 4}", "lowrank.ranks.'conv*'=2"])
    assert config.lowrank.targets == ["conv2", "fc1"]
    assert config.lowrank.ranks == {"fc1": 4, "conv*": 2}


@pytest.mark.parametrize("override", ["rounds", "=3", "a b=3", ""])
def test_a_malformed_override_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="is not of the form key=value"):
        load("demo", [override])


def test_another_method_drops_the_settings_of_the_old_one() -> None:
    left = load("demo", ["method.name=fedavg"]).method.model_dump(exclude_none=True)
    assert left == {"name": "fedavg", "scaffold": False, "wrap": []}
    with pytest.raises(ConfigError, match=r"only method\.name = 'fedloru', .* has this setting"):
        load("demo", ["method.name=fedavg", "method.tau=3"])


def test_another_scheme_drops_the_settings_of_the_old_one() -> None:
    assert load("small", ["partition.scheme=iid"]).partition.model_dump(exclude_none=True) == {
        "scheme": "iid",
        "clients": 10,
        "min_examples": 1,
        "test_fraction": 0.0,
    }


def test_another_optimizer_drops_the_settings_of_the_old_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[client]\nlr = 0.3\nmomentum = 0.5\n")
    assert load(path, ["client.optimizer=sgd"]).client.momentum == 0.5
    changed = load(path, ["client.optimizer=adam"]).client
    assert (changed.momentum, changed.lr) == (0.9, None)
    assert caplog.messages == ["client.lr = 0.3 is not used, since client.optimizer was changed"]
    assert load(path, ["client.optimizer=adam", "client.lr=0.2"]).client.lr == 0.2
    with pytest.raises(ConfigError, match=r"client\.momentum is 0\.5, but client\.optimizer = 'adam'"):
        load(path, ["client.optimizer=adam", "client.momentum=0.5"])


def test_what_an_old_run_folder_does_not_record_has_the_defaults_of_then() -> None:
    table = {"lowrank": {"rank": 4, "ranks": {"fc2": 2, "fc3": 3}, "alphas": {"fc3": 9.0}}, "client": {"lr": 0.1}}
    config = stored(table, "config.toml")
    assert config.client.clip == 0.0 and config.lowrank.alpha == 4.0
    assert config.lowrank.alphas == {"fc2": 2.0, "fc3": 9.0}
    now = stored({"lowrank": {"alpha": 8.0}, "client": {"clip": 1.0}}, "config.toml")
    assert (now.client.clip, now.lowrank.alpha, now.lowrank.alphas) == (1.0, 8.0, None)


def test_a_file_with_a_key_of_another_method_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("[method]\nname = 'fedavg'\ntau = 3\n")
    with pytest.raises(ConfigError, match=r"method\.tau is set, but"):
        load(path)


def test_the_folder_of_a_run_is_named_after_its_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("rounds = 3\n")
    assert load(path).output.dir == "runs/mine"
    path.write_text("[output]\ndir = 'elsewhere'\n")
    assert load(path).output.dir == "elsewhere"


def test_broken_toml_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text("rounds = 3\n[client\nlr = 1\n")
    with pytest.raises(ConfigError, match=r"not valid TOML: .*line 2"):
        load(path)


@pytest.mark.parametrize("data", [b"\xff\xfe\x00", b"name = '\xff'"])
def test_a_binary_file_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "my.toml"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"not valid TOML|not UTF-8 text"):
        load(path)


def test_a_file_that_is_not_there_names_the_nearest_preset() -> None:
    with pytest.raises(
        ConfigError,
        match=r"no such preset; did you mean 'demo'\? There are: demo, digits, dolly, field-cifar10, paper-",
    ):
        load("dem")


def test_a_folder_is_not_a_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is not a regular file"):
        load(tmp_path)


TEXTS = ["data.path=x", "model.name=hf:y"]
IMAGES = ("field-cifar10", "paper-cifar10", "paper-cifar100", "paper-fashion")
OPEN = {**{name: ["data.path=x"] for name in IMAGES}, "dolly": TEXTS, "sst2": TEXTS, "stories": TEXTS}
"""The settings that presets require."""


def test_every_preset_is_valid_and_starts_with_a_description_and_its_time() -> None:
    for name, toml in presets().items():
        assert toml.startswith("# ")
        assert re.search(r"\b(seconds|minutes?)\b", toml.partition("rounds = ")[0]), name
        assert load(name, OPEN.get(name, [])).rounds > 0
