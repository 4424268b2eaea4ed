"""A browser without a window that opens pages from the disk, for tests of their script and for pictures of pages."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextmanager
def browser(downloads: Path) -> Iterator[Any]:
    """Yield a driver of Chromium that saves files in ``downloads``; skip the test if there is no browser."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install selenium")
    binary = next(filter(None, map(shutil.which, NAMES)), None)
    server = shutil.which("chromedriver")
    if not binary or not server:
        pytest.skip("needs Chromium and chromedriver; on Debian: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(server))
    try:
        yield driver
    finally:
        driver.quit()


def resize(driver: Any, width: int, height: int = 1000) -> None:
    """Give the page a width in CSS pixels; windows cannot be as narrow as a phone."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def prefer(driver: Any, theme: str) -> None:
    """Set the theme that the system prefers."""
    features = [{"name": "prefers-color-scheme", "value": theme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def photograph(driver: Any, path: Path) -> None:
    """Save a picture of the whole page as PNG."""
    root = "document.documentElement"
    width, height = driver.execute_script(f"return [{root}.clientWidth, {root}.scrollHeight]")
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    shot = driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    path.write_bytes(base64.b64decode(shot["data"]))


def color(driver: Any, selector: str, name: str = "background-color") -> str:
    """Return a color of an element, such as "#ffffff"."""
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    values = driver.execute_script(script, selector, name).strip("rgba()").split(",")[:3]
    return "#" + "".join(f"{int(value):02x}" for value in values)


def click(driver: Any, selector: str) -> None:
    """Click on an element, wherever it is."""
    driver.execute_script("document.querySelector(arguments[0]).click()", selector)


def figure(driver: Any, name: str) -> dict[str, Any]:
    """Return the data and the layout that a figure is drawn from."""
    script = (
        "const p = document.querySelector(`#${arguments[0]} .plot`); return JSON.stringify([p.data, p._fullLayout])"
    )
    keep = "(key, value) => key.startsWith('_') ? undefined : value"
    data, layout = json.loads(driver.execute_script(script.replace("_fullLayout]", f"layout], {keep}"), name))
    return {"data": data, "layout": layout}
