"""The methods, each with the settings that it takes, and those of the wrappers around any of them."""

from __future__ import annotations

from typing import Literal

from fedloru.config.fields import Count, Flag, NotNegative, Positive, Section, Share, Tau


class _Method(Section):
    prox: Positive | None = None
    """FedProx: the weight μ of (μ/2)‖trained − received‖² in a client's loss; where left out, none."""
    clip: Positive | None = None
    """The largest norm of what a client changes; where left out, no bound."""
    scaffold: Flag = False
    """SCAFFOLD: whether control variates correct the drift of clients; for sgd at a constant learning rate."""


class FedAvg(_Method):
    """Whole models, averaged; `[lowrank]` is not used."""

    name: Literal["fedavg"] = "fedavg"
    """The method."""


class FedLoRA(_Method):
    """Factors of a frozen model, averaged."""

    name: Literal["fedlora"] = "fedlora"
    """The method."""
    init: Literal["a", "both"] = "a"
    """Which factors are drawn: A, with B at 0 so that attaching changes nothing, or both."""


class Accumulating(_Method):
    """The settings of FedLoRU, which its two kin share."""

    tau: Tau = 10
    """The accumulation cycle in rounds, the rounds themselves as a list, or inf for never."""
    reset: Literal["fresh", "keep"] = "fresh"
    """What becomes of the factors after a merge: drawn anew, or kept as the published code keeps them."""
    base: Literal["model", "zero"] = "model"
    """What the adapted weights start at: the model's own values, or 0 as in the published code."""
    init: Literal["a", "both"] = "a"
    """Which factors are drawn: A, with B at 0 so that attaching changes nothing, or both."""
    accumulate: Literal["factors", "exact"] = "factors"
    """What is merged: the product of the averaged factors, or the average of the clients' products."""
    accumulate_rank: Count | None = None
    """Truncates the exact increment to this rank; where left out, it is merged whole."""


class FedLoRU(Accumulating):
    """Factors of a frozen model, averaged, and accumulated into the model every tau rounds."""

    name: Literal["fedloru"] = "fedloru"
    """The method."""


class PFedLoRU(Accumulating):
    """FedLoRU, and a private pair on every client that is never sent."""

    name: Literal["pfedloru"] = "pfedloru"
    """The method."""
    private_rank: Count | None = None
    """The rank of the private pair; where left out, that of the factors."""
    private_scale: Positive = 1.0
    """The scale of the private product."""
    private_epochs: Count = 1
    """Local epochs of the private phase; the shared phase has client.epochs."""
    first: Literal["private", "shared"] = "private"
    """Which phase comes first."""


class MFedLoRU(Accumulating):
    """FedLoRU among clients of different rank (lowrank.capacities), by factors of the factors."""

    name: Literal["mfedloru"] = "mfedloru"
    """The method."""
    nested_scale: Positive = 1.0
    """The scale of a nested product."""


class FFALoRA(_Method):
    """Factors of a frozen model, of which only B is trained; A is drawn once and never sent."""

    name: Literal["ffalora"] = "ffalora"
    """The method."""


class RoLoRA(_Method):
    """Factors of a frozen model, averaged; odd rounds train B, even ones A."""

    name: Literal["rolora"] = "rolora"
    """The method."""


class FedSA(_Method):
    """Factors of a frozen model; A is averaged, B stays on its client."""

    name: Literal["fedsa"] = "fedsa"
    """The method."""


class FLoRA(_Method):
    """Fresh factors in every round, whose products the server averages into the model; ranks may differ."""

    name: Literal["flora"] = "flora"
    """The method."""


class FedEx(_Method):
    """Factors, averaged; what the average of their products has beside goes into the model."""

    name: Literal["fedex"] = "fedex"
    """The method."""
    init: Literal["a", "both"] = "a"
    """Which factors are drawn: A, with B at 0 so that attaching changes nothing, or both."""


class FlexLoRA(_Method):
    """Factors of a rank for each client (lowrank.capacities); the sum of their products is cut to it by an SVD."""

    name: Literal["flexlora"] = "flexlora"
    """The method."""


class HetLoRA(_Method):
    """Factors of a rank for each client (lowrank.capacities), padded with zeros and weighted by their size."""

    name: Literal["hetlora"] = "hetlora"
    """The method."""
    tail: Share = 0.01
    """Share of a client's ranks, the last, that is penalised, and not sent where training shrank it; 0 does neither."""
    penalty: NotNegative = 0.01
    """Weight of the norms of these ranks in a client's loss."""


class FedHM(_Method):
    """A dense model on the server, cut to each client's rank (lowrank.capacities) by an SVD."""

    name: Literal["fedhm"] = "fedhm"
    """The method."""


class FedLMT(_Method):
    """A model that is low-rank from start to end; its factors, averaged."""

    name: Literal["fedlmt"] = "fedlmt"
    """The method."""
    init: Literal["spectral", "random"] = "spectral"
    """What the factors start at: the truncated SVD of the model's weights, or a draw."""


class FedPara(_Method):
    """Weights that are elementwise products of two low-rank matrices, whose factors are averaged."""

    name: Literal["fedpara"] = "fedpara"
    """The method."""
    personal: Flag = False
    """Whether the second pair of factors stays on its client (pFedPara)."""
    init: Literal["random", "model"] = "random"
    """What the weights start at: a draw, or the model's own, cut to the rank."""


class FedMUD(_Method):
    """Low-rank updates, averaged, and merged into the model every interval."""

    name: Literal["fedmud"] = "fedmud"
    """The method."""
    interval: Count = 10
    """Rounds from one merge to the next."""
    aad: Flag = True
    """Whether an update is the sum of two products with a fixed random half each, so that averages are exact."""


Method = (
    FedLoRU
    | FedLoRA
    | FedAvg
    | PFedLoRU
    | MFedLoRU
    | FFALoRA
    | RoLoRA
    | FedSA
    | FLoRA
    | FedEx
    | FlexLoRA
    | HetLoRA
    | FedHM
    | FedLMT
    | FedPara
    | FedMUD
)
