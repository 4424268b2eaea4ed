"""Tokenized texts: labels, truncation and packing."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from fedloru.data import Examples, audit, natural
from fedloru.errors import DataError
from fedloru.hf.encode import Classify, Instruct, Plain
from fedloru.hf.templates import ALPACA, ALPACA_WITH_CONTEXT
from tests.hf.letters import ASK, BOS, CHAT, EOS, ids, letters, loaded, spelled, write

pytestmark = pytest.mark.hf


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return letters()


def texts(examples: Examples, key: str = "input_ids") -> list[str]:
    """Return the text of each example without padding; tokens without a loss are shown as dots."""
    rows = zip(examples[key].tolist(), examples["length"].tolist(), strict=True)
    return ["".join("." if token == -100 else spelled([token]) for token in row[:length]) for row, length in rows]


def test_the_loss_is_only_on_the_response_and_its_end(tokenizer: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "qa.parquet", {"question": ["why?", "how?"], "answer": ["so", "with care"]})
    data = loaded(tokenizer, path, ASK, test=path).train
    first, second = (ids(f"Q:{question}\nA:") for question in ("why?", "how?"))
    rows = [[BOS, *first, *ids("so"), EOS], [BOS, *second, *ids("with care"), EOS]]
    prompts = [1 + len(first), 1 + len(second)]
    assert data["length"].tolist() == [len(row) for row in rows]
    for row, (tokens, prompt) in enumerate(zip(rows, prompts, strict=True)):
        padding = data["input_ids"].shape[1] - len(tokens)
        assert data["input_ids"][row].tolist() == tokens + [0] * padding
        assert data["labels"][row].tolist() == [-100] * prompt + tokens[prompt:] + [-100] * padding
    assert data.keys() == {"input_ids", "labels", "length"}


def test_templates_build_the_prompt(tokenizer: Any, tmp_path: Path) -> None:
    columns = {"do": ["add {}", "list"], "with": ["1, 2", ""], "say": ["3", "a"]}
    path = write(tmp_path / "a.parquet", columns)
    kind = Instruct("do", "with", "say")
    alpaca = [ALPACA_WITH_CONTEXT.format(prompt="add {}", context="1, 2"), ALPACA.format(prompt="list")]
    chat = ["<user>add {}\n\n1, 2<assistant>", "<user>list<assistant>"]
    own = ["add {}{1, 2}:", "list{}:"]
    for template, prompts in (("alpaca", alpaca), ("chat", chat), ("{do}{{{with}}}:", own)):
        made = letters(chat_template=CHAT) if template == "chat" else tokenizer
        given = kind._replace(template=template)
        data = loaded(made, path, given, test=path, max_length=500).train
        begin = "" if template == "chat" else "^"
        want = [f"{begin}{prompt}{answer}$" for prompt, answer in zip(prompts, ("3", "a"), strict=True)]
        assert texts(data) == want
        assert [labels.strip(".") for labels in texts(data, "labels")] == ["3$", "a$"]


def test_truncated_and_dropped_examples_are_counted_and_logged(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    questions, answers = ["a", "a", "a" * 40, "a" * 5], ["b", "b" * 20, "b", "b" * 4]
    path = write(tmp_path / "qa.parquet", {"question": questions, "answer": answers})
    with caplog.at_level(logging.WARNING, "fedloru"):
        data = loaded(tokenizer, path, ASK, test=path, max_length=16)
    assert texts(data.train) == ["^Q:a\nA:b$", "^Q:a\nA:bbbbbbbbb", "^Q:aaaaa\nA:bbbb$"]
    whole = sum(1 + len(f"Q:{q}\nA:{a}") + 1 for q, a in zip(questions, answers, strict=True))
    kept = int(data.train["length"].sum())
    assert data.notes == {
        "tokens": 2 * kept,
        "tokens cut": 2 * (whole - kept),
        "examples cut": 2,
        "examples dropped": 2,
        "empty texts": 0,
    }
    (message,) = caplog.messages
    assert "2 examples were longer than data.max_length = 16 and truncated, and 2 more were dropped" in message
    caplog.clear()
    assert loaded(tokenizer, path, ASK, test=path).notes["tokens cut"] == 0 and not caplog.messages


def test_a_response_of_which_one_token_fits_is_kept(tokenizer: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "qa.parquet", {"question": ["aa", "aaa"], "answer": ["bb", "bb"]})
    data = loaded(tokenizer, path, ASK, test=path, max_length=9)
    assert texts(data.train) == ["^Q:aa\nA:b"] and data.notes["examples dropped"] == 2


def test_plain_texts_are_split_into_blocks(tokenizer: Any, tmp_path: Path) -> None:
    lines = ["to be, or not to be", "that", "  ", "is the question", "aye"]
    path = write(tmp_path / "play.parquet", {"text": lines})
    data = loaded(tokenizer, path, Plain(), test=path, max_length=8)
    assert texts(data.train) == ["^to be, ", "or not t", "o be$", "^that$", "^is the ", "question", "^aye$"]
    assert texts(data.train, "labels") == texts(data.train)
    assert (data.train["labels"][2, 5:] == -100).all()
    assert data.notes["empty texts"] == 2 and data.notes["tokens cut"] == 2, (
        "a block of '$' alone has nothing to predict"
    )


def play(tmp_path: Path) -> tuple[str, dict[str, list[str]]]:
    g = torch.Generator().manual_seed(0)
    who = [("Ann", "Bob", "Cy")[n] for n in torch.randint(0, 3, (40,), generator=g)]
    speeches = ["abcdefghijklmnop"[: int(n)] for n in torch.randint(1, 16, (40,), generator=g)]
    lines: dict[str, list[str]] = {}
    for name, line in zip(who, speeches, strict=True):
        lines.setdefault(name, []).append(line)
    return write(tmp_path / "play.parquet", {"text": speeches, "speaker": who, "turn": list(range(40))}), lines


def test_packed_plain_texts_form_one_stream_per_speaker(tokenizer: Any, tmp_path: Path) -> None:
    path, lines = play(tmp_path)
    data = loaded(tokenizer, path, Plain(), test=path, max_length=20, pack=True, columns=["speaker"])
    for speaker, own in lines.items():
        blocks = [
            block for block, name in zip(texts(data.train), data.columns["speaker"], strict=True) if name == speaker
        ]
        stream = "".join(f"^{line}$" for line in own)
        assert "".join(blocks) == stream[: sum(map(len, blocks))] and len(stream) - sum(map(len, blocks)) <= 1
        assert all(len(block) == 20 for block in blocks[:-1])
    assert len(data.test["length"]) == -(-int(data.test["length"].sum()) // 20), "without columns there is one stream"


def test_packed_instructions_stay_whole_and_with_their_speaker(tokenizer: Any, tmp_path: Path) -> None:
    path, _ = play(tmp_path)
    kind = Instruct(response="text", template="{speaker}:")
    loose = loaded(tokenizer, path, kind, test=path, columns=["speaker"])
    data = loaded(tokenizer, path, kind, test=path, columns=["speaker"], max_length=40, pack=True)
    blocks = [block.split("$")[:-1] for block in texts(data.train)]
    assert Counter(f"{text}$" for block in blocks for text in block) == Counter(texts(loose.train))
    for block, speaker in zip(blocks, data.columns["speaker"], strict=True):
        assert all(text.startswith(f"^{speaker}:") for text in block)
    for whole, labels in zip(texts(data.train), texts(data.train, "labels"), strict=True):
        answers = [text.split(":")[1] for text in whole.split("$")[:-1]]
        assert [label for label in labels.replace("$", "$.").split(".") if label] == [
            f"{answer}$" for answer in answers
        ]
    fullness = float(data.train["length"].sum()) / data.train["input_ids"].numel()
    assert len(blocks) < len(loose.train["length"]) / 2 and data.train["input_ids"].shape[1] <= 40 and fullness > 0.8


def test_classes_are_numbered_by_their_order(tokenizer: Any, tmp_path: Path) -> None:
    columns = {"text": ["a", "b", "c", "d"], "label": ["spam", "ham", "ham", "eggs"], "number": [2, 0, 0, 1]}
    path = write(tmp_path / "mail.parquet", columns)
    for kind, classes, y in (
        (Classify(), ("eggs", "ham", "spam"), [2, 1, 1, 0]),
        (Classify(labels=("spam", "ham", "eggs")), ("spam", "ham", "eggs"), [0, 1, 1, 2]),
        (Classify(label="number"), ("0", "1", "2"), [2, 0, 0, 1]),
        (Classify(label="number", labels=("no", "perhaps", "yes")), ("no", "perhaps", "yes"), [2, 0, 0, 1]),
    ):
        data = loaded(tokenizer, path, kind, test=path)
        assert data.classes == classes and data.train["y"].tolist() == data.test["y"].tolist() == y
        assert data.train.keys() == {"input_ids", "length", "y"} and texts(data.train) == ["^a", "^b", "^c", "^d"]
    named = write(tmp_path / "named.parquet", columns, {"classes": json.dumps(["x", "y", "z"])})
    assert loaded(tokenizer, named, Classify(label="number"), test=named).classes == ("x", "y", "z")


def test_a_truncated_text_with_a_class_keeps_its_special_tokens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "mail.parquet", {"text": ["abc", "abcdefgh"], "label": [0, 1]})
    data = loaded(letters(closed=True), path, Classify(), test=path, max_length=6)
    assert texts(data.train) == ["^abc$", "^abcd$"]
    assert (data.notes["examples cut"], data.notes["tokens cut"]) == (2, 8)
    assert caplog.messages == [
        "mail: 2 examples were longer than data.max_length = 6 and truncated; 8 of 30 tokens were lost"
    ]


def test_a_fraction_of_each_class_or_speaker_is_held_out(tokenizer: Any, tmp_path: Path) -> None:
    path, lines = play(tmp_path)
    data = loaded(tokenizer, path, Plain(), columns=["speaker"], test_fraction=0.3)
    for speaker, own in lines.items():
        assert data.columns["speaker"].count(speaker) == len(own) - round(0.3 * len(own))
    assert Counter(texts(data.train) + texts(data.test)) == Counter(
        f"^{line}$" for own in lines.values() for line in own
    )
    again = loaded(tokenizer, path, Plain(), columns=["speaker"], test_fraction=0.3, seed=1)
    assert texts(again.test) != texts(data.test)
    mail = write(tmp_path / "mail.parquet", {"text": list("abcdefghij") * 2, "label": [0, 0, 0, 1] * 5})
    assert loaded(tokenizer, mail, Classify()).test["y"].bincount().tolist() == [3, 1]


def test_a_natural_partition_and_its_audited_tokens(tokenizer: Any, tmp_path: Path) -> None:
    path, lines = play(tmp_path)
    data = loaded(tokenizer, path, Plain(), test=path, columns=["speaker"])
    partition = natural(data, "speaker")
    checked = audit(data, partition)
    tokens = sorted(sum(len(line) + 2 for line in own) for own in lines.values())
    assert checked.clients == 3 and checked.tokens == (tokens[0], tokens[1], tokens[2])
    assert checked.counts.shape == (3, 1)


def test_files_folders_and_splits(tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"text": f"text {n}", "when": "2020-01-01"} for n in range(6)]
    folder = tmp_path / "play"
    folder.mkdir()
    for name, part in (("train", rows[:3]), ("test", rows[3:5]), ("validation", rows[5:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    train = folder / "train.jsonl"
    for path, test, counts in (
        (train, str(folder / "test.jsonl"), (3, 2)),
        (train, None, (2, 1)),
        (folder, None, (3, 2)),
        (folder, "validation", (3, 1)),
    ):
        data = loaded(tokenizer, str(path), Plain(), test=test, test_fraction=0.3)
        assert (len(data.train["length"]), len(data.test["length"])) == counts
    assert texts(loaded(tokenizer, str(folder), Plain()).train) == ["^text 0$", "^text 1$", "^text 2$"]
    with pytest.raises(DataError, match=r"no split 'valid'; did you mean 'validation'"):
        loaded(tokenizer, str(folder), Plain(), test="valid")


def merging() -> Any:
    """Return a tokenizer that attaches a space to the word after it, and a newline to nothing."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, " so": 2, "so": 3, " ": 4, ":": 5, "\n": 6}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+|\s|."), "isolated")
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", eos_token="</s>")


@pytest.mark.parametrize(
    ("end", "noted"), [(": ", True), (":  ", True), (":\n ", True), (":\n", False), (":", False), (":\n\n", False)]
)
def test_a_prompt_that_merges_with_the_response_is_noted(
    end: str, noted: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "qa.parquet", {"question": ["a", "b", "c"], "answer": ["so", "so", "so"]})
    loaded(merging(), path, ASK._replace(template="{question}" + end), test=path)
    note = "qa: the end of 6 of 6 prompts, ' ', is tokenized together with the start of the response"
    assert (note.replace("' '", repr(end.lstrip(":"))) in caplog.text) == noted
    caplog.clear()
    loaded(letters(), path, ASK._replace(template="{question}" + end), test=path)
    assert not caplog.messages, "a tokenizer of letters merges nothing"
