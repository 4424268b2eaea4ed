"""Hooks of the documentation site: files from outside docs/, the reference of catalogues, and checks of pages."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
"""Files of the repository that are pages of the site, and the name of each page."""

CATALOGUE = re.compile(r"^<!-- catalogue: (\S+) -->$", re.MULTILINE)
ENTRY = re.compile(r"^from (\S+) import (\w+) as \2$", re.MULTILINE)

TESTING = re.compile(r"^<!-- (?:tested\b.*?|setup\n.*?^)-->\n", re.DOTALL | re.MULTILINE)
"""Comments for the test of a page: see tests/pages.py."""

LINK_OUT = re.compile(r"(?<=\]\()\.\./([^)#\s]+)")
LINK_IN = re.compile(r"(?<=\]\()docs/")
REMOTE_ASSET = re.compile(
    r"""<(?:script|img|iframe|source|video)\b[^>]*\bsrc=["']?(?:https?:)?//[^\s"'>]*"""
    r"""|<link\b(?=[^>]*\brel=["']?(?:stylesheet|preload|preconnect|icon))[^>]*\bhref=["']?(?:https?:)?//[^\s"'>]*"""
)


def expanded(markdown: str) -> str:
    """Return the text of a page with a ``:::`` block for each entry of the catalogue modules that it names."""
    return CATALOGUE.sub(lambda named: "\n\n".join(_blocks((ROOT / named[1]).read_text(encoding="utf-8"))), markdown)


def _blocks(catalogue: str) -> list[str]:
    return [f"::: {module}\n    options:\n      members: [{name}]" for module, name in ENTRY.findall(catalogue)]


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages of ``PAGES``, and every file outside docs/ that a page of docs/ links to."""
    for page in [file for file in files.documentation_pages() if "/" not in file.src_uri]:
        for target in LINK_OUT.findall(page.content_string):
            path = ROOT / target
            if path.is_file() and path.suffix != ".md" and target not in files.src_uris:
                files.append(File.generated(config, target, abs_src_path=str(path)))
    for source, name in PAGES.items():
        files.append(File.generated(config, name, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the text of a page without the comments for its test, and with links that work on the site."""
    markdown = TESTING.sub("", markdown)
    name = page.file.src_uri
    if name in PAGES.values():
        return LINK_IN.sub("", markdown)
    if name.startswith("reference/"):
        return expanded(markdown)
    return LINK_OUT.sub(lambda link: PAGES.get(link[1], link[1]), markdown) if "/" not in name else markdown


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Return the page as it is.

    Raises:
        PluginError: it loads a script, style sheet, font or image from another host.
    """
    if found := REMOTE_ASSET.findall(output):
        raise PluginError(f"{page.file.src_uri} loads files from another host: {found}")
    return output
