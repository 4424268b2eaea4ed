"""Chat templates that print the date: it is fixed when a run starts, and kept with the run."""

from __future__ import annotations

import json
import os
import tomllib
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fedloru import api, config
from fedloru.comparison import groups
from fedloru.errors import DataError, RunFolderError
from fedloru.hf.encode import Instruct
from fedloru.hf.text import load
from fedloru.report import read
from fedloru.run.folder import CONFIG
from fedloru.run.origin import SETTINGS
from tests.hf.letters import CHAT, letters, write
from tests.hf.test_config import configured

pytestmark = pytest.mark.hf

LLAMA3 = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}{% set date_string = '26 Jul 2024' %}{% endif %}"
    "{% endif %}{{ date_string }}: "
)
PREFIXES = {"the date": LLAMA3, "the second": "{{ strftime_now('%H:%M:%S') }} "}
DRAWS = ["{{ ['a', 'b', 'c', 'd'] | random }}", "{{ lipsum(n=1, html=False, min=5, max=6) }}"]
START, TOMORROW = datetime(2025, 3, 1, 23, 59, 59), datetime(2025, 3, 2, 0, 0, 1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that sets the time that transformers sees."""
    import transformers.utils.chat_template_utils as utils

    def set_to(time: datetime) -> None:
        monkeypatch.setattr(utils, "datetime", type("Fake", (datetime,), {"now": classmethod(lambda *_: time)}))

    return set_to


def started(tmp_path: Path, prefix: str, **sections: Any) -> config.Config:
    data = {"kind": "instruct", "prompt": "text", "response": "label", "template": "chat", "max_length": 120}
    chosen = configured("llama", tmp_path, data=data, **sections)
    letters(chat_template=prefix + CHAT).save_pretrained(tmp_path / "llama")
    return chosen


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_run_resumes_on_another_day(prefix: str, tmp_path: Path, clock: Any) -> None:
    clock(START)
    run = api.start(started(tmp_path, PREFIXES[prefix]))
    for row in run:
        if row["round"] == 2:
            break
    first = run.plan.dataset.train["input_ids"]
    clock(TOMORROW)
    again = api.resume(tmp_path / "run")
    assert again.plan.dataset.train["input_ids"].equal(first)
    assert [row["round"] for row in again] == [3, 4]
    recorded = tomllib.loads((tmp_path / "run" / CONFIG).read_text())["data"]["date"]
    assert datetime.fromisoformat(recorded) == START
    (group,) = groups.grouped([read(tmp_path / "run"), read(other_day(tmp_path))])
    assert len(group.runs) == 2, "the date does not separate the seeds of a group"


def other_day(tmp_path: Path) -> Path:
    chosen = started(tmp_path, LLAMA3, output={"dir": str(tmp_path / "other"), "checkpoint_every": 2})
    (tmp_path / "llama" / "chat_template.jinja").write_text("{{ strftime_now('%H') }}" + CHAT)
    list(api.start(chosen._replace(seed=1)))
    return tmp_path / "other"


def test_a_run_of_an_earlier_version_resumes_with_the_day_of_its_folder(tmp_path: Path, clock: Any) -> None:
    clock(START)
    for row in api.start(started(tmp_path, LLAMA3)):
        if row["round"] == 2:
            break
    folder = tmp_path / "run"
    for path in (folder / CONFIG, folder / SETTINGS):
        lines = path.read_text()
        date = START.isoformat()
        path.write_text(lines.replace(f'date = "{date}"\n', "").replace(f', "date": "{date}"', ""))
        assert "date =" not in path.read_text() and '"date"' not in path.read_text()
    clock(TOMORROW)
    os.utime(folder / SETTINGS, (TOMORROW.timestamp(),) * 2)
    with pytest.raises(RunFolderError, match="has changed: the training examples"):
        api.resume(folder)
    os.utime(folder / SETTINGS, (START.timestamp(),) * 2)
    assert [row["round"] for row in api.resume(folder)] == [3, 4]
    assert "date" not in json.loads((folder / SETTINGS).read_text())["data"]


def test_only_templates_that_print_the_date_record_it(tmp_path: Path, clock: Any) -> None:
    clock(START)
    chosen = started(tmp_path, "")
    assert api.dated(chosen) == chosen
    dated = api.dated(started(tmp_path, LLAMA3))
    assert dated.data.date == START.isoformat() and api.dated(dated, TOMORROW) == dated


def test_a_given_date_is_printed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"prompt": ["a", "b"], "response": ["b", "c"]})
    made = letters(chat_template=LLAMA3 + CHAT)
    data = load(made, path, Instruct(template="chat", date="2024-02-29"), test=path)
    assert made.decode(data.train["input_ids"][0, :13].tolist()) == "29 Feb 2024: "
    with pytest.raises(DataError, match=r"data\.date is 'today', expected a date such as"):
        load(made, path, Instruct(template="chat", date="today"), test=path)


@pytest.mark.parametrize("draw", DRAWS)
def test_random_draws_of_a_template_are_fixed(draw: str, tmp_path: Path) -> None:
    import random

    path = write(tmp_path / "a.parquet", {"prompt": list("abcdefgh"), "response": list("abcdefgh")})
    made = letters(chat_template=draw + CHAT)
    texts = []
    for seed in range(3):
        random.seed(seed)
        texts.append(load(made, path, Instruct(template="chat"), test=path).train["input_ids"])
        assert random.Random(seed).random() == random.random(), "the draws of the user's program are not changed"
    assert texts[0].equal(texts[1]) and texts[0].equal(texts[2])
