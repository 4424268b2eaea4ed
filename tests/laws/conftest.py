"""Fixtures that run each law over the whole table, unless the test restricts it to some methods."""

from __future__ import annotations

import pytest

from tests.laws.cases import METHODS, MODELS, World, world


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def cell(method: str, model: str) -> World:
    return world(method, model)
