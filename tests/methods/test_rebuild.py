"""Another process rebuilds a method from its name and its configuration in JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest

from fedloru import methods, tree
from fedloru.errors import ConfigError
from fedloru.method import Method
from tests.methods.cohort import run_rounds, small_net

METHODS: dict[str, Callable[[], Method]] = {
    "fedavg": methods.fedavg,
    "fedlora": lambda: methods.fedlora(init="both"),
    "fedloru": lambda: methods.fedloru(recipe="paper", tau=2, reset="keep", base="zero"),
    "list": lambda: methods.fedloru(recipe="paper", tau=(1, 3), accumulate="exact", accumulate_rank=2),
    "inf": lambda: methods.fedloru(recipe="paper", tau=math.inf),
    "pfedloru": lambda: methods.pfedloru(tau=2, first="shared", accumulate="exact"),
    "mfedloru": lambda: methods.mfedloru(tau=2, nested_scale=0.5, reset="keep"),
    "flora": methods.flora,
    "fedex": lambda: methods.fedex(init="both"),
    "scaffold": lambda: methods.scaffold(methods.fedloru(recipe="paper", tau=2), lr=0.1, clients=5),
    "wrapped": lambda: methods.clip(
        methods.server_opt(methods.fedloru(recipe="paper", tau=2), rule="yogi", beta1=0.5), norm=0.5
    ),
    "nested": lambda: methods.prox(methods.prox(methods.fedavg(), mu=0.1), mu=0.2),
    "reversed": lambda: methods.server_opt(
        methods.clip(methods.fedloru(recipe="paper", tau=2), norm=0.5), rule="adam", lr=0.1
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_rebuilt_from_json(name: str) -> None:
    method = METHODS[name]()
    rebuilt = methods.rebuild(method.name, json.loads(json.dumps(method.config)))
    assert (rebuilt.name, rebuilt.config, rebuilt.traits) == (method.name, method.config, method.traits)
    net = small_net()
    for (_, _, expected), (_, _, actual) in zip(run_rounds(net, method, 3), run_rounds(net, rebuilt, 3), strict=True):
        assert expected.version == actual.version
        assert all(tree.equal(x, y) for x, y in zip(expected[3:7], actual[3:7], strict=True))


def test_wrappers_are_recorded_innermost_first() -> None:
    method = METHODS["wrapped"]()
    assert [wrap["name"] for wrap in method.config["wrap"]] == ["server_opt", "clip"]
    inner = methods.fedloru(recipe="paper", tau=2)
    methods.prox(inner, mu=1.0)
    assert "wrap" not in inner.config  # wrapping does not change the inner method


def test_keys_of_the_table_are_method_names() -> None:
    for name, make in methods.METHODS.items():
        assert make().name == name


def test_unknown_names_and_settings_suggest_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no method 'fedlorra'; did you mean 'fedlora'\? There are: fedavg, "):
        methods.rebuild("fedlorra", {})
    with pytest.raises(ConfigError, match=r"no method 'sgd'\. There are: fedavg, fedex, fedhm"):
        methods.rebuild("sgd", {})
    with pytest.raises(ConfigError, match="no setting 'taw'; did you mean 'tau'"):
        methods.rebuild("fedloru", {"taw": 3})
    with pytest.raises(ConfigError, match="no setting 'taw'; did you mean 'tau'"):  # a setting of FedLoRU
        methods.rebuild("pfedloru", {"taw": 3})
    with pytest.raises(ConfigError, match="no wrapper 'proxy'; did you mean 'prox'"):
        methods.rebuild("fedavg", {"wrap": [{"name": "proxy", "mu": 1.0}]})
    with pytest.raises(ConfigError, match=r"no setting 'nu'\. There is: mu"):
        methods.rebuild("fedavg", {"wrap": [{"name": "prox", "nu": 1.0}]})
    with pytest.raises(ConfigError, match="tau is 0"):
        methods.rebuild("fedloru", {"tau": 0})
