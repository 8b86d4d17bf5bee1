"""The built documentation site: complete, closed in itself, without requests to other hosts. Skipped without the extra `docs`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

import randout
from randout.methods.builtin import METHODS

for needed in ("zensical", "mkdocstrings", "latex2mathml"):
    pytest.importorskip(needed, reason="the extra `docs` is not installed")

ROOT = Path(__file__).parents[2]
LOADED = {"src", "srcset", "poster", "data"}  # attributes whose target a browser loads by itself


class Page(HTMLParser):
    """Links, anchors and loaded addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = {""}
        self.loaded: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("id", "name") and value:
                self.anchors.add(value)
            elif tag == "a" and name == "href" and value:
                self.links.append(value)
            elif value and (name in LOADED or (tag == "link" and name == "href")):
                self.loaded.append(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built by its command."""
    work = tmp_path_factory.mktemp("docs")
    command = [sys.executable, str(ROOT / "docs" / "site" / "build.py"), "--work", str(work)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return work / "site"


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_links_of_the_site_lead_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    broken = []
    for path, page in pages.items():
        for link in page.links:
            place, _, anchor = unquote(link).partition("#")
            if re.match(r"[a-z]+:", link) or path.name == "404.html":
                continue
            target = (path.parent / place).resolve() if place else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (target in pages and anchor not in pages[target].anchors):
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []
    assert len(pages) > 30


def test_nothing_is_loaded_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    foreign = {
        (path.name, url) for path, page in pages.items() for url in page.loaded if re.match(r"(https?:)?//", url)
    }
    assert foreign == set()
    for path in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", path.read_text(encoding="utf-8")), path.name


def test_the_site_has_every_name_method_and_figure(site: Path, pages: dict[Path, Page]) -> None:
    api = pages[site / "reference" / "api.html"]
    assert {f"randout.{name}" for name in randout.__all__} <= api.anchors
    methods = (site / "reference" / "methods.html").read_text(encoding="utf-8")
    assert pages[site / "reference" / "methods.html"].anchors >= METHODS.keys()
    assert methods.count('<div class="equation">') >= len(METHODS)
    assert "```" not in methods
    assert "$`" not in methods
    for page, figure in (
        ("index", "workflow"),
        ("explanation/packing", "packing"),
        ("how-to/add-a-method", "training-step"),
    ):
        assert f'id="{figure}-title"' in (site / f"{page}.html").read_text(encoding="utf-8"), figure


def test_the_search_index_covers_the_pages(site: Path) -> None:
    index = json.dumps(json.loads((site / "search.json").read_text(encoding="utf-8")))
    for words in ("how-to/prepare-data.html", "reference/cli.html", "explanation/statistics.html", "NEFTune"):
        assert words in index, words
