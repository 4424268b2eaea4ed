"""The files around the code agree with it: metadata, pinned versions, templates, and the pages of the documentation."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import yaml

import fedloru

ROOT = Path(__file__).parent.parent


def hooks() -> ModuleType:
    """Return the hooks of the documentation site."""
    spec = importlib.util.spec_from_file_location("site_hooks", ROOT / "docs" / "hooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = hooks()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
GENERATED_PAGES = {"changelog.md", "contributing.md"}
"""The pages that docs/hooks.py makes of files outside docs/."""


def tracked() -> list[Path]:
    """Return the text files under version control; none outside a checkout."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z"]
    try:
        listed = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        return []
    paths = [ROOT / name for name in listed.split("\0") if name]
    return [path for path in paths if path.is_file() and path.suffix not in (".png", ".pdf")]


TRACKED = tracked()


def read_yaml(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


class TestFilesParse:
    @pytest.mark.parametrize(
        "path",
        [path for path in TRACKED if path.suffix in (".yml", ".yaml", ".cff", ".toml")],
        ids=lambda path: path.relative_to(ROOT).as_posix(),
    )
    def test_yaml_and_toml(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        parsed = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
        assert isinstance(parsed, dict) and parsed

    def test_ci_runs_the_script_of_the_repository(self) -> None:
        jobs = read_yaml(".github/workflows/ci.yml")["jobs"].values()
        assert any(step.get("run") == ".ci/run" for job in jobs for step in job["steps"])

    @pytest.mark.parametrize("name", ["bug_report", "feature_request"])
    def test_issue_forms(self, name: str) -> None:
        form = read_yaml(f".github/ISSUE_TEMPLATE/{name}.yml")
        assert form["name"] and form["description"]
        inputs = [field for field in form["body"] if field["type"] != "markdown"]
        assert len({field["id"] for field in inputs}) == len(inputs)
        assert all(field["attributes"]["label"] for field in inputs)

    def test_hooks_before_a_commit_download_nothing(self) -> None:
        repositories = read_yaml(".pre-commit-config.yaml")["repos"]
        assert {repository["repo"] for repository in repositories} == {"local"}
        hooks = [hook for repository in repositories for hook in repository["hooks"]]
        assert {hook["language"] for hook in hooks} == {"system"}
        entries = {" ".join(hook["entry"].split()[:2]) for hook in hooks}
        assert entries == {".venv/bin/ruff format", ".venv/bin/ruff check", ".venv/bin/mypy"}


class TestCitation:
    def test_required_fields(self) -> None:
        """The fields that version 1.2.0 of the Citation File Format requires."""
        citation = read_yaml("CITATION.cff")
        assert citation["cff-version"] == "1.2.0"
        assert citation["message"] and citation["title"] and citation["authors"]
        assert all("name" in author or "family-names" in author for author in citation["authors"])
        for reference in citation["references"]:
            assert reference["type"] and reference["title"] and reference["authors"]

    def test_agrees_with_the_package(self) -> None:
        citation, project = read_yaml("CITATION.cff"), PYPROJECT["project"]
        assert citation["title"] == project["name"]
        assert citation["version"] == project["version"]
        assert citation["license"] == project["license"]

    def test_names_the_paper(self) -> None:
        (paper,) = read_yaml("CITATION.cff")["references"]
        assert [author["family-names"] for author in paper["authors"]] == ["Park", "Klabjan"]
        assert paper["url"].endswith("/2409.12371")


class TestDependencies:
    PROJECT = PYPROJECT["project"]
    GROUPS = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}

    @staticmethod
    def normalized(requirement: str) -> str:
        """Return the name of a requirement, without its extras and versions."""
        return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement)[0]).lower()

    @classmethod
    def pins(cls) -> dict[str, str]:
        lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        pinned = [line.split("==") for line in lines if line and not line.startswith("#")]
        return {cls.normalized(name): version for name, version in pinned}

    @pytest.mark.parametrize("extra", GROUPS)
    def test_every_direct_dependency_is_pinned(self, extra: str) -> None:
        needed = {self.normalized(requirement) for requirement in self.GROUPS[extra]} - {self.PROJECT["name"]}
        assert not needed - self.pins().keys()

    def test_every_pin_is_in_the_range_of_its_dependency(self) -> None:
        requirements = pytest.importorskip("packaging.requirements")
        pins = self.pins()
        for requirement in (requirements.Requirement(text) for group in self.GROUPS.values() for text in group):
            version = pins.get(self.normalized(requirement.name))
            assert version is None or requirement.specifier.contains(version), f"{requirement}, pinned to {version}"

    def test_development_installs_the_documentation_tools(self) -> None:
        assert "fedloru[docs]" in self.GROUPS["dev"]


