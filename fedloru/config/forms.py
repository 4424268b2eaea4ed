"""The sections that come in several forms: one key names the form, and each form has keys of its own.

A data source, a partition scheme, a model, a method and a server rule each take only what they use, so that a
setting without effect is an error and not a surprise.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fedloru.config.fields import (
    Count,
    Counts,
    Flag,
    Fraction,
    Positive,
    Section,
    Share,
    Tau,
    Text,
    Texts,
    Whole,
    Words,
)


class _Data(Section):
    test_fraction: Fraction = 0.2
    """Part of each class that is held out to test on, where the source has no test set of its own."""
    seed: Whole = 0
    """Draws what is held out. It does not follow the run's seed, so that runs are tested on the same examples."""


class EmbeddedData(_Data):
    """Data that needs no file: 5,000 MNIST digits (28×28), 1,797 digits (8×8), or made-up vectors."""

    source: Literal["mnist5k", "digits", "synthetic"] = "mnist5k"
    """Where the examples come from."""


class TableData(_Data):
    """Parquet files of encoded images, or a data set of the Hugging Face hub."""

    source: Literal["parquet", "hub"] = "parquet"
    """Where the examples come from."""
    path: Text
    """A file or folder, seen from the working directory; for the hub also the name of a data set."""
    image: Text = "image"
    """The column of encoded images."""
    label: Text = "label"
    """The column of labels."""
    columns: Texts = []
    """Further columns to keep, for natural partitions."""


class ArrayData(_Data):
    """A NumPy archive with the arrays x and y, and perhaps x_test and y_test."""

    source: Literal["npz"] = "npz"
    """Where the examples come from."""
    path: Text
    """The file, seen from the working directory."""
    columns: Texts = []
    """Further arrays to keep, for natural partitions."""


class FolderData(_Data):
    """Image files in path/train/CLASS and path/test/CLASS, or in path/CLASS."""

    source: Literal["folder"] = "folder"
    """Where the examples come from."""
    path: Text
    """The folder, seen from the working directory."""


class _Partition(Section):
    min_examples: Count = 1
    """Examples that every client must hold, to train and to test together."""
    test_fraction: Share = 0.0
    """Part of each client's examples that is held out as its own test set."""
    seed: Whole | None = None
    """Draws the partition; where left out, the run's seed."""


class IidPartition(_Partition):
    """All examples dealt at random, the same number to each client."""

    scheme: Literal["iid"] = "iid"
    """How examples come to clients."""
    clients: Count = 20
    """How many clients there are."""


class DirichletPartition(_Partition):
    """Skewed labels: the shares of the clients in each class are drawn from Dirichlet(alpha, …, alpha)."""

    scheme: Literal["dirichlet"] = "dirichlet"
    """How examples come to clients."""
    clients: Count = 20
    """How many clients there are."""
    alpha: Positive
    """The skew: 0.1 is strong, 100 almost none."""
    self_balancing: Flag = False
    """Whether a client above the average size gets no more of the classes that follow."""


class ShardsPartition(_Partition):
    """Each client holds so many classes, one shard of each."""

    scheme: Literal["shards"] = "shards"
    """How examples come to clients."""
    clients: Count = 20
    """How many clients there are."""
    classes_per_client: Count
    """How many classes a client holds."""
    allow_unused: Flag = False
    """Whether some classes may be on no client."""


class NaturalPartition(_Partition):
    """One client for each value of a column, such as speaker or hospital."""

    scheme: Literal["natural"] = "natural"
    """How examples come to clients."""
    key: Text
    """The column that tells clients apart; `data.columns` must name it too."""
    allow_unused: Flag = False
    """Whether clients with fewer than min_examples examples are left out."""


class _Model(Section):
    seed: Whole | None = None
    """Draws the initial weights; where left out, the run's seed."""


class Mlp(_Model):
    """A perceptron with ReLU; layers fc1, fc2, …."""

    name: Literal["mlp"] = "mlp"
    """The model; `python:package.module:function` calls a function of your own."""
    hidden: Counts = [200]
    """The widths of the hidden layers."""


class Cnn(_Model):
    """The two convolutions and two linear layers of the FedAvg paper: conv1, conv2, fc1, fc2."""

    name: Literal["cnn"] = "cnn"
    """The model; `python:package.module:function` calls a function of your own."""
    norm: Literal["none", "group", "batch"] = "none"
    """The normalisation after each convolution."""
    width: Count = 32
    """Channels of the first convolution; all else grows with it."""


class ResNet(_Model):
    """A residual network for small images: conv1, norm1, layer1, layer2, …, fc."""

    name: Literal["resnet8", "resnet10", "resnet18"] = "resnet8"
    """The model; `python:package.module:function` calls a function of your own."""
    norm: Literal["group", "batch"] = "group"
    """The normalisation after each convolution."""
    width: Count = 64
    """Channels of the first stage; all else grows with it."""


class OwnModel(_Model, extra="allow"):
    """A function of the user's that returns a torch module; all further keys are its arguments."""

    name: Annotated[str, Field(pattern=r"^python:[\w.]+:\w+$"), Words("'python:package.module:function'")]
    """The model; `python:package.module:function` calls a function of your own."""


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


class FedLoRU(_Method):
    """Factors of a frozen model, averaged, and accumulated into the model every tau rounds."""

    name: Literal["fedloru"] = "fedloru"
    """The method."""
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


class PFedLoRU(FedLoRU):
    """FedLoRU, and a private pair on every client that is never sent."""

    name: Literal["pfedloru"] = "pfedloru"  # type: ignore[assignment]
    """The method."""
    private_rank: Count | None = None
    """The rank of the private pair; where left out, that of the factors."""
    private_scale: Positive = 1.0
    """The scale of the private product."""
    private_epochs: Count = 1
    """Local epochs of the private phase; the shared phase has client.epochs."""
    first: Literal["private", "shared"] = "private"
    """Which phase comes first."""


class MFedLoRU(FedLoRU):
    """FedLoRU among clients of different rank (lowrank.capacities), by factors of the factors."""

    name: Literal["mfedloru"] = "mfedloru"  # type: ignore[assignment]
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
    prune: Share = 0.0
    """Share of a site's product below which a client does not send its last ranks; 0 prunes nothing."""


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


class NoServer(Section):
    """The average is the new model."""

    rule: Literal["none"] = "none"
    """The optimizer that the averaged change goes through."""


class ServerRule(Section):
    """FedOpt: the averaged change is the gradient of an optimizer on the server."""

    rule: Literal["momentum", "adagrad", "adam", "yogi"] = "momentum"
    """The optimizer that the averaged change goes through."""
    lr: Positive | None = None
    """The server's learning rate; where left out, 1 for momentum and 0.01 for the others."""
    beta1: Share = 0.9
    """Decay of the first moment."""
    beta2: Share = 0.99
    """Decay of the second moment (adam, yogi)."""
    eps: Positive = 1e-3
    """Added to the root of the second moment (adagrad, adam, yogi)."""


Data = EmbeddedData | TableData | ArrayData | FolderData
Partition = IidPartition | DirichletPartition | ShardsPartition | NaturalPartition
Model = Mlp | Cnn | ResNet | OwnModel
Method = (
    FedAvg
    | FedLoRA
    | FedLoRU
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
Server = NoServer | ServerRule
