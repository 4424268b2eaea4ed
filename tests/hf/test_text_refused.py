"""Texts, columns and tokenizers that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedloru.errors import DataError
from fedloru.hf.encode import Classify, Instruct, Plain
from tests.hf.letters import ASK, letters, loaded, pairs, write

pytestmark = pytest.mark.hf


def test_unknown_classes_are_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "mail.parquet", {"text": ["a", "b", "c"], "label": ["spam", "ham", "egg"]})
    other = write(tmp_path / "other.parquet", {"text": ["a", "b"], "label": ["spam", "ham"]})
    with pytest.raises(DataError, match=r"not among its 2 classes: 'egg'"):
        loaded(letters(), path, Classify(labels=("spam", "ham")), test=path)
    with pytest.raises(DataError, match=r"no training example has: 'egg'"):
        loaded(letters(), other, Classify(), test=path)


BAD: dict[str, tuple[dict[str, Any], Any, dict[str, Any], str]] = {
    "no such column": ({}, ASK._replace(response="anwser"), {}, "no column 'anwser'; did you mean 'answer'"),
    "no column of the template": ({}, ASK._replace(template="{qestion}"), {}, "no column 'qestion'; did you mean"),
    "no such key": ({}, ASK, {"columns": ["speaker"]}, "no column 'speaker'"),
    "numbers": ({"answer": [1, 2]}, ASK, {}, "holds integer, expected text"),
    "empty response": (
        {"answer": ["a", " \n"]},
        ASK,
        {},
        r"1 of 2 rows have an empty 'answer' \(rows 1, from 0\), first .*row 1",
    ),
    "missing prompt": ({"question": [None, "b"]}, Instruct("question", None, "answer"), {}, "empty 'question'"),
    "empty prompt": ({"question": ["", "b"]}, ASK._replace(template="{question}"), {}, "1 of 2 rows have an empty"),
    "a template without a column": ({}, ASK._replace(template="alpacca"), {}, "names no column"),
    "an open brace": ({}, ASK._replace(template="{question"), {}, "not a valid format string"),
    "no chat template": ({}, Instruct("question", None, "answer", "chat"), {}, "has no chat template"),
    "too long for the tokenizer": ({}, ASK, {"max_length": 201}, "expected 2 to 200, the limit of the model"),
    "too long for the model": ({}, ASK, {"positions": 50}, "expected 2 to 50"),
    "too short": ({}, ASK, {"max_length": 1}, "max_length is 1"),
    "nothing fits": ({}, ASK, {"max_length": 3}, "no example has a token to predict within 3 tokens"),
    "packed classes": ({}, Classify("question", "answer"), {"pack": True}, "cannot be packed"),
    "no class": ({"answer": ["a", None]}, Classify("question", "answer"), {}, "1 of 2 rows have no 'answer'"),
    "no key": ({"who": ["a", None]}, ASK, {"columns": ["who"]}, "1 of 2 rows have no 'who'"),
    "no rows": ({"question": [], "answer": []}, ASK, {}, "has no rows"),
    "a class of fractions": ({"answer": [0.5, 1.5]}, Classify("question", "answer"), {}, "must be integers or strings"),
    "several classes": ({"answer": [[0], [0, 1]]}, Classify("question", "answer"), {}, "integers or strings, got list"),
}


@pytest.mark.parametrize("name", BAD)
def test_invalid_input_is_rejected(name: str, tmp_path: Path) -> None:
    changes, kind, settings, message = BAD[name]
    path = write(tmp_path / "qa.parquet", {"question": ["why?", "how?"], "answer": ["so", "thus"], **changes})
    with pytest.raises(DataError, match=message):
        loaded(letters(model_max_length=200), path, kind, test=path, **settings)


def test_a_tokenizer_without_an_end_of_sequence_token_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no end-of-sequence token"):
        loaded(letters(eos_token=None), pairs(tmp_path), ASK)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('no user') }}", "chat template fails"),
        ("{{ messages | length }}{{ messages[0]['content'] }}", "renders a prompt differently"),
    ],
)
def test_an_unusable_chat_template_is_rejected(template: str, message: str, tmp_path: Path) -> None:
    kind = Instruct("question", None, "answer", "chat")
    with pytest.raises(DataError, match=message):
        loaded(letters(chat_template=template), pairs(tmp_path), kind)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("latin.jsonl", b'{"text": "\xe9t\xe9"}\n', r"latin\.jsonl, line 1 is not UTF-8 text"),
        ("a.jsonl", b"{\n", r"a\.jsonl, row 0 \(line 2\) is not valid JSON"),
        ("a.csv", b"a,b\n", "has no rows"),
        ("a.csv", b"a,b\n1,2\n3\n", r"row 1 \(line 3\) has 1 values, but the first line names 2 columns"),
        ("a.txt", b"a,b\n", "has an unknown file type"),
        ("a.parquet", b"nothing", "not a readable parquet file"),
    ],
)
def test_invalid_files_are_rejected(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        loaded(letters(), str(tmp_path / name), Plain())
    with pytest.raises(DataError, match=r"there is no file or folder nowhere\.jsonl"):
        loaded(letters(), "nowhere.jsonl", Plain())
    with pytest.raises(DataError, match="there is no test file nowhere"):
        loaded(letters(), pairs(tmp_path), ASK, test="nowhere")
