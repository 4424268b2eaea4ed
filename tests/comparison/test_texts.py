"""LaTeX and Markdown: every row has all columns, and all characters of a label are printed literally."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fedloru.comparison.groups import Group, grouped
from fedloru.comparison.texts import escaped, latex, markdown

from .made_up import results

HOSTILE = r"A_1 & 50% $x^2$ #{\input{x}} ~|<b> τ=5 [t] \\"


def named(groups: list[Group], label: str) -> list[Group]:
    return grouped([run for group in groups for run in group.runs], {"FedLoRU": label})


def test_latex_has_two_tables_whose_rows_have_all_columns(groups: list[Group]) -> None:
    text = latex(results(named(groups, HOSTILE), 0.9))
    tables = re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(tables) == 2 == text.count(r"\begin{table}") == text.count(r"\end{table}")
    for columns, body in tables:
        lines = [line for line in body.splitlines() if not re.fullmatch(r"\\(top|mid|bottom)rule", line)]
        assert len(lines) > 1
        for line in lines:
            assert line.endswith(r" \\") and len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")
    assert text.count(r"\textbf{") == 1 and all(character.isascii() for character in text)


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_and_fits_the_page(groups: list[Group], tmp_path: Path) -> None:
    (tmp_path / "table.tex").write_text(latex(results(named(groups, HOSTILE), 0.9)), encoding="utf-8")
    start = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}\input{table.tex}\end{document}"
    (tmp_path / "paper.tex").write_text(start, encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=60)
    assert done.returncode == 0 and "Overfull" not in done.stdout


def test_latex_prints_every_character() -> None:
    assert escaped(HOSTILE) == (
        r"A\_1 \& 50\% \$x\textasciicircum{}2\$ \#\{\textbackslash{}input\{x\}\} \textasciitilde{}\textbar{}$<$b$>$ "
        r"$\tau$=5 {[}t{]} \textbackslash{}\textbackslash{}"
    )
    assert escaped("Größe") == "Größe"


def test_markdown_has_tables_whose_rows_have_all_columns(groups: list[Group]) -> None:
    text = markdown(results(named(groups, HOSTILE), 0.9))
    tables = [block for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for block in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1
    assert r"A\_1 & 50% $x^2$" in text and r"\<b\>" in text and text.count("**") == 2


@pytest.mark.parametrize("write", [latex, markdown])
def test_the_best_mean_is_bold(write: object, groups: list[Group]) -> None:
    text = write(results(groups))  # type: ignore[operator]
    bold = re.findall(r"(?:\\textbf\{|\*\*)([\d.]+)", text)
    assert bold == [f"{100 * (groups[0].runs[1].rounds[-1]['test_accuracy']):.1f}"]
