"""What the script of a page does, in a real browser."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedloru.report import blocks, write
from fedloru.report.palette import DARK, GROUND, PAPER

from .browser import click, color, figure, photograph, prefer, resize
from .made_up import write_run

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [420, 800, 1600])
def test_a_page_fits_every_screen(driver: Any, page: Path, tmp_path: Path, width: int, theme: str) -> None:
    from PIL import Image

    prefer(driver, theme)
    resize(driver, width)
    driver.get(page.as_uri())
    assert driver.execute_script("return document.documentElement.scrollWidth") == width
    boxes = "[...document.querySelectorAll('.card, .tiles > div, .note')]"
    assert driver.execute_script(f"return {boxes}.filter(box => box.scrollWidth > box.clientWidth).length") == 0
    photograph(driver, tmp_path / "page.png")
    pixels = np.asarray(Image.open(BytesIO((tmp_path / "page.png").read_bytes())).convert("RGB"))
    paper = PAPER if theme == "light" else DARK[PAPER]
    share = (pixels == [int(paper[at : at + 2], 16) for at in (1, 3, 5)]).all(-1).mean()
    assert share > 0.4  # cards and the background of figures


def test_nothing_is_requested_and_nothing_fails(driver: Any, page: Path) -> None:
    driver.get_log("performance")
    driver.get(page.as_uri())
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    requested = {
        event["params"]["request"]["url"].split(":")[0]
        for event in events
        if event["method"].endswith("requestWillBeSent")
    }
    assert requested <= {"file", "data", "blob"}
    assert driver.get_log("browser") == []
    assert driver.title == "demo · fedloru"
    assert driver.find_elements("css selector", "a, img, iframe, b, script[src]:not([data-missing])") == []


def test_the_theme_follows_the_system_and_the_choice_is_remembered(opened: Any) -> None:
    from selenium.webdriver.support.wait import WebDriverWait

    assert color(opened, "body") == GROUND
    click(opened, "#theme")
    assert color(opened, "body") == DARK[GROUND]
    trace = figure(opened, "accuracy-over-rounds")
    assert trace["data"][0]["line"]["color"] in DARK.values()
    opened.refresh()
    assert color(opened, "body") == DARK[GROUND]
    click(opened, "#theme")
    assert color(opened, "body") == GROUND
    assert figure(opened, "accuracy-over-rounds")["data"][0]["line"]["color"] in DARK
    prefer(opened, "dark")
    WebDriverWait(opened, 20).until(lambda _: color(opened, "body") == DARK[GROUND])


def test_tables_are_sorted_by_keyboard_and_pointer(opened: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    def column(number: int) -> list[str]:
        return opened.execute_script(
            "return [...arguments[0].closest('table').tBodies[0].rows].map(row => row.cells[arguments[1]].textContent)",
            head,
            number,
        )

    sortable = opened.find_elements("css selector", "table:has(thead button)")
    table = next(table for table in sortable if "client" in table.text.split("\n")[0])
    head = table.find_element("css selector", "thead th:nth-child(3)")
    button = head.find_element("css selector", "button")
    before = column(2)
    button.send_keys(Keys.ENTER)
    assert head.get_attribute("aria-sort") == "ascending"
    known = [value for value in column(2) if value != "–"]
    assert known == sorted(known, key=lambda value: int(value.replace(",", "")))
    assert column(2)[len(known) :] == ["–"] * before.count("–")
    button.click()
    assert head.get_attribute("aria-sort") == "descending" and column(2)[: len(known)] == known[::-1]
    button.send_keys(Keys.SPACE)
    assert head.get_attribute("aria-sort") is None and column(2) == before


@pytest.mark.parametrize(
    "texts",
    [
        ["2.25 s", "59 s", "3 min 05 s", "1 h 02 min"],
        ["−0.5", "0", "1e-3", "0.25", "1,234", "12,000.5"],
        ["900 kB", "49.3 MB", "1.2 GB"],
        ["9.8 ± 0.3", "72.1 ± 10.0", "100.0"],
        ["4.9 %", "16.0 %"],
        ["client 2", "client 10"],
        ["0, 1", "0, 2", "0, 10"],
        ["9* (2 of 3)", "10", "not reached"],
    ],
)
def test_cells_are_sorted_by_what_they_say(driver: Any, tmp_path: Path, texts: list[str]) -> None:
    path = tmp_path / "table.html"
    table = blocks.table(("name", "value"), [(str(n), text) for n, text in enumerate(texts[::-1])])
    path.write_text(blocks.document("table", [table], ""), encoding="utf-8")
    driver.get(path.as_uri())
    click(driver, "th:nth-child(2) button")
    assert [cell.text for cell in driver.find_elements("css selector", "td")] == texts


def test_the_total_stays_below(opened: Any) -> None:
    click(opened, "table.numbers th:nth-child(2) button")
    assert opened.find_element("css selector", "table.numbers tbody tr:last-child th").text == "total"


def test_a_term_is_explained_when_it_gets_the_focus(opened: Any) -> None:
    term = opened.find_element("css selector", ".card abbr")
    opened.execute_script("arguments[0].focus()", term)
    tip = opened.find_element("id", "explanation")
    assert tip.is_displayed() and tip.text == term.get_attribute("data-meaning")


def test_a_page_without_scripts_has_its_texts_and_tables(driver: Any, page: Path) -> None:
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        prefer(driver, "dark")
        driver.get(page.as_uri())
        text = driver.find_element("css selector", "main").text
        assert "site 3" in text and "Total bytes" in text
        assert color(driver, "body") == DARK[GROUND]
    finally:
        driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_a_page_says_that_its_plotting_script_is_missing(driver: Any, tmp_path: Path) -> None:
    path = write(write_run(tmp_path / "run", rounds=3))
    (script,) = tmp_path.glob("plotly-*.js")
    driver.get(path.as_uri())
    assert driver.find_elements("css selector", ".main-svg") and not driver.find_elements("css selector", ".note")
    script.unlink()
    driver.get(path.as_uri())
    assert "plotly" in driver.find_element("css selector", ".note").text
