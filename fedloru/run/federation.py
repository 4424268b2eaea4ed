"""The settings of a federation of real clients; simulations ignore them."""

from __future__ import annotations

import math
from typing import Annotated, NamedTuple

from pydantic import Field

from fedloru.settings import Expected
from fedloru.settings.types import Count, Flag, NotNegative, Positive

Quorum = Annotated[float, Field(gt=0, le=1), Expected("a number in (0, 1]")]


class Federation(NamedTuple):
    """How the rounds of a federation are carried out.

    Args:
        clients: the number of clients that must be connected before a round starts; by default the quorum. When the
            server starts, it also waits half a minute for all others.
        quorum: the share of the cohort that must have replied when a round is closed; until then, the server waits, and
            invites other clients instead of those that do not reply.
        oversample: the share by which more clients are invited than the cohort has; a round is closed once the cohort
            is complete, and later replies are dropped.
        deadline: the number of seconds after which the server stops waiting for a client.
        max_examples: the maximum number of training examples that a client may state; `fedloru enroll` can set another
            for a client.
        max_norm: the maximum Euclidean norm of the update of a client, the difference between what it sends and what
            it received; a reply beyond it is refused. By default it is not limited.
        scores: whether clients are asked for scores on their own test examples at every evaluation; a client replies
            only if it was started with --share-scores.
    """

    clients: Count | None = None
    quorum: Quorum = 0.5
    oversample: NotNegative = 0.0
    deadline: Positive = 3600.0
    max_examples: Count = 1_000_000
    max_norm: Positive | None = None
    scores: Flag = True

    def quorum_of(self, cohort: int) -> int:
        """Return the number of replies that a round with a cohort of this size needs."""
        return max(1, math.ceil(self.quorum * cohort))
