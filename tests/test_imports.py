"""Import rules, checked in the source without importing it: allowed imports of each package, and forbidden ones."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "fedloru"
FILES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text()) for path in sorted(ROOT.rglob("*.py"))}

BASE: frozenset[str] = frozenset(
    {"advice", "cache", "errors", "files", "settings", "reading", "recipe", "rng", "schema", "tree"}
)
TO_METHOD = BASE | {"lowrank", "net", "method", "metrics"}
TO_ENGINE = TO_METHOD | {"client", "own_optimizer", "data", "dropout", "footprint", "evaluate", "inference"}
TO_ENGINE |= {"personal", "session", "weight_reads", "wire"}

MAY_IMPORT: dict[str, frozenset[str]] = {
    **dict.fromkeys(BASE, frozenset()),
    "cache": frozenset({"files", "reading"}),
    "settings": frozenset({"errors"}),
    "reading": frozenset({"errors"}),
    "schema": frozenset({"errors", "reading"}),
    "recipe": frozenset({"settings", "errors"}),
    "lowrank": BASE,
    "own_optimizer": frozenset({"errors", "recipe", "settings", "tree"}),
    "metrics": frozenset({"errors", "schema", "settings"}),
    "net": BASE | {"lowrank"},
    "method": BASE | {"lowrank", "net"},
    "methods": TO_METHOD,
    "wire": TO_METHOD,
    "data": BASE,
    "dropout": BASE,
    "weight_reads": TO_METHOD | {"data", "dropout"},
    "models": frozenset({"errors", "rng", "settings"}),
    "session": TO_METHOD | {"data", "dropout"},
    "client": TO_METHOD | {"data", "dropout", "own_optimizer", "session"},
    "footprint": TO_METHOD | {"data"},
    "inference": TO_METHOD | {"data", "footprint"},
    "evaluate": TO_METHOD | {"data", "dropout", "client", "inference"},
    "personal": TO_METHOD | {"data", "dropout", "client", "evaluate", "inference"},
    "engine": TO_ENGINE,
    "run": TO_ENGINE | {"engine"},
    "flower": TO_ENGINE | {"methods", "models", "engine", "run", "config", "report", "reported_run", "api"},
    "analysis": TO_ENGINE | {"run", "report"},
    "hf": TO_ENGINE | {"engine", "run"},
    "laws": TO_ENGINE | {"engine", "methods"},
    "report": frozenset({"errors", "files", "reading", "schema", "settings"}),
    "comparison": frozenset({"errors", "files", "reading", "schema", "settings", "data", "methods", "run", "report"})
    | {"analysis"},
    "presets": frozenset(),
    "track": TO_ENGINE | {"engine", "run", "report"},
    "config": TO_ENGINE | {"methods", "models", "engine", "run", "hf", "presets", "track"},
    "stored_run": TO_ENGINE | {"run", "config"},
    "reported_run": TO_ENGINE | {"run", "report"},
    "api": TO_ENGINE
    | {"methods", "models", "engine", "run", "config", "stored_run", "report", "reported_run", "track"},
    "exports": TO_ENGINE | {"engine", "run", "config", "hf"},
    "cli": TO_ENGINE
    | {"methods", "models", "engine", "run", "config", "report", "stored_run", "reported_run", "api"}
    | {"analysis", "exports", "flower", "presets", "comparison"}
    | {"__init__"},  # for the version
    "public": TO_ENGINE
    | {"methods", "models", "engine", "run", "config", "report", "api", "hf", "exports", "laws"}
    | {"comparison"},
    "__init__": frozenset({"launch", "public"}),
    "__main__": frozenset({"cli"}),
    "launch": frozenset(),
}
"""The packages and modules that each one may import besides itself; new ones must be added here."""

EXCEPTIONS = {
    ("run/summary.py", "methods"),
    ("engine/parts/engine.py", "methods"),
    ("engine/parts/worker.py", "methods"),
}
"""The summary reports what FedAvg would have sent; no other file of ``engine`` or ``run`` refers to a method.

