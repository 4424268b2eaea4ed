"""The contrast of colors to the paper, as WCAG 2.2 defines it."""

import json
import re

import pytest

from fedloru.report import page, palette
from fedloru.report.records import Records
from fedloru.report.style import KINDS

SERIES = {*palette.CLASSES, *KINDS.values(), palette.BLUE, palette.VERMILLION, palette.GREEN}
TEXT = (palette.INK, palette.MUTED, palette.BLUE)


def luminance(color: str) -> float:
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("dark", [False, True])
def test_lines_and_texts_stand_out(dark: bool) -> None:
    def shown(color: str) -> str:
        return palette.DARK[color] if dark else color

    paper = shown(palette.PAPER)
    assert all(contrast(shown(color), paper) >= 3 for color in SERIES)
    assert all(contrast(shown(color), paper) >= 4.5 for color in TEXT)
    assert contrast(shown(palette.MUTED), shown(palette.GROUND)) >= 4.5
    assert contrast(shown(palette.INK), shown(palette.NOTE)) >= 4.5


def test_each_color_has_one_dark_color() -> None:
    assert len(set(palette.DARK.values())) >= len(palette.DARK) - 3  # shades of two palettes may meet
    assert palette.DARK.keys() >= {*palette.VARIABLES.values(), *(color for _, color in palette.SHADES)}


def test_figures_of_a_run_use_colors_of_the_palette_only(records: Records) -> None:
    def colors(value: object, key: str = "") -> set[str]:
        if isinstance(value, dict):
            return {color for name, inner in value.items() for color in colors(inner, name)}
        if isinstance(value, list):
            return {color for inner in value for color in colors(inner, key)}
        return {value} if isinstance(value, str) and re.search("color$|colorscale$|colorway$", key) else set()

    figures = re.findall(r'<div class="figure"[^>]*><script type="application/json">(.*?)</script>', page(records))
    assert len(figures) == 11
    used = {color for figure in figures for color in colors(json.loads(figure))}
    assert used - {"rgba(0, 0, 0, 0)"} <= palette.DARK.keys()
