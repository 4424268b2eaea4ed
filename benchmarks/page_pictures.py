"""Photographs the page of a run in Chromium, for docs/reading-a-page.md.

From the root of the repository:

    fedloru run demo --out runs/demo -s eval.diagnostics_every=2
    python -m benchmarks.page_pictures runs/demo [--pictures DIR]

Needs Chromium and chromedriver, and takes seconds.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedloru.report import write
from tests.report.browser import browser, prefer, resize

SMOOTHED = """
document.querySelector("#smoothing").value = 2;
document.querySelector("#smoothing").dispatchEvent(new Event("input"));
document.querySelector("#loss-over-rounds [title='Logarithmic y-axis']").click();
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--pictures", type=Path, default=Path("docs/pictures"))
    arguments = parser.parse_args()
    page = write(arguments.run).resolve().as_uri()
    with TemporaryDirectory() as downloads, browser(Path(downloads)) as driver:
        photograph(driver, page, arguments.pictures)


def photograph(driver: Any, page: str, pictures: Path) -> None:
    """Save the top of a page in the light theme, and one smoothed figure on a logarithmic axis in the dark theme."""
    prefer(driver, "light")
    resize(driver, 1200, 980)
    driver.get(page)
    driver.save_screenshot(str(pictures / "page-top.png"))
    prefer(driver, "dark")
    resize(driver, 800, 1600)  # an element is cut where the window ends
    driver.get(page)
    driver.execute_script(SMOOTHED)
    card = driver.find_element("css selector", ".card:has(#loss-over-rounds)")
    card.screenshot(str(pictures / "page-figure.png"))


if __name__ == "__main__":
    main()
