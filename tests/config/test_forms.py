"""The sections of a configuration are derived from the declarations of what they set up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from torch import nn

from fedloru.config import SECTIONS, Top, parse
from fedloru.config.derive import Forms, forms_of
from fedloru.config.fields import Section, expected
from fedloru.errors import ConfigError
from fedloru.methods import METHODS, WRAPPERS, wrapper_declaration
from fedloru.models import FROM_DATA, MODELS
from fedloru.recipe import Recipe
from fedloru.run.plan import keyed_settings
from fedloru.settings import REQUIRED, Setting, Table, settings_of


class Unknown:
    """A type that no setting has."""


def custom_model(classes: int, depth: int = 3, act: str = "relu", hook: Any = nn.ReLU) -> nn.Module:
    """Return a model.

    Args:
        depth: the number of layers.
    """
    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))


def with_unknown(*, odd: Unknown | None = None, size: int = 3) -> None:
    """Return nothing.

    Args:
        odd: a setting of a type without a phrase.
        size: a number.
    """


def assert_derived(form: type[Section], declared: Mapping[str, Setting]) -> None:
    for name, setting in declared.items():
        field = form.model_fields[name]
        assert field.description == setting.help
        assert expected(field) == setting.expected
        assert field.is_required() == (setting.default is REQUIRED)
        if not field.is_required():
            assert plain(field.default) == plain(setting.default)


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize("name", METHODS)
def test_methods_have_their_settings_and_the_wrappers(name: str) -> None:
    form, declared = SECTIONS["method"].by_name[name], settings_of(METHODS[name])
    inside = {wrapper for wrapper in WRAPPERS if wrapper_declaration(WRAPPERS[wrapper]).section == "method"}
    assert form.model_fields.keys() == {"name", "wrap"} | inside | declared.keys()
    assert_derived(form, declared)


@pytest.mark.parametrize("name", MODELS)
def test_models_have_their_settings(name: str) -> None:
    form, declared = SECTIONS["model"].by_name[name], settings_of(MODELS[name], skip=frozenset({*FROM_DATA, "seed"}))
    assert form.model_fields.keys() == {"name", "seed", "loss"} | declared.keys()
    assert_derived(form, declared)


def test_wrappers_with_a_section_have_their_settings() -> None:
    sections = {name: wrapper_declaration(WRAPPERS[name]).section for name in WRAPPERS}
    for name in [name for name, section in sections.items() if section != "method"]:
        declared = settings_of(WRAPPERS[name], skip=frozenset({"method"}))
        forms = SECTIONS[sections[name]]
        if wrapper_declaration(WRAPPERS[name]).inert:
            assert_derived(forms.by_name[""], declared)
            continue
        assert forms.key == next(iter(declared)) and forms.default == "none"
        for form in [form for choice, form in forms.by_name.items() if choice != "none"]:
            assert form.model_fields.keys() == declared.keys()
            assert_derived(form, {key: setting for key, setting in declared.items() if key != forms.key})


def test_settings_of_a_run_are_at_their_keys() -> None:
    for key, setting in keyed_settings().values():
        section, _, name = key.rpartition(".")
        form = SECTIONS[section].by_name[""] if section else Top
        assert_derived(form, {name: setting})


def test_local_training_has_the_settings_of_a_recipe() -> None:
    (form,) = SECTIONS["client"].by_name.values()
    assert form.model_fields.keys() == Recipe()._asdict().keys()
    assert_derived(form, settings_of(Recipe))
    assert parse({}).client.model_dump() == Recipe()._asdict()


def test_the_first_form_is_the_default() -> None:
    for forms in SECTIONS.values():
        assert next(iter(forms.by_name)) == forms.default


@pytest.mark.parametrize("section", SECTIONS)
def test_every_form_and_setting_has_help(section: str) -> None:
    for name, form in SECTIONS[section].all.items():
        assert form.__doc__, name
        for key, field in form.model_fields.items():
            assert field.description and not field.description.isspace(), f"{name}: {key}"


def forms(**entries: Any) -> Forms:
    return forms_of(Table("thing", entries), "name", Section, default=next(iter(entries)), meaning="the thing")


def test_an_unknown_annotation_is_accepted() -> None:
    form = forms(odd=with_unknown).by_name["odd"]
    assert expected(form.model_fields["odd"]) == ""
    assert form.model_validate({"name": "odd", "size": 4}).size == 4


def test_a_reference_has_the_settings_of_its_function() -> None:
    name = f"python:{__name__}:custom_model"
    model = parse({"model": {"name": name, "depth": 5}}).model
    assert model.model_dump() == {"seed": None, "loss": None, "name": name, "depth": 5, "act": "relu"}
    assert type(model).model_fields["depth"].description == "the number of layers."
    for wrong, problem in (
        ({"depth": "deep"}, "model.depth is 'deep', expected an integer"),
        ({"deph": 5}, "model.deph is not a setting; did you mean 'model.depth'"),
        ({"hook": 5}, "model.hook is not a setting"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse({"model": {"name": name, **wrong}})
        assert problem in str(caught.value)


def test_references_are_parsed_to_equal_sections() -> None:
    for name in (f"python:{__name__}:custom_model", "python:no.such.module:build"):
        assert parse({"model": {"name": name}}) == parse({"model": {"name": name}})


@pytest.mark.parametrize("name", ["python:", "python:module", "python::function", "python:module:not a name"])
def test_a_malformed_reference_is_refused(name: str) -> None:
    for section, key in (("model", "name"), ("method", "name"), ("engine", "name"), ("wire", "codec")):
        with pytest.raises(ConfigError) as caught:
            parse({section: {key: name}})
        assert f"{section}.{key} is '{name}', expected " in str(caught.value)
        assert "or python:package.module:function" in str(caught.value)


def test_a_reference_that_is_missing_takes_any_setting() -> None:
    model = parse({"model": {"name": "python:no.such.module:build", "depth": 3}}).model
    assert model.depth == 3
