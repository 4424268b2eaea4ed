"""All problems of a configuration are reported at once."""

from __future__ import annotations

import math
from typing import Any

import pytest

from fedloru.config import dump, parse
from fedloru.errors import ConfigError

PLAIN_SGD = {"momentum": 0.0, "schedule": "constant"}


def problems(table: dict[str, Any]) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        parse(table, "my.toml")
    return caught.value.problems


def test_an_empty_table_is_a_complete_configuration() -> None:
    config = parse({})
    assert (config.rounds, config.method.name, config.client.lr) == (50, "fedloru", None)


def test_all_problems_are_reported_at_once() -> None:
    table = {
        "ronds": 3,
        "client": {"lr": "fast", "epochs": 0, "learning": 1},
        "lowrank": {"rank": 0},
        "method": {"name": "fedlorru"},
        "cohort": {"size": 21},
    }
    found = problems(table)
    assert len(found) == 7
    with pytest.raises(ConfigError, match=r"my\.toml has 7 problems"):
        parse(table, "my.toml")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"client": {"lr": "fast"}}, "client.lr is 'fast', expected a number >= 0"),
        ({"client": {"lr": math.nan}}, "client.lr is nan, expected a number >= 0"),
        ({"client": {"epochs": 1.5}}, "client.epochs is 1.5, expected an integer >= 1"),
        ({"client": {"epochs": True}}, "client.epochs is true, expected an integer >= 1"),
        ({"client": {"betas": [0.9]}}, "client.betas is [0.9], expected two numbers in [0, 1)"),
        ({"client": {"optimizer": "lion"}}, "client.optimizer is 'lion', expected 'sgd', 'adam' or 'adamw'"),
        ({"client": 3}, "client is 3, expected a table of settings, [client]"),
        ({"rounds": "10"}, "rounds is '10', expected an integer >= 1"),
        ({"rounds": {}}, "rounds is {}, expected an integer >= 1"),
        ({"lowrank": {"targets": "fc1"}}, "lowrank.targets is 'fc1', expected a list of strings"),
        ({"lowrank": {"targets": ["fc1", 3]}}, "lowrank.targets is ['fc1', 3], expected a list of strings"),
        ({"lowrank": {"rank": 0}}, "lowrank.rank is 0, expected an integer >= 1"),
        ({"lowrank": {"ranks": {"fc*": 0}}}, "lowrank.ranks is {'fc*': 0}, expected a table from globs to"),
        ({"lowrank": {"dropout": 1}}, "lowrank.dropout is 1, expected a number in [0, 1)"),
        ({"method": {"tau": 0}}, "method.tau is 0, expected an integer >= 1, a list of integers >= 1, or inf"),
        ({"method": {"tau": []}}, "method.tau is [], expected an integer >= 1, a list"),
        ({"method": {"tau": 2.5}}, "method.tau is 2.5, expected an integer >= 1, a list"),
        ({"method": {"tau": [True]}}, "method.tau is [True], expected an integer >= 1, a list"),
        ({"method": {"name": ["fedavg"]}}, "method.name is ['fedavg'], expected 'fedloru', 'fedavg', 'fedlora'"),
        ({"method": {"name": "fedlorru"}}, "did you mean 'fedloru'?"),
        ({"model": {"name": "python:mine"}}, "model.name is 'python:mine', expected 'cnn', 'mlp'"),
        ({"model": {"name": "resnet"}}, "expected 'cnn', 'mlp', 'resnet8', 'resnet10' or 'resnet18' (or python:"),
        ({"wire": {"round_trip": 1}}, "wire.round_trip is 1, expected true or false"),
        ({"data": {"test_fraction": 1}}, "data.test_fraction is 1, expected a number in (0, 1)"),
        ({"data": {"source": "npz"}}, "data.path is missing: data.source = 'npz' requires it, expected a string"),
        (
            {"partition": {"scheme": "dirichlet"}},
            "partition.alpha is missing: partition.scheme = 'dirichlet' requires it",
        ),
        ({"partition": {"scheme": "shards"}}, "partition.classes_per_client is missing"),
        ({"partition": {"scheme": "natural"}}, "partition.key is missing"),
    ],
)
def test_a_wrong_value_is_reported_with_what_is_expected(table: dict[str, Any], message: str) -> None:
    (found,) = problems(table)
    assert message in found


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"ronds": 3}, "ronds is not a setting; did you mean 'rounds'?"),
        ({"clints": {"lr": 1}}, "clints is not a setting; did you mean 'client'?"),
        ({"tau": 3}, "tau is not a setting; did you mean 'method.tau'?"),
        ({"clients": 3}, "clients is not a setting; did you mean 'partition.clients'"),
        ({"lr": 3}, "lr is not a setting; did you mean 'server.lr' or 'client.lr'?"),
        ({"client": {"lrr": 3}}, "client.lrr is not a setting; did you mean 'client.lr'?"),
        ({"client": {"rank": 3}}, "client.rank is not a setting; did you mean 'lowrank.rank'?"),
        ({"eval": {"qqq": 3}}, "eval.qqq is not a setting; [eval] has every"),
        ({"qqq": 3}, "qqq is not a setting; the top level has rounds, seed, data"),
        (
            {"method": {"name": "fedavg", "tau": 3}},
            "method.tau is set, but only method.name = 'fedloru', 'pfedloru' or 'mfedloru' has this setting: remove it",
        ),
        ({"server": {"lr": 1.0}}, "server.lr is set, but only server.rule = 'momentum', 'adagrad', 'adam' or 'yogi'"),
        (
            {"data": {"path": "x"}},
            "data.path is set, but only data.source = 'parquet', 'folder', 'npz', 'table', 'csv', 'hub' or 'text'",
        ),
        (
            {"partition": {"alpha": 1.0}},
            "partition.alpha is set, but only partition.scheme = 'dirichlet' has this setting",
        ),
        ({"model": {"hidden": [3]}}, "model.hidden is set, but only model.name = 'mlp' has this setting"),
    ],
)
def test_an_unknown_key_names_the_nearest(table: dict[str, Any], message: str) -> None:
    (found,) = problems(table)
    assert message in found


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"cohort": {"size": 21}}, "cohort.size is 21, but partition.clients is 20"),
        (
            {"method": {"scaffold": True}, "client": {"schedule": "constant"}},
            "client.momentum is 0.9, but scaffold reads",
        ),
        (
            {"method": {"scaffold": True}, "client": {"momentum": 0.0}},
            "set client.schedule = 'constant', or remove scaffold",
        ),
        (
            {"method": {"scaffold": True}, "client": PLAIN_SGD, "lowrank": {"capacities": {"2": 0.5}}},
            "requires one rank on all clients",
        ),
        ({"method": {"name": "pfedloru", "scaffold": True}, "client": PLAIN_SGD}, "pfedloru trains in several phases"),
        ({"method": {"recipe": "alternating", "accumulate": "exact"}}, "the recipe 'alternating' has no such setting"),
        ({"method": {"recipe": "paper", "local": "dense"}}, "method.recipe = 'paper' does not use it"),
        ({"method": {"recipe": "paper", "accumulate_rank": 4}}, "accumulate_rank truncates an exact increment"),
        ({"method": {"recipe": "paper", "accumulate": "exact"}, "server": {"rule": "adam"}}, "or rule 'none'"),
        ({"client": {"optimizer": "adam", "momentum": 0.8}}, "client.optimizer = 'adam' does not use it"),
        ({"client": {"decay": 0.5}}, "remove it, or set client.schedule = 'step'"),
        ({"server": {"rule": "momentum", "beta2": 0.5}}, "server.rule = 'momentum' does not use it"),
        ({"partition": {"scheme": "natural", "key": "who"}}, "data.source = 'mnist5k' has no columns"),
    ],
)
def test_settings_that_cannot_be_together_are_reported(table: dict[str, Any], message: str) -> None:
    (found,) = problems(table)
    assert message in found


