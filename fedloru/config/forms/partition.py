"""How the examples come to clients."""

from __future__ import annotations

from typing import Literal

from fedloru.config.fields import Count, Flag, Positive, Section, Share, Text, Whole


class _Partition(Section):
    min_examples: Count = 1
    """Examples that every client must hold, to train and to test together."""
    test_fraction: Share = 0.0
    """Part of each client's examples that is held out as its own test set."""
    seed: Whole | None = None
    """Draws the partition; where left out, the run's seed."""


class Dealt(_Partition):
    """A partition over as many clients as are asked for."""

    clients: Count = 20
    """How many clients there are."""


class IidPartition(Dealt):
    """All examples dealt at random, the same number to each client."""

    scheme: Literal["iid"] = "iid"
    """How examples come to clients."""


class DirichletPartition(Dealt):
    """Skewed labels: the shares of the clients in each class are drawn from Dirichlet(alpha, …, alpha)."""

    scheme: Literal["dirichlet"] = "dirichlet"
    """How examples come to clients."""
    alpha: Positive
    """The skew: 0.1 is strong, 100 almost none."""
    self_balancing: Flag = False
    """Whether a client above the average size gets no more of the classes that follow."""


class ShardsPartition(Dealt):
    """Each client holds so many classes, one shard of each."""

    scheme: Literal["shards"] = "shards"
    """How examples come to clients."""
    classes_per_client: Count
    """How many classes a client holds."""
    allow_unused: Flag = False
    """Whether some classes may be on no client."""


class NaturalPartition(_Partition):
    """One client for each value of a column, such as speaker or hospital."""

    scheme: Literal["natural"] = "natural"
    """How examples come to clients."""
    key: Text
    """The column that tells clients apart; it is one of `data.columns` without being named there."""
    allow_unused: Flag = False
    """Whether clients with fewer than min_examples examples are left out."""


Partition = IidPartition | DirichletPartition | ShardsPartition | NaturalPartition
