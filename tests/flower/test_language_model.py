"""A federation of a tiny language model: own files, the frozen weights at each client, and an adapter at the end."""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.flower.processes import Ground, ground
from tests.flower.test_end_to_end import NAMES

pytestmark = pytest.mark.hf
TRIAL = """
rounds = 4
[data]
source = "text"
kind = "plain"
path = "{data}"
max_length = 32
[model]
name = "hf:{model}"
[lowrank]
rank = 2
[method]
name = "fedloru"
tau = 2
[client]
optimizer = "adamw"
lr = 0.01
batch_size = 4
[cohort]
size = 3
[wire]
codec = "fp16"
"""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Ground]:
    with ground(tmp_path) as made:
        yield made


def model(folder: Path, seed: int = 1) -> Path:
    """Save a model and its tokenizer."""
    import transformers

    from tests.hf.letters import letters

    transformers.utils.logging.disable_progress_bar()
    letters().save_pretrained(folder)
    size = {"vocab_size": 98, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformers.LlamaForCausalLM(transformers.LlamaConfig(**size, **heads)).save_pretrained(folder)
    return folder


def texts(path: Path, seed: int) -> Path:
    """Write texts as JSON lines."""
    draw = random.Random(seed)
    words = ("to", "be", "or", "not", f"client{seed}")
    path.write_text("".join(json.dumps({"text": " ".join(draw.choices(words, k=8))}) + "\n" for _ in range(24)))
    return path


def test_a_language_model(place: Ground, tmp_path: Path) -> None:
    import peft
    import transformers

    from fedloru.hf.source import quiet

    bases = {name: model(tmp_path / "models" / name) for name in ("server", *NAMES)}
    other = model(tmp_path / "other", seed=2)
    trial = TRIAL.format(data=texts(tmp_path / "server.jsonl", 9), model=bases["server"])
    (place.folder / "trial.toml").write_text(trial)
    place.enroll(*NAMES)
    server = place.serve()
    mine = {name: texts(tmp_path / f"{name}.jsonl", seed) for seed, name in enumerate(NAMES)}
    wrong = place.join("berlin", "--warm", data=mine["berlin"], model=other, state=tmp_path / "wrong")
    assert "the initial weights of this client have the hash" in wrong.ends(2)
    server.says("berlin does not take part: the initial weights")
    warm: dict[str, tuple[str, ...]] = {"paris": ("--warm",), "rome": ("--warm",)}
    clients = [place.join(name, *warm.get(name, ()), data=mine[name], model=bases[name]) for name in NAMES]
    place.round(2)
    server.kill()
    place.serve("--resume", place.run).ends(0)
    for client in clients:
        assert "finished after 4 rounds" in client.ends(0)

    # Neither the embedding nor a frozen weight of a layer has been sent: a message is as large as its factors.
    weights = safetensors.torch.load_file(bases["server"] / "model.safetensors")
    dense = sum(weight.nbytes for weight in weights.values())
    for row in place.rows():
        assert sorted(row["cohort"]) == [0, 1, 2]
        for each in row["federation"]["clients"].values():
            assert each["examples"] > 0
            assert 0 < each["up_bytes"] < dense / 8 and 0 < each["down_bytes"] < dense / 4

    place.cli("export", place.run, "--format", "peft", "--out", tmp_path / "adapter")
    trained = safetensors.torch.load_file(place.run / "model.safetensors")
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        plain = transformers.AutoModelForCausalLM.from_pretrained(bases["rome"])
        loaded = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").merge_and_unload().state_dict()
    changed = 0
    for key, value in loaded.items():
        torch.testing.assert_close(trained[key].float(), value.float(), rtol=1e-4, atol=1e-5)
        changed += int(not torch.equal(value, weights.get(key, value)))
    assert changed >= 4
