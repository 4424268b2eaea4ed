"""How a page loads plotly's script of 5 MB: embedded in the page, or from a file that the runs in a folder share."""

from __future__ import annotations

import os
from html import escape
from pathlib import Path

from fedloru.files import write_atomic

PREFIX, SUFFIX = "plotly-", ".min.js"
"""The parts of the name of the shared file around the version of the script."""

MISSING = (
    "This page has no figures, because {path} is missing. Restore it, or write a page that needs no other file with: "
    "fedloru report --self-contained {run}"
)


def embedded() -> str:
    """Return the HTML element that holds the script."""
    from plotly.offline import get_plotlyjs

    return f"<script>{get_plotlyjs()}</script>"


def shared(run: Path) -> str:
    """Return the HTML element that loads the script from the folder that contains the run folder, and write it there.

    If that folder is not writable, or is the working directory, where nobody expects such a file, returns the element
    that holds the script. The page shows the text of ``data-missing`` if the file is missing when it is opened.
    """
    from plotly.offline import get_plotlyjs, get_plotlyjs_version

    place = Path(os.path.abspath(run))  # noqa: PTH100  # not resolved: the page is opened where the user put the folder
    path = place.parent / f"{PREFIX}{get_plotlyjs_version()}{SUFFIX}"
    if place.parent == Path.cwd() and not path.is_file():
        return embedded()
    script = get_plotlyjs().encode()
    try:
        if not path.is_file() or path.read_bytes() != script:
            write_atomic(path, script)
    except OSError:
        return embedded()
    missing = escape(MISSING.format(path=f"../{path.name}", run=place.name))
    return f'<script src="../{path.name}" data-missing="{missing}"></script>'


def is_shared(path: Path) -> bool:
    """Return whether ``path`` is a shared script, which lies among run folders."""
    return path.name.startswith(PREFIX) and path.name.endswith(SUFFIX) and path.is_file()
