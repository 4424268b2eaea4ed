"""The pages marked ``<!-- tested -->`` work as printed: see tests/pages.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedloru.errors import FedloruError
from tests.pages import Session, importable, marks, matches

DOCS = Path(__file__).parent.parent / "docs"
PAGES = [
    pytest.param(path, marks=[getattr(pytest.mark, name) for name in found], id=path.stem)
    for path in sorted(DOCS.glob("*.md"))
    if (found := marks(path.read_text(encoding="utf-8"))) is not None
]


@pytest.mark.filterwarnings("ignore::FutureWarning")  # between versions of transformers and PEFT
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_work_as_printed(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with importable(tmp_path):
        Session(page, tmp_path).run()


class TestSession:
    @staticmethod
    def run(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> str:
        page = folder / "page.md"
        page.write_text(text, encoding="utf-8")
        monkeypatch.chdir(folder)
        Session(page, folder).run()
        return page.read_text(encoding="utf-8")

    @pytest.mark.parametrize(
        "text",
        [
            "```python\nprint(1)\n```\n\n```text\n2\n```\n",
            "```python\nimport fedloru as fl\nraise fl.FedloruError('no')\n```\n",
            "```console\n$ fedloru config small\nrounds = 0\n```\n",
            "```console\n$ fedloru config missing.toml\n```\n",
            "```console\n$ fedloru config small\nError: no\n```\n",
            "```console\n$ rm -r x\n```\n",
            "```toml\nround = 3\n```\n",
            "```julia\n1\n```\n",
            "- ```python\n  1\n  ```\n",
        ],
    )
    def test_a_wrong_page_fails(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        monkeypatch.delenv("UPDATE_DOCS", raising=False)
        with pytest.raises((AssertionError, FedloruError)):
            self.run(tmp_path, monkeypatch, text)

    def test_blocks_share_files_and_names(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        text = (
            '```toml title="my.toml"\nrounds = 3\n```\n'
            "<!-- setup\nsecret = 4\n-->\n"
            "```python\nfrom pathlib import Path\nprint(secret, Path('my.toml').read_text())\n```\n\n"
            "```text\n4 rounds = ...\n```\n"
            "```console\n$ fedloru config my.toml\n...\nrounds = 3\n...\n```\n"
        )
        assert self.run(tmp_path, monkeypatch, text) == text

    def test_outputs_are_updated(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("UPDATE_DOCS", "1")
        before = "```python\nprint(1)\n```\n\n```text\n2\n```\n\n```python\nprint(3)\n```\n\n```text\n...\n```\n"
        assert self.run(tmp_path, monkeypatch, before) == before.replace("\n2\n", "\n1\n")

    def test_an_ellipsis_stands_for_anything(self) -> None:
        assert matches("a ... z\n", "a b\nc z") and matches("...\nb", "a\nb") and not matches("a ...", "b c")
