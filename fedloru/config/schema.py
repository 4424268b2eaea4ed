"""What a configuration is: its sections, their keys, and what every key defaults to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

from fedloru.config import forms
from fedloru.config.fields import (
    Alphas,
    Betas,
    Capacities,
    Count,
    Flag,
    NotNegative,
    Positive,
    Ranks,
    Section,
    Share,
    Text,
    Texts,
    Whole,
)

OWN_MODEL, LANGUAGE_MODEL = "python:", "hf:"
PREFIXES = (OWN_MODEL, LANGUAGE_MODEL)
"""What names of models begin with that are no names of ours."""


class Top(Section):
    """What the whole run is about."""

    seed: Whole = 0
    """Draws the factors, the local batches and all that has no seed of its own."""
    rounds: Count = 50
    """How many rounds are trained."""


class LowRank(Section):
    """Which weights get low-rank factors, and what is trained beside them; for methods that train factors."""

    rank: Count = 8
    """The rank r of the factors."""
    alpha: Positive | None = None
    """The scale of BA is alpha/r; where left out, alpha is the rank and the scale 1."""
    targets: Texts | None = None
    """Globs of the linear, convolution and embedding layers that get factors; where left out, all of them, and in a
    language model the projections that are usual for its type."""
    ranks: Ranks = {}
    """Ranks of single layers; the last glob that matches wins."""
    alphas: Alphas = {}
    """Alphas of single layers; the last glob that matches wins."""
    dropout: Share = 0.0
    """Part of the rank-space activations that is dropped in training."""
    capacities: Capacities = {}
    """Ranks that some clients cannot exceed, each with the share of clients; the others have the full rank."""
    dense: Texts = ["*"]
    """Globs of the other parameters that are trained, such as biases, norms and the head."""


class Client(Section):
    """How a client trains."""

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """The local optimizer; it starts anew in every round."""
    lr: NotNegative = 0.1
    """The learning rate."""
    momentum: Share = 0.0
    """Momentum (sgd)."""
    weight_decay: NotNegative = 0.0
    """Weight decay."""
    betas: Betas = (0.9, 0.999)
    """Decay of the two moments (adam, adamw)."""
    eps: Positive = 1e-8
    """Added to the root of the second moment (adam, adamw)."""
    epochs: Count = 1
    """Passes over the client's examples in a round."""
    steps: Count | None = None
    """Local steps in a round, in place of epochs."""
    batch_size: Count = 32
    """Examples of a local step."""
    clip: Positive | None = None
    """The largest norm of the gradient of a local step; where left out, no bound."""
    schedule: Literal["constant", "cosine", "step"] = "constant"
    """The learning rate over rounds."""
    decay_every: Count = 10
    """Rounds from one decay to the next (step)."""
    decay: Positive = 0.1
    """What the learning rate is multiplied by (step)."""
    crop: Whole = 0
    """Pixels by which images are padded, and cropped back at random."""
    flip: Flag = False
    """Whether half of the images are mirrored."""
    bucket: Flag = False
    """Whether texts of like length come into one batch, so that less is padded."""


class Cohort(Section):
    """The clients of a round."""

    size: Count = 10
    """Clients sampled for each round, without replacement."""
    seed: Whole | None = None
    """Draws the cohorts; where left out, the run's seed."""


class Wire(Section):
    """How values travel."""

    codec: Literal["exact", "fp32", "bf16", "fp16"] = "fp32"
    """The type that values are narrowed to; exact never narrows."""
    round_trip: Flag = True
    """Whether every message is really encoded and decoded; if not, bytes come from the formula."""
    first_download: Flag | None = None
    """Whether a client's first contact costs it the frozen weights, or it builds them itself; where left out, it does,
    except for a language model, which every client loads."""


class Engine(Section):
    """How the clients of a round are computed; it does not change what is computed."""

    name: Literal["auto", "sequential", "fused"] = "auto"
    """One client after another, many in one batch, or whichever suits."""
    chunk: Count | None = None
    """Clients trained at once; where left out, as many as fit."""
    path: Literal["auto", "activation", "weight"] = "auto"
    """How low-rank layers are evaluated by the fused engine."""
    device: Text = "cpu"
    """The device, as torch names it: cpu, cuda, cuda:1, …."""
    threads: Count | None = None
    """CPU threads; where left out, as torch chooses."""


class Eval(Section):
    """When the shared model is tested."""

    every: Count = 1
    """Rounds from one evaluation to the next; the last round is always evaluated."""
    clients: Count = 100
    """Clients that are scored on test examples of their own, where the partition holds some out."""
    diagnostics: Flag = True
    """Whether gaps, ranks and agreement are recorded with every round."""
    generations: Whole = 0
    """Test prompts that a language model writes on after at every evaluation, kept in generations.jsonl."""
    max_new_tokens: Count = 64
    """Tokens that it writes after each at most."""


class Output(Section):
    """What the run leaves."""

    dir: Text = "runs/run"
    """The run folder, which must not exist; where left out, runs/ and the name of the configuration."""
    checkpoint_every: Count = 10
    """Rounds from one checkpoint to the next."""
    increments: Flag | None = None
    """Whether the factors of every merge are kept, so that all cycles can be exported as one adapter; where left out,
    those of a language model are."""


class Config(NamedTuple):
    """A whole configuration, valid and complete; ``parse`` makes it."""

    seed: int
    rounds: int
    data: forms.Data
    partition: forms.Partition
    model: forms.Model
    lowrank: LowRank
    method: forms.Method
    server: forms.Server
    client: Client
    cohort: Cohort
    wire: Wire
    engine: Engine
    eval: Eval
    output: Output


class Forms(NamedTuple):
    """The forms that a section comes in, by the value of ``key``; a section of one form has no key."""

    key: str
    by_name: dict[str, type[Section]]

    def named(self, table: Mapping[str, Any]) -> Any:
        """Return the name of the form that ``table`` asks for, which may be none of those there are."""
        default = next(iter(self.by_name))
        return table.get(self.key, default) if self.key else default

    def find(self, name: Any) -> type[Section] | None:
        """Return the form of this name."""
        if not isinstance(name, str):
            return None
        return self.by_name.get(next((prefix for prefix in PREFIXES if name.startswith(prefix)), name))


def _forms(key: str, union: Any) -> Forms:
    names = {name: form for form in get_args(union) for name in get_args(form.model_fields[key].annotation)}
    return Forms(key, names)


SECTIONS: dict[str, Forms] = {
    "data": _forms("source", forms.Data),
    "partition": _forms("scheme", forms.Partition),
    "model": Forms(
        "name",
        {**_forms("name", forms.Model).by_name, OWN_MODEL: forms.OwnModel, LANGUAGE_MODEL: forms.LanguageModel},
    ),
    "lowrank": Forms("", {"": LowRank}),
    "method": _forms("name", forms.Method),
    "server": _forms("rule", forms.Server),
    "client": Forms("", {"": Client}),
    "cohort": Forms("", {"": Cohort}),
    "wire": Forms("", {"": Wire}),
    "engine": Forms("", {"": Engine}),
    "eval": Forms("", {"": Eval}),
    "output": Forms("", {"": Output}),
}
"""Every table of a configuration, and the forms it comes in; the first is the default."""
