"""The configuration offers what the library takes, with the same defaults: nothing more, nothing less."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any, get_type_hints

import pytest

from fedloru.config import SECTIONS
from fedloru.config.checks import USED_BY_KIND
from fedloru.config.fields import Section, expected
from fedloru.config.schema import Client, LowRank
from fedloru.data import SCHEMES, SOURCES, load
from fedloru.hf.encode import Classify, Instruct, Plain
from fedloru.hf.text import load as load_texts
from fedloru.kinds import spoken
from fedloru.methods import METHODS, server_opt
from fedloru.models import MODELS
from fedloru.net import attach
from fedloru.recipe import Recipe
from fedloru.wire import CODECS

FROM_DATA = {"channels", "classes", "size", "in_features"}


def compare(form: type[Section], function: Callable[..., Any], *, beside: set[str] = frozenset()) -> None:  # type: ignore[assignment]
    fields = {name: field for name, field in form.model_fields.items() if name not in beside}
    taken = {name: p for name, p in signature(function).parameters.items() if name not in beside}
    assert fields.keys() == taken.keys()
    for name, parameter in taken.items():
        assert fields[name].is_required() == (parameter.default is Parameter.empty), name
        if not fields[name].is_required():
            assert plain(fields[name].default) == plain(parameter.default), name


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value or None if isinstance(value, dict) else value


@pytest.mark.parametrize("name", METHODS)
def test_methods(name: str) -> None:
    form = SECTIONS["method"].by_name[name]
    compare(form, METHODS[name], beside={"name", "prox", "clip", "scaffold"})


@pytest.mark.parametrize("name", SCHEMES)
def test_partition_schemes(name: str) -> None:
    compare(SECTIONS["partition"].by_name[name], SCHEMES[name], beside={"scheme", "dataset", "clients", "seed"})


@pytest.mark.parametrize("name", MODELS)
def test_models(name: str) -> None:
    compare(SECTIONS["model"].by_name[name], MODELS[name], beside={"name", "seed"} | FROM_DATA)


def test_server_rules() -> None:
    compare(SECTIONS["server"].by_name["adam"], server_opt, beside={"method"})


def test_low_rank() -> None:
    compare(LowRank, attach, beside={"model", "losses", "inputs", "targets", "dense", "capacities"})


def test_recipe() -> None:
    """The same settings, of the same kinds, with the same defaults."""
    kinds = get_type_hints(Recipe, include_extras=True)
    assert {name: field.default for name, field in Client.model_fields.items()} == Recipe._field_defaults
    assert {name: expected(field) for name, field in Client.model_fields.items()} == {
        name: spoken(kind) for name, kind in kinds.items()
    }


def test_texts() -> None:
    form, kinds = SECTIONS["data"].by_name["text"], (Instruct, Classify, Plain)
    of_kinds = {name for kind in kinds for name in kind._fields}
    compare(form, load_texts, beside={"source", "kind", "tokenizer", "positions"} | of_kinds)
    for kind in kinds:
        compare(form, kind, beside=form.model_fields.keys() - set(kind._fields))
        assert USED_BY_KIND[kind.__name__.lower()] == set(kind._fields)


def test_names() -> None:
    assert SECTIONS["data"].by_name.keys() == SOURCES.keys() | {"text"}
    assert SECTIONS["partition"].by_name.keys() == SCHEMES.keys()
    assert SECTIONS["method"].by_name.keys() == METHODS.keys()
    assert SECTIONS["model"].by_name.keys() - {"python:", "hf:"} == MODELS.keys()
    assert all(codec in str(SECTIONS["wire"].by_name[""].model_fields["codec"].annotation) for codec in CODECS)
    assert signature(load).parameters["test_fraction"].default == 0.2
