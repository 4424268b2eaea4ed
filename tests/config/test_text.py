"""Configurations with texts, and settings of texts that contradict each other."""

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


def test_a_configuration_with_texts_is_preserved() -> None:
    data = TEXTS | {"kind": "plain", "text": "speech", "pack": True, "columns": ["who"], "max_length": 128}
    table = {"data": data, "model": MODEL, "partition": {"scheme": "natural", "key": "who"}, "client": {"bucket": True}}
    config = parse(table)
    assert parse(dump(config)) == config


@pytest.mark.parametrize(
    ("data", "more", "message"),
    [
        ({}, {"model": {"name": "cnn"}}, "model.name = 'cnn' takes no texts: set model.name = 'hf:FOLDER'"),
        ({"kind": "chat"}, {}, "data.kind is 'chat', expected 'instruct', 'classify' or 'plain'"),
        ({"max_length": 1}, {}, "data.max_length is 1, expected a"),
        ({"kind": "plain", "response": "a"}, {}, "data.response is 'a', but data.kind = 'plain' does not use it"),
        ({"label": "a"}, {}, "remove it, or set data.kind = 'classify'"),
        ({"text": "a"}, {}, "remove it, or set data.kind = 'classify' or 'plain'"),
        ({"template": "{q}", "prompt": "q"}, {}, "data.prompt is set, but data.template is a format string"),
        ({"kind": "classify", "pack": True}, {}, "data.pack is true, but data.kind = 'classify'"),
        ({"kind": "classify", "labels": ["a", "b", "a"]}, {}, "data.labels contains 'a' more than once"),
        ({"kind": "classify"}, {"eval": {"generations": 2}}, "only models for instructions and plain texts generate"),
        ({}, {"eval": {"max_new_tokens": 9}}, "eval.max_new_tokens is 9, but no text is generated"),
        ({}, {"client": {"crop": 2}}, "client.crop and client.flip augment images"),
    ],
)
def test_contradictions_are_reported(data: dict[str, Any], more: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"data": TEXTS | data, "model": MODEL} | more)
    (problem,) = caught.value.problems
    assert message in problem


def test_images_cannot_be_used_with_language_models_or_buckets() -> None:
    with pytest.raises(ConfigError) as caught:
        parse({"model": MODEL, "client": {"bucket": True}})
    first, second = caught.value.problems
    assert "data.source = 'mnist5k' has no texts" in first and "client.bucket sorts texts by length" in second


def test_the_configurations_on_the_page_are_valid() -> None:
    page = (Path(__file__).parents[2] / "docs" / "texts.md").read_text()
    kinds = [parse(tomllib.loads(block)).data for block in re.findall(r"```toml\n(.*?)```", page, re.DOTALL)]
    assert [getattr(data, "kind", None) for data in kinds] == ["instruct", "plain"]