def test_contradictions_are_reported_with_other_problems() -> None:
    found = problems({"cohort": {"size": 21}, "client": {"lr": "fast"}})
    assert len(found) == 2


def test_one_problem_does_not_hide_or_invent_another() -> None:
    assert len(problems({"cohort": {"size": 15}, "partition": {"clients": "x"}})) == 1


def test_a_long_value_is_cut() -> None:
    (found,) = problems({"rounds": "x" * 1000})
    assert len(found) < 200


def test_a_custom_model_that_is_missing_takes_any_setting() -> None:
    config = parse({"model": {"name": "python:my.models:wide", "depth": 3, "act": "relu"}})
    assert config.model.model_dump(exclude={"name", "seed", "loss"}) == {"depth": 3, "act": "relu"}


@pytest.mark.parametrize("columns", [[], ["where"], ["who", "where"]])
def test_the_column_that_defines_clients_is_kept(columns: list[str]) -> None:
    table = {"source": "npz", "path": "x", "columns": columns}
    config = parse({"data": table, "partition": {"scheme": "natural", "key": "who"}})
    assert config.data.columns == (columns if "who" in columns else [*columns, "who"])
    assert parse(dump(config)) == config


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ({}, "adamw"),
        ({"lr": 0.1}, "adamw"),
        ({"momentum": 0.9}, "sgd"),
        ({"optimizer": "sgd"}, "sgd"),
    ],
)
def test_language_models_are_trained_with_adamw_by_default(client: dict[str, Any], expected: str) -> None:
    texts = {"data": {"source": "text", "path": "texts.jsonl"}, "model": {"name": "hf:folder"}}
    assert parse({**texts, "client": client}).client.optimizer == expected
    assert parse({"client": client}).client.optimizer == "sgd"


def test_settings_of_adamw_are_accepted_for_language_models_without_naming_it() -> None:
    texts = {"data": {"source": "text", "path": "texts.jsonl"}, "model": {"name": "hf:folder"}}
    assert parse({**texts, "client": {"betas": [0.9, 0.95]}}).client.optimizer == "adamw"


@pytest.mark.parametrize(
    ("table", "recipe"),
    [
        ({}, "alternating"),
        ({"tau": 3}, "alternating"),
        ({"reset": "keep"}, "paper"),
        ({"tau": 2, "reset": "fresh", "base": "model", "init": "a", "accumulate": "factors"}, "paper"),  # an old run
        ({"recipe": "alternating", "reset": "fresh"}, "alternating"),
    ],
)
def test_settings_of_the_published_recipe_select_it(table: dict[str, Any], recipe: str) -> None:
    assert parse({"method": table}).method.recipe == recipe