Workers make a method again from its name.
"""

ALLOWED_IN = {
    "flwr": "flower/",
    "transformers": "hf/",
    "peft": "hf/",
    "tokenizers": "hf/",
    "curvlinops": "analysis/",
    "scipy": ("analysis/", "comparison/paired"),
    "matplotlib": "analysis/",
    "ray": "engine/ray",
    "cryptography": "flower/",
    "uvicorn": "flower/",
    "httpx": "flower/",
    "tensorboard": "track/",
    "mlflow": "track/",
    "wandb": "track/",
}
"""Optional libraries, and the only place in which each may be imported."""


def component(file: str) -> str:
    return file.split("/")[0].removesuffix(".py")


COMPONENTS = {component(file) for file in FILES}


def imports(file: str) -> Iterator[str]:
    """Yield the dotted names of all imports in a file; ``from x import y`` is x.y."""
    for node in ast.walk(FILES[file]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(file: str) -> Iterator[str]:
    """Yield the packages and modules of fedloru that a file imports from."""
    for name in imports(file):
        package, *parts = name.split(".")
        if package == "fedloru":
            yield parts[0] if parts and parts[0] in COMPONENTS else "__init__"


def attributes(file: str) -> Iterator[str]:
    """Yield attribute accesses as they are written, such as torch.optim."""
    for node in ast.walk(FILES[file]):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"


def named(file: str) -> Iterator[str]:
    """Yield identifiers, and strings that are identifiers."""
    for node in ast.walk(FILES[file]):
        for field in ("id", "attr", "arg", "name", "asname"):
            if isinstance(value := getattr(node, field, None), str):
                yield value
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier():
            yield node.value


def test_source_files_are_found() -> None:
    assert len(FILES) > 50 and "engine/fused/fold.py" in FILES


def test_every_component_has_a_rule() -> None:
    assert not COMPONENTS - MAY_IMPORT.keys()


@pytest.mark.parametrize("file", FILES)
def test_imports_follow_the_rules(file: str) -> None:
    allowed = MAY_IMPORT[component(file)] | {component(file)}
    above = {other for other in own_imports(file) if other not in allowed and (file, other) not in EXCEPTIONS}
    assert not above, f"{file} imports {sorted(above)}"


def test_the_rules_have_no_cycle() -> None:
    """Check that the allowed imports have no cycle."""
    left = dict(MAY_IMPORT)
    while left:
        free = [name for name, others in left.items() if not others & left.keys()]
        assert free, f"{sorted(left)} import each other"
        for name in free:
            del left[name]


def test_exceptions_are_still_needed() -> None:
    for file, other in EXCEPTIONS:
        assert other in own_imports(file)
    assert {name for name in imports("run/summary.py") if "methods" in name} == {"fedloru.methods.fedavg"}


METHOD_NAMES = {
    path.stem for pattern in ("methods/fed*.py", "methods/wrappers/*.py") for path in ROOT.glob(pattern)
} - {"__init__", "catalogue", "clip"}  # clip is also a setting of local training


@pytest.mark.parametrize("file", [file for file in FILES if component(file) in ("engine", "run")])
def test_engines_do_not_refer_to_methods(file: str) -> None:
    """``fedloru`` is also the name of the package, so it counts as a method only if imported from ``methods``."""
    assert {"fedavg", "fedlora", "prox", "server_opt"} <= METHOD_NAMES
    allowed = {"fedavg"} if file == "run/summary.py" else set()
    words = {word for word in named(file) for method in METHOD_NAMES - {"fedloru"} - allowed if method in word}
    assert not words, f"{file} names {sorted(words)}"
    by_name = {"fedloru.methods.rebuild"}
    assert not [
        name for name in imports(file) if name.startswith("fedloru.methods") and not allowed | ({name} & by_name)
    ]


@pytest.mark.parametrize("file", [file for file in FILES if component(file) == "methods"])
def test_methods_do_not_use_torch_optim(file: str) -> None:
    assert not [name for name in imports(file) if name.startswith("torch.optim")]
    assert "torch.optim" not in attributes(file)


@pytest.mark.parametrize("file", FILES)
def test_nothing_is_ever_pickled(file: str) -> None:
    forbidden = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    assert not forbidden & {name.split(".")[0] for name in imports(file)}
    assert not {"torch.load", "torch.save"} & {*attributes(file), *imports(file)}
    unsafe = [
        node.lineno
        for node in ast.walk(FILES[file])
        if isinstance(node, ast.keyword)
        and node.arg == "allow_pickle"
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]
    assert not unsafe, f"{file} allows pickle in line {unsafe}"


@pytest.mark.parametrize("file", FILES)
def test_optional_libraries_are_imported_in_one_place(file: str) -> None:
    for name in imports(file):
        for library in ALLOWED_IN.keys() & set(name.split(".")):
            if name.split(".")[0] != "fedloru":
                assert file.startswith(ALLOWED_IN[library]), f"{file} imports {name}"


def test_models_depend_on_torch_only() -> None:
    for file in FILES:
        if component(file) == "models":
            outside = {name.split(".")[0] for name in imports(file)} - set(sys.stdlib_module_names)
            assert outside <= {"torch", "fedloru"}
