"""Generated text equals that of transformers, and its final answers are compared with the references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from fedloru import net as nets
from fedloru.data import Examples
from fedloru.errors import DataError
from fedloru.hf import generate
from fedloru.hf.blocks import Tokens, packed
from fedloru.hf.encode import Instruct, Plain
from fedloru.hf.generate import Prompt, exact_match, final_answer, generations, split
from fedloru.hf.text import load
from fedloru.net import Net
from tests.hf.letters import BOS, CHAT, EOS, ids, letters, spelled, write

pytestmark = pytest.mark.hf


def model() -> nn.Module:
    """Return an untrained model, which generates random text."""
    from transformers import LlamaConfig, LlamaForCausalLM

    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(vocab_size=99, max_position_embeddings=128, initializer_range=1.0, use_cache=False, **size)
        return LlamaForCausalLM(config).double().eval()


def net() -> Net:
    return nets.attach(model(), rank=2, targets=["*q_proj"])


def examples(tmp_path: Path, kind: Any = None, **settings: Any) -> Examples:
    questions = [f"{'so ' * n}{n}+{n}?" for n in range(5)]
    path = write(tmp_path / "sums.parquet", {"prompt": questions, "answer": [f"#### {2 * n}" for n in range(5)]})
    kind = kind or Instruct(response="answer", template="{prompt}")
    return load(letters(), path, kind, test=path, **{"max_length": 64, **settings}).test


def test_batched_generation_equals_single_generation_by_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "BATCH", 3)
    attached, plain = net(), model()
    row = generations(letters(), examples(tmp_path), 5, 12)(attached, attached.params | attached.buffers)
    assert sorted(line["reference"] for line in row["generations"]) == [f"#### {2 * n}" for n in range(5)]
    for line in row["generations"]:
        prompt = [BOS, *ids(line["prompt"])]
        settings = {"do_sample": False, "max_new_tokens": 12, "eos_token_id": EOS, "pad_token_id": EOS}
        made = plain.generate(input_ids=torch.tensor([prompt]), **settings)[0, len(prompt) :].tolist()  # type: ignore[operator]
        assert line["generated"] == spelled([token for token in made if token >= 3])
    assert len({line["generated"] for line in row["generations"]}) > 1


@pytest.mark.parametrize("where", ["generation_config", "config", "list", "chat template"])
def test_generation_ends_at_every_end_token(where: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tokenizer, attached = letters(), net()
    data, start = examples(tmp_path), attached.params | attached.buffers
    before = generations(tokenizer, data, 5, 12)(attached, start)["generations"]
    end = before[0]["generated"][4]
    (token,) = ids(end)
    config: Any = attached.model
    if where == "generation_config":
        config.generation_config.eos_token_id = token
    elif where == "list":
        config.generation_config.eos_token_id = [EOS, token]
    elif where == "config":
        config.config.eos_token_id = [EOS, token]
    else:
        tokenizer.add_special_tokens({"additional_special_tokens": [end]})
        tokenizer.chat_template = CHAT.replace("</s>", end)
    after = generations(tokenizer, data, 5, 12)(attached, start)["generations"]
    assert [line["generated"] for line in after] == [line["generated"].partition(end)[0] for line in before]
    assert after != before
    assert ("does not list as special" in caplog.text) == (where != "chat template")


def test_the_answer_before_the_end_counts(tmp_path: Path) -> None:
    """A model that ends its turn with a token of the chat template, and would continue with another question."""
    turn = "~"
    tokenizer = letters(chat_template=CHAT.replace("</s>", turn), additional_special_tokens=[turn])
    path = write(tmp_path / "sums.parquet", {"prompt": ["1+1?", "2+2?"], "response": ["#### 2", "#### 4"]})
    data = load(tokenizer, path, Instruct(template="chat"), test=path, max_length=64).test
    attached = net()
    script = {"?": "#### 2~\n<user>3+3?<assistant>#### 6~"}

    def generate(input_ids: torch.Tensor, generation_config: Any, **_: Any) -> torch.Tensor:
        stop = next(i for i, token in enumerate(ids(script["?"])) if token in generation_config.eos_token_id)
        rows = [[*row, *ids(script["?"])[: stop + 1]] for row in input_ids.tolist()]
        return torch.tensor(rows)

    attached.model.generate = generate  # type: ignore[assignment]
    row = generations(tokenizer, data, 2, 40)(attached, attached.params | attached.buffers)
    assert {line["generated"] for line in row["generations"]} == {"#### 2"} and row["exact_match"] == 0.5


def test_generation_uses_the_given_tensors(tmp_path: Path) -> None:
    attached = net()
    start = attached.params | attached.buffers
    g = torch.Generator().manual_seed(1)
    changed = start | {key: torch.randn(start[key].shape, generator=g).double() for key in attached.factors}
    hook = generations(letters(), examples(tmp_path), 5, 12)
    first, second = hook(attached, start), hook(attached, changed)
    assert first != second and hook(attached, start) == first
    merged = nets.load(attached, changed)
    assert generations(letters(), examples(tmp_path), 5, 12)(nets.make(merged), dict(merged.state_dict())) == second


def test_prompts_are_sampled_by_seed_and_leave_room(tmp_path: Path) -> None:
    data, attached = examples(tmp_path), net()
    start = attached.params | attached.buffers
    drawn = [
        [line["prompt"] for line in generations(letters(), data, 2, 1, seed=s)(attached, start)["generations"]]
        for s in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 2
    short = generations(letters(), data, 5, 10, positions=20)(attached, start)["generations"]
    assert sorted(line["prompt"] for line in short) == ["0+0?", "so 1+1?"]
    with pytest.raises(DataError, match="a prompt of at most 4 tokens that leaves room for 10 new tokens"):
        generations(letters(), data, 5, 10, positions=14)
    with pytest.raises(DataError, match="no test example has a complete response"):
        generations(
            letters(),
            {key: value[:, :6] if value.ndim == 2 else value.clamp(max=6) for key, value in data.items()},
            5,
            10,
        )


def test_prompts_and_responses_are_separated() -> None:
    example = Tokens(0, [BOS, 5, 6, 7, EOS], [-100, -100, 6, 7, EOS])
    assert split(example.ids, example.labels, [EOS]) == Prompt([BOS, 5], [6, 7, EOS])
    (block,) = packed([example, Tokens(1, [BOS, 8, EOS], [-100, -100, EOS])], 16, whole=True)
    assert split(block.ids, block.labels, [EOS]) == Prompt([BOS, 5], [6, 7, EOS])
    assert split(example.ids[:4], example.labels[:4], [EOS]) is None, "the response was truncated"
    assert split([BOS, 5, 6, 7], [BOS, 5, 6, 7], [EOS]) == Prompt([BOS, 5], [6, 7])


def test_plain_texts_are_halved(tmp_path: Path) -> None:
    data = examples(tmp_path, Plain("prompt"))
    attached = net()
    (line,) = generations(letters(), data, 1, 3)(attached, attached.params | attached.buffers)["generations"]
    assert line["prompt"] + line["reference"] in {f"{'so ' * n}{n}+{n}?" for n in range(5)}
    assert abs(len(line["prompt"]) + 1 - len(line["reference"]) - 1) <= 1


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("So 3 + 4 = 7.\n#### 7", "7"),
        ("#### 1,234.50", "1234.5"),
        ("#### $18.00 ", "18"),
        ("#### 5\nQuestion: 9", "5"),
        ("#### Paris. ", "paris"),
        ("####", ""),
        ("#### +1e9999999", "+1e9999999"),
        ("#### 72 dollars", "72"),
        ("#### **-72** (minus seventy-two)", "-72"),
        ("#### -0", "0"),
        ("she has 12 apples and 1,000 pears.", "1000"),
        ("it is -3", "-3"),
        ("12-5", "5"),
        ("a half is .5", "0.5"),
        ("none", None),
        ("", None),
    ],
)
def test_final_answers(text: str, answer: str | None) -> None:
    assert final_answer(text) == answer


def test_exact_match_counts_only_references_with_an_answer() -> None:
    assert exact_match(["x #### 7", "#### 8", "in 1945, say"], ["it is 7", "so 9", "1945"]) == 0.5
    assert exact_match(["12", " 3.0 "], ["that is 12.", "#### 3"]) == 1.0
    assert exact_match(["in 1945"], ["1945"]) is None
    assert exact_match(["#### 7"], ["none"]) == 0.0
