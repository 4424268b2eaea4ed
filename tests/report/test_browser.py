"""What the script of a page does, in a real browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedloru.report import blocks, write
from fedloru.report.palette import DARK, GROUND, PAPER

from .browser import browser, photograph, prefer, resize
from .made_up import alignment, ranks, write_federation, write_run, write_study

pytestmark = pytest.mark.browser

EVIL = "</script><img src=x onerror='document.title=1'><a href='https://example.org'>x</a><b>bold</b>"


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def driver(downloads: Path) -> Iterator[Any]:
    with browser(downloads) as driver:
        yield driver


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a federation with all kinds of figures and tables, and with long and hostile names."""
    names = [EVIL, "a-name-without-any-space-" * 3, *(f"site {number}" for number in range(10))]
    run = write_federation(tmp_path_factory.mktemp("runs") / "demo", names)
    hostile(run)
    write_study(run, "ranks", ranks(10))
    write_study(run, "alignment", alignment(10))
    return write(run)


def hostile(run: Path) -> None:
    """Give the sites, diagnostics, classes, the loss and other things in a run folder names that are HTML."""
    rows = [json.loads(line) for line in (run / "rounds.jsonl").read_text().splitlines()]
    for row in rows:
        row["sites"] = {f"{EVIL}.{name}": values for name, values in row["sites"].items()}
        row["diagnostics"] |= {EVIL: row["round"] ** 2}
        row["bytes"]["up"][EVIL] = 1000
        row["test_" + EVIL] = 0.5
    (run / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = json.loads((run / "summary.json").read_text())
    names = {"method": EVIL, "loss": EVIL, "engine_reason": EVIL, "versions": {EVIL: EVIL}, "notes": [EVIL]}
    (run / "summary.json").write_text(json.dumps(summary | names))


@pytest.fixture
def opened(driver: Any, page: Path) -> Any:
    prefer(driver, "light")
    resize(driver, 1200)
    driver.get(page.as_uri())
    driver.execute_script("localStorage.clear()")
    driver.refresh()
    driver.get_log("browser")
    return driver


def color(driver: Any, selector: str, name: str = "background-color") -> str:
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    values = driver.execute_script(script, selector, name).strip("rgba()").split(",")[:3]
    return "#" + "".join(f"{int(value):02x}" for value in values)


def click(driver: Any, selector: str) -> None:
    driver.execute_script("document.querySelector(arguments[0]).click()", selector)


def figure(driver: Any, name: str) -> dict[str, Any]:
    """Return the data and the layout that a figure is drawn from."""
    script = (
        "const p = document.querySelector(`#${arguments[0]} .plot`); return JSON.stringify([p.data, p._fullLayout])"
    )
    keep = "(key, value) => key.startsWith('_') ? undefined : value"
    data, layout = json.loads(driver.execute_script(script.replace("_fullLayout]", f"layout], {keep}"), name))
    return {"data": data, "layout": layout}


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


def test_every_figure_is_drawn(opened: Any) -> None:
    figures, drawn = opened.execute_script(
        "return ['.figure', '.figure .main-svg:first-child'].map(s => document.querySelectorAll(s).length)"
    )
    assert figures == drawn > 10


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
