"""Links, anchors, figures and coverage of the documentation. Needs no site builder."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from test_docs import cli_commands

import randout
from randout.methods.builtin import METHODS

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]
SECTIONS = ("tutorial", "how-to", "reference", "explanation")
REFERENCE = ROOT / "docs" / "reference"
SVG = "{http://www.w3.org/2000/svg}"


def without_code(text: str) -> str:
    """Markdown without fenced blocks and code spans, in which brackets are no links."""
    text = re.sub(r"^(```+).*?^\1[ \t]*$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", text)


def headings(text: str) -> list[str]:
    text = re.sub(r"^(```+).*?^\1[ \t]*$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [
        re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title) for title in re.findall(r"^#+ +(.+?) *#*$", text, re.MULTILINE)
    ]


def anchors(text: str) -> set[str]:
    """The anchors of a page that a repository browser and the site agree on; those of repeated headings are left out."""
    bare = [re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in headings(text)]
    browser = [re.sub(r"\s", "-", title) for title in bare]
    site = [re.sub(r"[-\s]+", "-", title) for title in bare]
    return {one for one, other in zip(browser, site, strict=True) if one == other and browser.count(one) == 1}


def broken(document: Path) -> Iterator[str]:
    """What is wrong with the links of a Markdown file, a line each."""
    for target in re.findall(r"\]\(([^()\s]+)\)", without_code(document.read_text(encoding="utf-8"))):
        place, _, anchor = target.partition("#")
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            if not target.startswith("https://"):
                yield f"{document.name}: {target}: only https links lead out of the repository"
            continue
        path = (document.parent / place).resolve() if place else document
        if not path.exists():
            yield f"{document.name}: {target}: no such file"
        elif anchor and (path.suffix != ".md" or anchor not in anchors(path.read_text(encoding="utf-8"))):
            yield f"{document.name}: {target}: no such heading in {path.name}, or not one with the same anchor everywhere"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_anchors_lead_somewhere(document: Path) -> None:
    assert list(broken(document)) == []


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        ("[a](other.md#b-c)", None),
        ("[a](#top)", None),
        ("`[a](none.md)`", None),
        ("```\n[a](none.md)\n```", None),
        ("[a](none.md)", "no such file"),
        ("![a](none.svg)", "no such file"),
        ("[a](other.md#c)", "no such heading"),
        ("[a](#b-c)", "no such heading"),
        ("[a](other.md#twice)", "no such heading"),
        ("[a](other.md#a-b)", "no such heading"),  # "A - b": a--b in a repository browser, a-b on the site
        ("[a](http://example.org)", "only https"),
    ],
)
def test_the_check_of_links_finds_what_is_broken(tmp_path: Path, link: str, problem: str | None) -> None:
    (tmp_path / "other.md").write_text("# Other\n\n## B, c\n\n## A - b\n\n## Twice\n\n## Twice\n\n```\n# c\n```\n")
    page = tmp_path / "page.md"
    page.write_text(f"# Top\n\n{link}\n")
    found = list(broken(page))
    assert [problem is not None and problem in text for text in found] == [True] * (problem is not None)


def test_pages_that_code_and_tests_name_exist() -> None:
    files = [path for folder in ("src", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    named = {
        (path.name, name)
        for path in [*files, ROOT / "Makefile", ROOT / "pyproject.toml"]
        for name in re.findall(r"\bdocs/[\w./-]+\.(?:md|toml|png|svg|py)\b", path.read_text(encoding="utf-8"))
    }
    assert named
    assert {(source, name) for source, name in named if not (ROOT / name).exists()} == set()


def test_every_page_has_its_place_in_the_navigation() -> None:
    settings = tomllib.loads((ROOT / "docs" / "site" / "zensical.toml").read_text(encoding="utf-8"))

    def pages(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for child in entry.values() if isinstance(entry, dict) else entry:
                yield from pages(child)

    listed = list(pages(settings["project"]["nav"]))
    assert len(set(listed)) == len(listed)
    docs = ROOT / "docs"
    there = {str(path.relative_to(docs)) for name in (*SECTIONS, "decisions") for path in (docs / name).glob("*.md")}
    assert there <= set(listed)
    assert all((docs / name).exists() or (ROOT / name).exists() for name in listed)


# ---- coverage of the reference


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """docs/site/build.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_site_build", ROOT / "docs" / "site" / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_has_every_public_name() -> None:
    text = (REFERENCE / "api.md").read_text(encoding="utf-8")
    named = re.findall(r"^::: randout\.(\w+)$", text, re.MULTILINE)
    assert sorted(named) == sorted(randout.__all__)
    for method in METHODS.values():
        if method.__name__ in named:
            assert (
                f"::: randout.{method.__name__}\n\nSettings and equation: [`{method.name}`](methods.md#{method.name})."
                in text
            )


