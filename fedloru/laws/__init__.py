"""The laws that every method must satisfy, and ``check``, which tests a method against them.

::

    rehearsal   rounds without a forward pass: noise in place of training
    laws        one function for each law           report   the verdicts
"""

from __future__ import annotations

from typing import Any

from fedloru.data import Dataset, Examples
from fedloru.errors import FedloruError, ModelError, sentence
from fedloru.laws.laws import LAWS, WITH_DATA, BrokenLawError, NotCheckedError
from fedloru.laws.rehearsal import Stage
from fedloru.laws.report import Report, Verdict
from fedloru.method import Method
from fedloru.net import Net


def check(method: Method, net: Net, data: Dataset | Examples | None = None) -> Report:
    """Check a method against the laws, and report which hold and which fail.

    A few rounds are run with noise in place of training: clients receive real messages, add noise to the tensors that
    they would train, and reply. This needs no forward pass, so most laws are checked without data. With ``data``, both
    engines also train on a few examples, and the results are compared.

    Args:
        method: the method to check, including the functions that it does not replace.
        net: a small model, with factors if the method trains factors.
        data: examples for the model; by default the law that the engines agree is not checked.

    Example::

        report = fl.check(my_method(tau=2), net)
        print(report)
        assert report.holds
    """
    given: tuple[Any, Any] = method, net
    if not isinstance(given[0], Method) or not isinstance(given[1], Net):
        raise ModelError(
            f"check is called with a {type(method).__name__} and a {type(net).__name__}, expected a method and a Net: "
            "fedloru.check(my_method(), fedloru.attach(model, rank=2))"
        )
    examples = data.train if isinstance(data, Dataset) else data
    stage = Stage(method, net, examples)
    return Report(method.name, tuple(_judged(name, stage) for name in (*LAWS, *WITH_DATA)))


def _judged(name: str, stage: Stage) -> Verdict:
    law = (LAWS | WITH_DATA)[name]
    if name in WITH_DATA and stage.data is None:
        return Verdict(name, None, "needs data: fedloru.check(method, net, data)")
    try:
        law(stage)
    except NotCheckedError as reason:
        return Verdict(name, None, str(reason))
    except BrokenLawError as reason:
        return Verdict(name, False, str(reason))
    except FedloruError as error:
        return Verdict(name, False, str(error))
    except Exception as error:  # the method's own code may raise anything
        return Verdict(name, False, f"the method fails: {sentence(error)}")
    return Verdict(name, True, (law.__doc__ or "").strip().splitlines()[0].replace("`", ""))


__all__ = ["Report", "Verdict", "check"]
