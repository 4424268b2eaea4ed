"""Conversations: the loss is on the answers of the assistant and the end of each, and on nothing else."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fedloru.data.files import read
from fedloru.errors import DataError
from fedloru.hf.chat import PLAIN, Chat
from fedloru.hf.conversations import conversations
from fedloru.hf.encode import Instruct
from fedloru.hf.text import load
from tests.hf.chats import (
    AFTER_USER,
    ANSWER,
    ASK,
    CHATML,
    CONVERSATIONS,
    DEAF,
    GEMMA,
    GENERATION,
    LLAMA2,
    MORE,
    NO_END,
    NO_PROMPT,
    NOW,
    QWEN3,
    SYSTEM,
    THINKING,
    by_hand,
    loaded,
    says,
    shown,
)
from tests.hf.letters import letters

pytestmark = pytest.mark.hf


@pytest.mark.parametrize("template", [CHATML, NO_PROMPT, AFTER_USER, GENERATION])
@pytest.mark.parametrize("style", [("role", "content"), ("from", "value")])
def test_the_loss_is_on_the_answers_and_their_ends(template: str, style: tuple[str, str], tmp_path: Path) -> None:
    names = {"user": "human", "assistant": "gpt"} if style[0] == "from" else {}
    column = "conversations" if style[0] == "from" else "messages"
    rows = [
        says([(names.get(role, role), content) for role, content in each], style) for each in CONVERSATIONS.values()
    ]
    data = loaded(tmp_path, rows, template, column=column)
    want = [by_hand(turns).replace("</s>", "$") for turns in CONVERSATIONS.values()]
    assert shown(data.train) == want and shown(data.test) == want


def test_a_template_without_headers_ends_answers_itself(tmp_path: Path) -> None:
    data = loaded(tmp_path, [says([ASK, ANSWER, MORE, ("assistant", "4")])], LLAMA2)
    assert shown(data.train) == ["^[INST] 1+1? [/INST][ 2 $]^[INST] 2+2? [/INST][ 4 $]"]
    with pytest.raises(DataError, match=r"row 0 \(from 0\): a conversation starts with the assistant"):
        loaded(tmp_path, [says([ANSWER, ASK, ANSWER])], LLAMA2)


def test_a_tokenizer_without_a_chat_template_uses_a_plain_one(tmp_path: Path) -> None:
    data = loaded(tmp_path, [says([SYSTEM, ASK, ANSWER, MORE, ("assistant", "4")])], None)
    assert shown(data.train) == [
        "^### System:\nbe brief\n\n### User:\n1+1?\n\n### Assistant:\n[2$]\n\n### User:\n2+2?\n\n### Assistant:\n[4$]"
    ]
    assert "### Assistant:" in PLAIN
    with pytest.raises(DataError, match=r"no chat template: leave data\.template out"):
        loaded(tmp_path, [says([ASK, ANSWER])], None, kind=Instruct(template="chat"))


@pytest.mark.parametrize("template", [GEMMA, DEAF])
def test_a_system_prompt_without_a_place_goes_to_the_user(
    template: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = loaded(tmp_path, [says([SYSTEM, ASK, ANSWER]), says([ASK, ANSWER])], template)
    assert shown(data.train) == [by_hand([("user", "be brief\n\n1+1?"), ANSWER]), by_hand([ASK, ANSWER])]
    assert "no place for a system prompt, so 2 of them" in caplog.text


def test_answers_of_a_template_that_changes_them_are_separate_examples(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = loaded(tmp_path, [says([ASK, ANSWER, MORE, ("assistant", "4")])], QWEN3)
    thought = "<think>\n\n</think>\n\n"
    assert shown(data.train) == [
        f"<|user|>\n1+1?$\n<|assistant|>\n[{thought}2$]",
        f"<|user|>\n1+1?$\n<|assistant|>\n2$\n<|user|>\n2+2?$\n<|assistant|>\n[{thought}4$]",
    ]
    assert "2 conversations became one example for each" in caplog.text
    turns = [ASK, ("assistant", "<think>add</think>2"), MORE, ("assistant", "<think>add</think>4")]
    assert shown(loaded(tmp_path, [says(turns)], THINKING).train) == [
        "<|user|>\n1+1?$\n<|assistant|>\n[<think>add</think>2$]",
        "<|user|>\n1+1?$\n<|assistant|>\n2$\n<|user|>\n2+2?$\n<|assistant|>\n[<think>add</think>4$]",
    ]


def test_a_template_that_ends_no_turn_gets_an_end_token(tmp_path: Path) -> None:
    data = loaded(tmp_path, [says([ASK, ANSWER, MORE, ("assistant", "4")])], NO_END)
    assert shown(data.train) == [
        "<|user|>\n1+1?\n<|assistant|>\n[2\n$]",
        "<|user|>\n1+1?\n<|assistant|>\n2\n<|user|>\n2+2?\n<|assistant|>\n[4\n$]",
    ]


def test_conversations_without_an_answer_are_dropped_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    silent = [[ASK], [ASK, ("assistant", " ")], []]
    with caplog.at_level(logging.WARNING, "fedloru"):
        data = loaded(tmp_path, [says(turns) for turns in ([ASK, ANSWER], *silent, [MORE, ANSWER])])
    assert shown(data.train) == [by_hand([ASK, ANSWER]), by_hand([MORE, ANSWER])]
    assert data.notes["conversations without an answer"] == 6
    assert "dropped 6 conversations in which the assistant says nothing" in caplog.text
    with pytest.raises(DataError, match="the assistant says nothing in any conversation"):
        loaded(tmp_path, [says([ASK])])


def test_truncated_conversations_keep_the_labels_that_fit(tmp_path: Path) -> None:
    turns = [ASK, ANSWER, MORE, ("assistant", "it is 4")]
    whole = by_hand(turns)
    assert whole.count("$") == 4
    for cut in (33, 40, 60):
        data = loaded(tmp_path, [says(turns), says([ASK, ("assistant", "two")])], max_length=cut)
        labeled = shown(data.train)[0]
        letters_only = whole.replace("[", "").replace("]", "")
        assert labeled.replace("[", "").replace("]", "") == letters_only[:cut]
        assert whole.startswith(labeled.rstrip("]"))
    data = loaded(tmp_path, [says([("user", "?" * 50), ANSWER]), says([ASK, ANSWER])], max_length=40)
    assert shown(data.train) == [by_hand([ASK, ANSWER])] and data.notes["examples dropped"] == 2


def test_contents_in_parts_and_other_keys(tmp_path: Path) -> None:
    part = {"type": "text", "text": "1+"}
    ask = {"role": "user", "content": [part, {"type": "text", "text": "1?"}]}
    muted = {"role": "assistant", "content": "3", "weight": 0, "id": "x", "name": None}
    lines = [{"messages": [ask, muted, {"role": "assistant", "content": "2", "weight": 1}]}]
    path = tmp_path / "parts.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    chat = Chat(letters(chat_template=CHATML), NOW)
    (messages,) = conversations(read(path), "messages")
    (text,) = chat.write(messages)
    assert [text.text[start:stop] for start, stop in text.answers] == ["2</s>"]
    assert text.text.startswith("<|user|>\n1+1?</s>\n<|assistant|>\n3</s>\n")


def test_the_column_of_responses_comes_first(tmp_path: Path) -> None:
    path = tmp_path / "both.parquet"
    pq.write_table(pa.table({"prompt": ["a"], "response": ["b"], "messages": [says([ASK, ANSWER])]}), path)
    made = letters(chat_template=CHATML)
    settings = {"test": str(path), "max_length": 100}
    assert shown(load(made, str(path), Instruct(template="chat"), **settings).train) == [
        by_hand([("user", "a"), ("assistant", "b")])
    ]
    assert shown(load(made, str(path), Instruct(messages="messages"), **settings).train) == [by_hand([ASK, ANSWER])]


@pytest.mark.parametrize("trim", [True, False])
def test_tokens_of_several_letters_never_span_an_answer(trim: bool, tmp_path: Path) -> None:
    """Compare with a mask that is computed from the bytes of the tokens."""
    made = pairs_of_letters(trim)
    turns = [ASK, ("assistant", "\nit is two"), MORE, ("assistant", "four")]
    data = loaded(tmp_path, [says(turns)], tokenizer=made)
    ids, labels = data.train["input_ids"][0].tolist(), data.train["labels"][0].tolist()
    text = Chat(made, NOW).render(says(turns)).rstrip("\n")
    assert made.decode(ids) == text
    position, inside = 0, set()
    for _, answer in turns[1::2]:
        start = text.index(f"<|assistant|>\n{answer}</s>", position) + len("<|assistant|>\n")
        position = start + len(f"{answer}</s>")
        inside |= set(range(start, position))
    at = 0
    for token, label in zip(ids, labels, strict=True):
        span = range(at, at + len(made.decode([token])))
        at = span.stop
        assert {place in inside for place in span} == {label != -100}
    assert any(len(made.decode([token])) > 1 for token in ids if token > 2)


def pairs_of_letters(trim: bool) -> Any:
    """Return a byte-level tokenizer that merges spaces and newlines with what follows."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=trim)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([" it is two four\n\n", "<|assistant|>\n\nit is", "<|user|>\n"] * 50, trainer)
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, chat_template=CHATML, **names)