def test_the_reference_has_every_method_with_its_equation() -> None:
    text = (REFERENCE / "methods.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### (\S+)\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL))
    assert sorted(sections) == sorted(METHODS)
    for name, section in sections.items():
        assert re.search(r"^```math\n[^`]+^```$", section, re.MULTILINE), f"{name}: no equation"
        assert section.count(f"<!-- generated: method {name} -->") == 1, name
        for variant in METHODS[name].variants:
            assert f"`{variant}`" in section, f"{name}: the variant {variant} is not mentioned"


def test_the_reference_has_every_command_and_option(build: ModuleType) -> None:
    text = build.with_references((REFERENCE / "cli.md").read_text(encoding="utf-8"))
    sections = dict(re.findall(r"^#+ randout ([\w -]+)\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL))
    commands = {words: command for words, command in cli_commands().items() if words}
    assert sections.keys() == commands.keys()
    for words, command in commands.items():
        for parameter in command.params:
            if parameter.param_type_name == "option":
                shown = {f"`{option}`" in sections[words] for option in (*parameter.opts, *parameter.secondary_opts)}
                assert shown == {not parameter.hidden}, (words, parameter.name)


def test_the_reference_has_every_setting(build: ModuleType) -> None:
    text = build.with_references((REFERENCE / "settings.md").read_text(encoding="utf-8"))
    (block,) = re.findall(r"^```toml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert tomllib.loads(block)["train"].keys() >= {"epochs", "learning_rate", "seed"}
    methods = build.with_references((REFERENCE / "methods.md").read_text(encoding="utf-8"))
    assert all(f"| `{name}.{key}` |" in methods for name, method in METHODS.items() for key in method.model_fields)
    assert "<!-- generated" not in text + methods


def test_links_are_rewritten_for_the_site(build: ModuleType) -> None:
    needed: set[Path] = set()
    page = ROOT / "docs" / "explanation" / "speed.md"
    text = (
        "[a](packing.md#x) [b](../../benchmarks/README.md#y) [c](https://example.org) [d](#z) ![e](../figures/demo.png)"
    )
    assert build.rewritten(text, page, needed) == (
        "[a](packing.md#x) [b](../benchmarks/README.md#y) [c](https://example.org) [d](#z) ![e](../figures/demo.png)"
    )
    assert needed == {ROOT / "benchmarks" / "README.md"}
    with pytest.raises(SystemExit, match=r"speed\.md: the link 'none\.md' leads to no file"):
        build.rewritten("[a](none.md)", page, needed)


# ---- figures


def contrast(one: str, other: str) -> float:
    """WCAG 2 contrast ratio of two colours #rrggbb."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("path", sorted((ROOT / "docs" / "figures").glob("*.svg")), ids=lambda path: path.stem)
def test_figures_are_accessible_and_load_nothing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    root = ET.fromstring(text)
    assert root.get("role") == "img"
    labels = {element.get("id"): element.text for element in root if element.tag in (SVG + "title", SVG + "desc")}
    assert root.get("aria-labelledby", "").split() == list(labels)
    assert len(labels) == 2
    assert all(words and len(words) > 10 for words in labels.values())
    assert text.count("http") == text.count('xmlns="http://www.w3.org/2000/svg"') == 1
    assert not re.search(r"<script|<image|@import|url\(", text)
    schemes = re.findall(r"svg\.randout-figure \{ (--[^}]*) \}", text)
    site = (ROOT / "docs" / "site" / "extra.css").read_text(encoding="utf-8")
    assert schemes == re.findall(r"svg\.randout-figure \{ (--[^}]*) \}", site), "the site has other colours"
    assert "prefers-color-scheme: dark" in text
    for scheme in schemes:
        colour = dict(re.findall(r"--(\w+): (#\w{6});", scheme))
        for ink in ("ink", "quiet", "accent"):
            for ground in ("paper", "fill"):
                assert contrast(colour[ink], colour[ground]) >= 4.5, (ink, ground, colour)


ARCHITECTURE = ROOT / "docs" / "explanation" / "architecture.md"


def named_files(text: str) -> dict[str, Path]:
    """The files that a text of the architecture page names: in the package, or from tests/ and docs/ in the repository."""
    return {
        name: (ROOT if name.startswith(("tests/", "docs/", "benchmarks/")) else ROOT / "src" / "randout") / name
        for name in re.findall(r"[`\s]((?:[a-z_0-9]+/)*[a-z_0-9]+\.(?:py|toml))\b", text)
    }


def defined(path: Path) -> set[str]:
    """The functions, classes and values of a module, and those of its classes as `Class.name`."""

    def names(body: Iterable[ast.stmt], prefix: str = "") -> Iterator[str]:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield prefix + node.name
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            yield from (prefix + one.id for one in targets if isinstance(one, ast.Name))
            if isinstance(node, ast.ClassDef):
                yield from names(node.body, f"{prefix}{node.name}.")

    return set(names(ast.parse(path.read_text(encoding="utf-8")).body))


def test_the_files_that_the_architecture_page_names_exist() -> None:
    files = named_files(ARCHITECTURE.read_text(encoding="utf-8"))
    assert len(files) > 40
    assert sum(name.startswith("tests/") for name in files) > 3
    assert [name for name, path in files.items() if not path.is_file()] == []


def test_every_folder_of_the_package_has_a_row_on_the_architecture_page() -> None:
    rows = re.findall(
        r"^\| (`[^|]*) \|", ARCHITECTURE.read_text(encoding="utf-8").partition("## Before")[0], re.MULTILINE
    )
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    package = ROOT / "src" / "randout"
    assert {path.name for path in package.iterdir() if path.is_dir() and path.name[0] not in "_."} <= named


def statements() -> list[str]:
    """Rows of "Where to put" and steps of the walks, which name files and what is in them."""
    page = ARCHITECTURE.read_text(encoding="utf-8").partition("## Where to put")[2]
    table, walks = page.split("## Three walks")
    steps = re.findall(r"^\d+\. .*", walks, re.MULTILINE)
    assert len(steps) > 30
    assert all(re.match(r"\d+\. `[a-z_/0-9]+\.py`, (?:`[\w.]+`, )*`[\w.]+`: ", step) for step in steps)
    return [*re.findall(r"^\| an? .*", table, re.MULTILINE), *steps]


@pytest.mark.parametrize("statement", statements(), ids=lambda text: text[:40])
def test_what_the_architecture_page_names_is_in_the_file_that_it_names(statement: str) -> None:
    files = [path for path in named_files(statement).values() if path.suffix == ".py"]
    names = re.findall(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)`", statement)
    names = [name for name in names if not name.endswith((".py", ".toml", ".json"))]
    assert [name for name in names if not any(name in defined(path) for path in files)] == []