class Target(NamedTuple):
    """A ``:::`` block of a reference page: what it documents, and which members of that (None: the public ones)."""

    page: str
    path: str
    members: list[str] | None

    def resolve(self) -> Any:
        """Return the module, class or function that the path names."""
        try:
            return importlib.import_module(self.path)
        except ModuleNotFoundError as error:
            if not self.path.startswith(error.name or "?"):
                raise
        parent, _, name = self.path.rpartition(".")
        return getattr(importlib.import_module(parent), name)

    def documented(self) -> Iterator[Any]:
        """Yield the object itself, and the public objects that a module shows; nothing if the path names nothing."""
        try:
            found = self.resolve()
        except (ImportError, AttributeError):
            return
        yield found
        if isinstance(found, ModuleType):
            names = self.members or getattr(found, "__all__", [name for name in vars(found) if name[0] != "_"])
            yield from (getattr(found, name) for name in names if hasattr(found, name))


def targets() -> list[Target]:
    found = []
    for page in sorted((ROOT / "docs" / "reference").glob("*.md")):
        blocks = re.findall(
            r"^::: (\S+)\n((?:    .*\n?)*)", HOOKS.expanded(page.read_text(encoding="utf-8")), re.MULTILINE
        )
        for path, options in blocks:
            settings = yaml.safe_load(options) or {}
            found.append(Target(page.name, path, settings.get("options", {}).get("members")))
    return found


TARGETS = targets()


class TestSite:
    @staticmethod
    def pages(nav: Any) -> Iterator[str]:
        """Yield the files of a nav, whose entries are files, or titles with a file or a list of entries."""
        for entry in nav:
            for value in entry.values() if isinstance(entry, dict) else [entry]:
                yield from [value] if isinstance(value, str) else TestSite.pages(value)

    def test_every_page_is_in_the_navigation_once(self) -> None:
        listed = sorted(self.pages(read_yaml("mkdocs.yml")["nav"]))
        docs = ROOT / "docs"
        present = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")} | GENERATED_PAGES
        assert listed == sorted(present), "mkdocs.yml: nav must list each page of docs/ once"

    def test_loads_nothing_from_other_hosts(self) -> None:
        config = read_yaml("mkdocs.yml")
        assert config["theme"]["font"] is False
        assert not [path for path in [*config.get("extra_css", []), *config.get("extra_javascript", [])] if ":" in path]

    @pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.path)
    def test_what_the_reference_documents_exists(self, target: Target) -> None:
        found = target.resolve()
        assert not [name for name in target.members or () if not hasattr(found, name)], (
            f"see docs/reference/{target.page}"
        )

    @pytest.mark.parametrize("name", [name for name in fedloru.__all__ if not name.startswith("__")])
    def test_every_public_name_is_in_the_reference(self, name: str) -> None:
        value = getattr(fedloru, name)
        documented = any(found is value for target in TARGETS for found in target.documented())
        assert documented, f"fedloru.{name} has no ':::' block in docs/reference/"


@pytest.mark.skipif(not TRACKED, reason="not a checkout of the repository")
class TestNothingLocal:
    INDEX_HOST = re.compile(r"\b(?:[\w-]+\.)*(?:py" r"pi\.org|python" r"hosted\.org|download\.py" r"torch\.org)\b")
    LOCAL_PATH = re.compile(
        r"(?<![\w.~<>\]-])(?:/home/\w+|/Us" r"ers/\w+|/ro" r"ot/|/wo" r"rk/|/work" r"space/|[A-Z]:\\+Us" r"ers\\+\w+)"
    )

    @pytest.mark.parametrize("pattern", [INDEX_HOST, LOCAL_PATH], ids=["index-host", "local-path"])
    def test_no_file_names_a_package_index_or_a_path_of_one_machine(self, pattern: re.Pattern[str]) -> None:
        found = []
        for path in TRACKED:
            text = path.read_text(encoding="utf-8", errors="replace")
            found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in pattern.finditer(text)]
        assert not found
