"""Each of these faults in the package makes the named tests of the default suite fail.

A fault is a replacement in one source file. It is applied to a temporary copy of the package and its tests, never to
the checkout, and the tests run in a subprocess. When code moves, adjust ``file``, ``old`` and ``new`` in ``MUTATIONS``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TIMEOUT = 120  # seconds for the tests of one mutation; they take about 5


class Mutation(NamedTuple):
    """A fault: ``old``, which must occur exactly once in ``file``, is replaced by ``new``; then ``tests`` must fail."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTATIONS = (
    Mutation(
        "the sign of a merge is flipped",
        "fedloru/lowrank/algebra.py",
        "(weight.to(change.dtype) + change)",
        "(weight.to(change.dtype) - change)",
        ("tests/lowrank/test_algebra.py::test_merge_is_the_dense_sum",),
    ),
    Mutation(
        "tau is one round too long",
        "fedloru/method.py",
        "round % int(tau) == 0",
        "round % (int(tau) + 1) == 0",
        ("tests/methods/test_fedloru.py::test_merge_rounds_count_from_1",),
    ),
    Mutation(
        "merges come one round too late",
        "fedloru/method.py",
        "round % int(tau) == 0",
        "(round - 1) % int(tau) == 0",
        ("tests/methods/test_fedloru.py::test_merge_rounds_count_from_1",),
    ),
    Mutation(
        "the average is not weighted",
        "fedloru/methods/blocks.py",
        "    shared = tree.weighted_sum((up.shared for up in ups), weights)\n",
        "    weights = [1.0] * len(ups)\n    shared = tree.weighted_sum((up.shared for up in ups), weights)\n",
        ("tests/engine/test_training.py::test_the_server_averages_weighted_by_examples",),
    ),
    Mutation(
        "the sequential engine drops momentum",
        "fedloru/client.py",
        "SGD(leaves, recipe.rate, recipe.momentum, ",
        "SGD(leaves, recipe.rate, ",
        ("tests/engine/test_sequential.py::test_local_sgd_equals_its_formula",),
    ),
    Mutation(
        "the sequential engine drops the weight decay of SGD",
        "fedloru/client.py",
        ", weight_decay=recipe.weight_decay)",
        ")",
        ("tests/engine/test_sequential.py::test_local_sgd_equals_its_formula",),
    ),
    Mutation(
        "the sequential engine drops the weight decay of Adam and AdamW",
        "fedloru/client.py",
        "recipe.eps, recipe.weight_decay)",
        "recipe.eps, 0.0)",
        ("tests/engine/test_sequential.py::test_local_training_equals_a_loop_with_torch_optim",),
    ),
    Mutation(
        "local weights ignore momentum",
        "fedloru/engine/fused/local_weight.py",
        "self._b[: self._rows] *= self.momentum",
        "self._b[: self._rows] *= 0.0",
        ("tests/engine/test_local_weight.py::test_ragged_clients_equal_the_sequential_engine[momentum-a perceptron]",),
    ),
    Mutation(
        "products of a backward pass inside the model are kept",
        "fedloru/engine/fused/chunk.py",
        "            outers.clear()",
        "            pass",
        ("tests/engine/test_unusual_models.py::test_engines_agree[the gradient of the input-1]",),
    ),
    Mutation(
        "weights are merged in models that read them elsewhere",
        "fedloru/inference.py",
        "        worth = []",
        "        pass",
        ("tests/engine/test_unusual_models.py::test_evaluation_computes_what_training_does[reads a weight]",),
    ),
    Mutation(
        "since() does not check for gaps",
        "fedloru/wire/ledger.py",
        "if len(missing) != sync.version - held:",
        "if False:",
        ("tests/wire/test_ledger.py::test_since_drops_merged_increments_and_rejects_gaps",),
    ),
    Mutation(
        "a configured partition is drawn with seed + 1",
        "fedloru/config/plan.py",
        "seed=seed_of(config, config.partition.seed), **settings",
        "seed=seed_of(config, config.partition.seed) + 1, **settings",
        ("tests/data/test_golden_partitions.py::test_the_seed_of_a_configured_partition",),
    ),
    Mutation(
        "the order of the examples is drawn with seed + 1",
        "fedloru/data/schemes.py",
        'gen(seed, "partition")',
        'gen(seed + 1, "partition")',
        ("tests/data/test_golden_partitions.py::test_the_rows_of_seed_0[iid]",),
    ),
    Mutation(
        "Dirichlet shares are drawn with seed + 1",
        "fedloru/data/schemes.py",
        'derive(seed, "partition", "dirichlet", draw)',
        'derive(seed + 1, "partition", "dirichlet", draw)',
        ("tests/data/test_golden_partitions.py::test_the_rows_of_seed_0[dirichlet]",),
    ),
    Mutation(
        "shards are drawn with seed + 1",
        "fedloru/data/schemes.py",
        'derive(seed, "partition", "shards")',
        'derive(seed + 1, "partition", "shards")',
        ("tests/data/test_golden_partitions.py::test_the_rows_of_seed_0[shards]",),
    ),
    Mutation(
        "the clients' test sets are drawn with seed + 1",
        "fedloru/data/client_split.py",
        'gen(seed, "client-split", client)',
        'gen(seed + 1, "client-split", client)',
        ("tests/data/test_golden_partitions.py::test_the_rows_of_seed_0[natural]",),
    ),
    Mutation(
        "bf16 truncates instead of rounding",
        "fedloru/wire/codec.py",
        "    return values.to(dtype)\n",
        "    if dtype == torch.bfloat16 and values.dtype == torch.float32:\n"
        "        values = (values.view(torch.int32) & -65536).view(torch.float32)\n"
        "    return values.to(dtype)\n",
        ("tests/wire/test_codec.py::test_bf16_rounds_to_nearest_even",),
    ),
    Mutation(
        "increments are merged before they are rounded to the grid of integer codes",
        "fedloru/run/loop.py",
        "            state = on_grid(plan.net.sites, before.state, state, plan.codec)\n",
        "            pass\n",
        ("tests/laws/test_runs.py::test_bases_are_equal_after_catch_up_with_increments_in_codes[fedloru]",),
    ),
    Mutation(
        "clients round with the draws of each other",
        "fedloru/wire/sections.py",
        '"codec", down.round, client)',
        '"codec", down.round)',
        ("tests/wire/test_grid.py::test_clients_send_what_they_have_changed[int8]",),
    ),
    Mutation(
        "check() ignores the version of a message",
        "fedloru/wire/header.py",
        '"round": round, "version": version, "client"',
        '"round": round, "client"',
        ("tests/wire/test_message.py::test_check_reports_the_field_both_values_and_a_hint",),
    ),
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a copy of the package, its tests and their settings."""
    folder = tmp_path_factory.mktemp("mutations")
    for name in ("fedloru", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def mutate(folder: Path, mutation: Mutation) -> str:
    """Apply ``mutation`` in ``folder``, and return the original text of the file."""
    path = folder / mutation.file
    original = path.read_text() if path.exists() else ""
    if (count := original.count(mutation.old)) != 1:
        pytest.fail(
            f"the mutation {mutation.name!r} cannot be applied: {mutation.old!r} occurs {count} times in "
            f"{mutation.file}, expected once; adjust MUTATIONS in {Path(__file__).name}"
        )
    path.write_text(original.replace(mutation.old, mutation.new))
    return original


def run(folder: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run ``tests`` of the default suite in ``folder``."""
    options = ["-p", "no:cacheprovider", "--tb=short", "-rf"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", *options, *tests]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=TIMEOUT)


def test_the_tests_pass_without_a_mutation(copy: Path) -> None:
    tests = tuple(dict.fromkeys(test for mutation in MUTATIONS for test in mutation.tests))
    done = run(copy, tests)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name for mutation in MUTATIONS])
def test_a_mutation_makes_its_tests_fail(mutation: Mutation, copy: Path) -> None:
    original = mutate(copy, mutation)
    try:
        done = run(copy, mutation.tests)
    finally:
        (copy / mutation.file).write_text(original)
    # pytest exits with 1 if tests failed, and with another status if it could not collect or find them.
    assert done.returncode == 1, f"{mutation.name}: no test failed\n{done.stdout}{done.stderr}"
    for test in mutation.tests:
        assert f"FAILED {test}" in done.stdout, f"{mutation.name}: {test} did not fail\n{done.stdout}"


@pytest.mark.parametrize("file", ["fedloru/wire/ledger.py", "fedloru/moved.py"])
def test_a_mutation_that_cannot_be_applied_fails(file: str, tmp_path: Path) -> None:
    path = tmp_path / "fedloru" / "wire" / "ledger.py"
    path.parent.mkdir(parents=True)
    path.write_text("nothing to replace\n")
    with pytest.raises(pytest.fail.Exception, match=rf"'gone' occurs 0 times in {file}, expected once; adjust"):
        mutate(tmp_path, Mutation("an example", file, "gone", "new", ()))
    assert path.read_text() == "nothing to replace\n"
