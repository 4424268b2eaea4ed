"""A method crosses a process as a name and a configuration in JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest

from fedloru import methods, tree
from fedloru.errors import ConfigError
from fedloru.method import Method
from tests.methods.cohort import play, small

MADE: dict[str, Callable[[], Method]] = {
    "fedavg": methods.fedavg,
    "fedlora": lambda: methods.fedlora(init="both"),
    "fedloru": lambda: methods.fedloru(tau=2, reset="keep", base="zero"),
    "list": lambda: methods.fedloru(tau=(1, 3), accumulate="exact", accumulate_rank=2),
    "inf": lambda: methods.fedloru(tau=math.inf),
    "pfedloru": lambda: methods.pfedloru(tau=2, first="shared", accumulate="exact"),
    "mfedloru": lambda: methods.mfedloru(tau=2, nested_scale=0.5, reset="keep"),
    "flora": methods.flora,
    "fedex": lambda: methods.fedex(init="both"),
    "scaffold": lambda: methods.scaffold(methods.fedloru(tau=2), lr=0.1, clients=5),
    "wrapped": lambda: methods.clip(methods.server_opt(methods.fedloru(tau=2), rule="yogi", beta1=0.5), norm=0.5),
    "twice": lambda: methods.prox(methods.prox(methods.fedavg(), mu=0.1), mu=0.2),
    "the other way": lambda: methods.server_opt(methods.clip(methods.fedloru(tau=2), norm=0.5), rule="adam", lr=0.1),
}


@pytest.mark.parametrize("name", MADE)
def test_methods_come_back_from_json(name: str) -> None:
    method = MADE[name]()
    again = methods.rebuild(method.name, json.loads(json.dumps(method.config)))
    assert (again.name, again.config, again.stacks) == (method.name, method.config, method.stacks)
    net = small()
    for (_, _, mine), (_, _, theirs) in zip(play(net, method, 3), play(net, again, 3), strict=True):
        assert mine.version == theirs.version
        assert all(tree.equal(x, y) for x, y in zip(mine[3:7], theirs[3:7], strict=True))


def test_wrappers_are_listed_from_the_inside_out() -> None:
    method = MADE["wrapped"]()
    assert [wrap["name"] for wrap in method.config["wrap"]] == ["server_opt", "clip"]
    inner = methods.fedloru(tau=2)
    methods.prox(inner, mu=1.0)
    assert "wrap" not in inner.config  # wrapping makes a new method


def test_the_table_names_every_method() -> None:
    for name, make in methods.METHODS.items():
        assert make().name == name


def test_names_and_settings_that_do_not_exist_are_met_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no method 'fedlorra'; did you mean 'fedlora'\? There are: fedavg, "):
        methods.rebuild("fedlorra", {})
    with pytest.raises(ConfigError, match=r"no method 'sgd'\. There are: fedavg, fedex, fedhm"):
        methods.rebuild("sgd", {})
    with pytest.raises(ConfigError, match="no setting 'taw'; did you mean 'tau'"):
        methods.rebuild("fedloru", {"taw": 3})
    with pytest.raises(ConfigError, match="no setting 'taw'; did you mean 'tau'"):  # one that it has from FedLoRU
        methods.rebuild("pfedloru", {"taw": 3})
    with pytest.raises(ConfigError, match="no wrapper 'proxy'; did you mean 'prox'"):
        methods.rebuild("fedavg", {"wrap": [{"name": "proxy", "mu": 1.0}]})
    with pytest.raises(ConfigError, match=r"no setting 'nu'\. There is: mu"):
        methods.rebuild("fedavg", {"wrap": [{"name": "prox", "nu": 1.0}]})
    with pytest.raises(ConfigError, match="tau is 0"):
        methods.rebuild("fedloru", {"tau": 0})
