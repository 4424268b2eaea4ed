"""What the script of a page does with figures, in a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedloru.report.palette import DARK

from .browser import click, figure, prefer, resize

pytestmark = pytest.mark.browser


def test_every_figure_is_drawn(opened: Any) -> None:
    figures, drawn = opened.execute_script(
        "return ['.figure', '.figure .main-svg:first-child'].map(s => document.querySelectorAll(s).length)"
    )
    assert figures == drawn > 10


def test_the_mean_of_a_smoothed_curve_lies_over_the_pale_values(opened: Any) -> None:
    raw = figure(opened, "loss-over-rounds")["data"][0]["y"]
    opened.execute_script(
        "const s = document.querySelector('#smoothing'); s.value = 2; s.dispatchEvent(new Event('input'))"
    )
    pale, mean = figure(opened, "loss-over-rounds")["data"][:2]
    assert pale["y"] == raw and pale["opacity"] < 0.5
    assert pale["hovertemplate"].count("%{") == 2 and pale["text"] == mean["y"]
    reach = [min(2, at, len(raw) - 1 - at) for at in range(len(raw))]
    expected = [np.mean(raw[at - r : at + r + 1]) for at, r in enumerate(reach)]
    np.testing.assert_allclose(mean["y"], expected)
    assert opened.find_element("css selector", ".controls output").text == "mean of 5"


def test_axes_are_switched_to_logarithmic_and_back(opened: Any) -> None:
    button = '#loss-over-rounds [title="Logarithmic y-axis"]'
    click(opened, button)
    assert figure(opened, "loss-over-rounds")["layout"]["yaxis"]["type"] == "log"
    assert opened.find_element("css selector", button).get_attribute("aria-pressed") == "true"
    click(opened, button)
    assert figure(opened, "loss-over-rounds")["layout"]["yaxis"]["type"] == "linear"


@pytest.mark.parametrize(("name", "start"), [("svg", b"<svg"), ("png", b"\x89PNG")])
def test_a_figure_is_saved(opened: Any, downloads: Path, name: str, start: bytes) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    click(opened, f'#loss-over-rounds [title$="{name.upper()}"]')
    path = downloads / f"demo-loss-over-rounds.{name}"
    WebDriverWait(opened, 20).until(lambda _: path.exists() and path.stat().st_size)
    assert path.read_bytes().startswith(start)


def test_hovering_shows_values_with_their_round(opened: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.wait import WebDriverWait

    plot = opened.find_element("css selector", "#loss-over-rounds .plot")
    opened.execute_script("arguments[0].scrollIntoView({block: 'center'})", plot)

    def hovered(_: Any) -> str:
        ActionChains(opened).move_to_element_with_offset(plot, 30, 0).move_by_offset(5, 5).perform()
        return " ".join(
            text.text for text in opened.find_elements("css selector", "#loss-over-rounds .hoverlayer text")
        )

    found = WebDriverWait(opened, 20).until(hovered)
    assert "round " in found and "train" in found


def test_pages_are_printed_in_the_light_theme_with_figures_that_fit(opened: Any) -> None:
    prefer(opened, "dark")
    opened.refresh()
    resize(opened, 1600)
    opened.execute_script("dispatchEvent(new Event('beforeprint'))")
    assert figure(opened, "accuracy-over-rounds")["data"][0]["line"]["color"] in DARK
    widths = "[...document.querySelectorAll('.plot')].map(p => [p._fullLayout.width, p.clientWidth])"
    assert all(drawn == room for drawn, room in opened.execute_script(f"return {widths}"))
    opened.execute_script("dispatchEvent(new Event('afterprint'))")
    assert figure(opened, "accuracy-over-rounds")["data"][0]["line"]["color"] in DARK.values()
