"""``benchmarks/peers.py``: every driver gets the same work, and the README shows the table that was measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import fedloru as fl

ROOT = Path(__file__).parents[1]
BENCHMARKS = ROOT / "benchmarks"
sys.path += [str(BENCHMARKS), str(BENCHMARKS / "peer")]

import markers  # noqa: E402
import peers  # noqa: E402
from peer import split, table, workloads  # noqa: E402
from peer.processes import Driver, PeerError, python  # noqa: E402


def test_the_table_of_the_readme_is_the_one_that_was_measured(tmp_path: Path) -> None:
    measured = json.loads((BENCHMARKS / "results" / "peers.json").read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = tmp_path / "README.md"
    page.write_text(readme, encoding="utf-8")
    markers.put(page, table.MARKER, table.markdown(measured))
    assert page.read_text(encoding="utf-8") == readme


@pytest.mark.parametrize("text", ["no markers", "<!-- /peers -->\n<!-- peers -->", "<!-- peers -->\nno end"])
def test_a_page_without_markers_is_refused(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    assert "needs one line <!-- peers -->" in str(markers.problem(page, table.MARKER))
    assert "there is no page" in str(markers.problem(tmp_path / "missing.md", table.MARKER))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "mpl*"], "--only mpl* matches none of mlp-fedavg"),
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--readme", "missing.md"], "there is no page missing.md"),
    ],
)
def test_wrong_arguments_are_refused(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["peers.py", *arguments])
    with pytest.raises(SystemExit):
        peers.parse()
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("arguments", "name"), [([], "peers.json"), (["--short"], "peers-part.json")])
def test_a_part_does_not_replace_the_results_of_the_readme(
    arguments: list[str], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["peers.py", *arguments])
    assert peers.parse().out == Path("benchmarks/results") / name


def test_a_driver_that_has_not_run_gets_a_dash() -> None:
    row = {"ratio": 12.34, "accuracy": 0.914}
    measured = {"drivers": {"a": "A", "b": "B"}, "workloads": [{"title": "X", "rows": {"a": row}}]}
    assert table.markdown(measured) == "| | X |\n|---|---|\n| A | 12 (91 %) |\n| B | – |"


@pytest.mark.parametrize("name", ["mlp-fedavg", "mlp-fedlora", "cnn-fedlora", "resnet-fedlora"])
def test_the_models_of_the_drivers_are_those_of_the_library(name: str, tmp_path: Path) -> None:
    import work

    loaded = work.load(workloads.write(name, 1, tmp_path))
    plan = workloads.plan(name, 1)
    with torch.no_grad():
        for key, value in loaded.initial.items():
            if key.endswith(".b"):
                value.normal_(std=0.1)  # with B = 0, low-rank layers equal the plain ones
        x = loaded.test_x[:3]
        expected = torch.func.functional_call(plan.net.model.eval(), loaded.initial, (x,))
        assert torch.allclose(loaded.model()(x), expected, atol=1e-5)
    assert set(loaded.trained) == {key for key, p in loaded.model().named_parameters() if p.requires_grad}


def test_the_loop_by_hand_does_the_work_of_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same examples, cohorts and batches give the same accuracies, up to the rounding of a few examples."""
    small = workloads.WORKLOADS["mlp-fedlora"]._replace(clients=6, cohort=3, examples=20)
    monkeypatch.setitem(workloads.WORKLOADS, "mlp-fedlora", small)
    folder = workloads.write("mlp-fedlora", 3, tmp_path)
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "peer" / "hand.py")],
        input=f"{folder}\n{tmp_path / 'missing'}\n",
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    answer, refused = map(json.loads, done.stdout.splitlines())
    ours = [row["test_accuracy"] for row in fl.Run(workloads.plan("mlp-fedlora", 3))]
    assert answer["accuracy"] == pytest.approx(ours, abs=0.003)
    assert len(answer["seconds"]) == len(answer["evaluation"]) == 3
    assert refused["error"].startswith("FileNotFoundError")


def test_ratios_are_medians_of_the_ratios_within_a_repeat() -> None:
    def repeats(*seconds: float) -> list[dict[str, float]]:
        return [{"seconds": each, "accuracy": 0.9} for each in seconds]

    found = peers.rows({"ours": repeats(1.0, 2.0, 4.0), "other": repeats(3.0, 2.0, 8.0)})
    assert found["other"] == {"seconds": 3.0, "accuracy": 0.9, "ratio": 2.0}


def test_the_first_rounds_do_not_count() -> None:
    answer = {"seconds": [5.0, 6.0, 7.0, 8.5], "evaluation": [9.0, 0.5, 0.25, 0.75], "accuracy": [0.1, 0.2, 0.3, 0.4]}
    assert peers.summary(answer, warm=2) == {"seconds": 1.25, "accuracy": 0.4, "evaluation": 0.5}


def test_a_library_that_cannot_be_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed: Any = subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: No matching distribution found for x\n")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: failed)
    with pytest.raises(PeerError, match="X cannot be installed: ERROR: No matching distribution found for x"):
        python("x", Driver("X", "x.py", requirements=("x==1",)), tmp_path)


def test_the_profile_times_functions_that_exist() -> None:
    for names in split.PARTS.values():
        for name in names:
            split.owner(name)


def test_the_parts_of_a_round_exclude_each_other() -> None:
    watch = split.Stopwatch()
    inner = watch.timed(lambda: sum(range(300_000)), "inner")
    outer = watch.timed(lambda: (inner(), sum(range(300_000))), "outer")
    outer()
    watch.switch()
    assert watch.seconds["inner"] > 0 and watch.seconds["outer"] > 0
    assert watch.seconds["outer"] < 10 * watch.seconds["inner"]
