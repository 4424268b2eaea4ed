"""Texts in a configuration: what goes together, and what does not."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedloru.config import dump, parse
from fedloru.errors import ConfigError

TEXTS: dict[str, Any] = {"source": "text", "path": "qa.jsonl"}
MODEL = {"name": "hf:models/tiny"}


def test_texts_are_a_configuration_that_is_read_back() -> None:
    data = TEXTS | {"kind": "plain", "text": "speech", "pack": True, "columns": ["who"], "max_length": 128}
    table = {"data": data, "model": MODEL, "partition": {"scheme": "natural", "key": "who"}, "client": {"bucket": True}}
    config = parse(table)
    assert parse(dump(config)) == config


@pytest.mark.parametrize(
    ("data", "more", "told"),
    [
        ({}, {"model": {"name": "cnn"}}, "model.name = 'cnn' reads no texts: set model.name = 'hf:FOLDER'"),
        ({"kind": "chat"}, {}, "data.kind is 'chat', expected 'instruct', 'classify' or 'plain'"),
        ({"max_length": 1}, {}, "data.max_length is 1, expected a whole number from 2"),
        ({"kind": "plain", "response": "a"}, {}, "data.response is set, but data.kind = 'plain' does not use it"),
        ({"label": "a"}, {}, "leave it out, or take 'classify'"),
        ({"text": "a"}, {}, "leave it out, or take 'classify' or 'plain'"),
        ({"template": "{q}", "prompt": "q"}, {}, "data.prompt is set, but data.template is your own"),
        ({"kind": "classify", "pack": True}, {}, "data.pack is true, but data.kind = 'classify'"),
        ({"kind": "classify", "labels": ["a", "b", "a"]}, {}, "data.labels names 'a' more than once"),
        ({"kind": "classify"}, {"eval": {"generations": 2}}, "only models of instructions and plain texts write"),
        ({}, {"eval": {"max_new_tokens": 9}}, "eval.max_new_tokens is 9, but nothing is written"),
        ({}, {"client": {"crop": 2}}, "client.crop and client.flip change images"),
    ],
)
def test_what_cannot_be_together_is_told(data: dict[str, Any], more: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"data": TEXTS | data, "model": MODEL} | more)
    (problem,) = caught.value.problems
    assert told in problem


def test_images_are_not_read_by_language_models_nor_sorted_by_length() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"model": MODEL, "client": {"bucket": True}})
    first, second = caught.value.problems
    assert "data.source = 'mnist5k' has no texts" in first and "client.bucket sorts texts by length" in second


def test_the_configurations_on_the_page_are_valid() -> None:
    page = (Path(__file__).parents[2] / "docs" / "texts.md").read_text()
    kinds = [parse(tomllib.loads(block)).data for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL)]
    assert [getattr(data, "kind", None) for data in kinds] == ["instruct", "plain"]
