"""The small task, as the only one of part (a)."""

from __future__ import annotations

from collections.abc import Iterator

import claims
import pytest
from claim import budget, parts, tasks

from tests.claims.small import SMALL, examples


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Add a small task, and make it the only one of part (a)."""
    task = tasks.perceptron("small", examples, (12, 1, 3), 16, rounds=3, rates=(0.1,), clips=(1.0,))
    monkeypatch.setitem(tasks.TASKS, "small", task)
    entries = {"fedavg": 1.0, "fedlora": 0.4, "fedloru-paper-best": 0.4}
    wanted = [parts.Wanted(SMALL, name, share) for name, share in entries.items()]
    monkeypatch.setitem(claims.PARTS, "a", lambda: iter(wanted))
    yield
    for cached in (tasks.examples, tasks.net, budget.sent):
        cached.cache_clear()
