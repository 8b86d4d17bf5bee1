"""Build the documentation site in build/docs/site, without network access.

    python docs/site/build.py [--pages-only] [--work build/docs]

Steps: copy the Markdown pages to build/docs/pages; insert the generated references; convert equations to MathML; inline the
figures; rewrite links that leave docs/; run Zensical. `--pages-only` stops before Zensical and needs no site builder.

Markers in the pages, each on a line of its own:

    <!-- generated: cli -->            every command with its arguments and options
    <!-- generated: settings -->       the default recipe
    <!-- generated: method NAME -->    source, cost and settings of one method
"""

from __future__ import annotations

import argparse
import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
DOCS = ROOT / "docs"
WORK = ROOT / "build" / "docs"
EXTRA_PAGES = ("benchmarks/README.md",)  # pages outside docs/ that belong to the site
FENCE = re.compile(r"^(```+)([^\n`]*)\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^()\s]+)\)")


# ---- generated references


def cli_reference() -> str:
    """Every command as Markdown: help, usage, arguments and options."""
    from typer.main import get_command

    from randout.cli.app import app

    return "\n".join(_command("randout", get_command(app), 2))


def _command(path: str, command: Any, level: int) -> Iterator[str]:
    children = getattr(command, "commands", {})
    if path != "randout":
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
        usage = [path, *(["[OPTIONS]"] if options else []), *(_metavar(p) for p in arguments)]
        usage += ["COMMAND"] if children else []
        yield from (f"{'#' * level} {path}", "", _text(command.help), "", "```text", " ".join(usage), "```", "")
        yield from _parameters("argument", [(f"`{_metavar(p)}`", p) for p in arguments])
        yield from _parameters("option", [(_flags(p), p) for p in options])
        level += 1
    for name, child in children.items():
        if not child.hidden:
            yield from _command(f"{path} {name}", child, level)


def _parameters(kind: str, rows: list[tuple[str, Any]]) -> Iterator[str]:
    if rows:
        yield from (f"| {kind} | meaning |", "|---|---|")
        yield from (f"| {name} | {_text(p.help)}{_default(p)} |" for name, p in rows)
        yield ""


def _metavar(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _flags(parameter: Any) -> str:
    return ", ".join(f"`{flag}`" for flag in [*parameter.opts, *parameter.secondary_opts])


def _default(parameter: Any) -> str:
    """The default after the help, where the help does not say it."""
    value = parameter.default
    shown = type(value) in (str, int, float) or isinstance(value, Path)
    return f" (default: `{value}`)" if shown and str(value) and "default" not in (parameter.help or "") else ""


def _text(words: str | None) -> str:
    """Help as Markdown in a table cell: characters with a meaning there are escaped."""
    escaped = re.sub(r"([\\*_<>\[\]|])", r"\\\1", " ".join((words or "").split()))
    return re.sub(r"\\?`([^`]*)`", lambda found: "`" + found[1].replace("\\", "") + "`", escaped)


def settings_reference() -> str:
    """The default recipe, as `randout init` prints it."""
    from typer.testing import CliRunner

    from randout.cli.app import app

    done = CliRunner().invoke(app, ["init"], catch_exceptions=False)
    return f"```toml\n{done.stdout.strip()}\n```"


def method_reference(name: str) -> str:
    """Source, cost and settings of a method."""
    from randout.methods.builtin import METHODS

    method = METHODS[name]
    lines = [f"Source: {_text(method.source)}. Cost: {method.cost} a training step.", ""]
    if method.model_fields:
        lines += ["| setting | default | meaning |", "|---|---|---|"]
        for key, field in method.model_fields.items():
            value = list(field.default) if isinstance(field.default, tuple) else field.default
            shown = str(value).lower() if isinstance(value, bool) else str(value).replace("'", '"')
            lines.append(f"| `{name}.{key}` | `{shown}` | {_text(field.description)} |")
    return "\n".join(lines)


GENERATED: dict[str, Callable[..., str]] = {
    "cli": cli_reference,
    "settings": settings_reference,
    "method": method_reference,
}


def with_references(text: str) -> str:
    """The page with every marker replaced by what it names."""
    return re.sub(
        r"^<!-- generated: (\w+)(?: (\S+))? -->$",
        lambda found: GENERATED[found[1]](*([found[2]] if found[2] else [])),
        text,
        flags=re.MULTILINE,
    )


# ---- equations, figures, fences


def mathml(latex: str, display: str) -> str:
    """An equation as MathML, with no character that Markdown would interpret."""
    from latex2mathml.converter import convert

    made = str(convert(latex.strip(), display=display))
    if "&#x00026;" in made or "\\" in made:
        raise SystemExit(f"equation: a part of it cannot be converted to MathML; write it otherwise: {latex.strip()}")
    return made.replace("*", "&#42;").replace("_", "&#95;").replace("`", "&#96;")


def outside_fences(text: str, change: Callable[[str], str], fence: Callable[[re.Match[str]], str]) -> str:
    """`text` with `change` applied outside fenced blocks and `fence` to each block."""
    parts, at = [], 0
    for found in FENCE.finditer(text):
        parts += [change(text[at : found.start()]), fence(found)]
        at = found.end()
    return "".join([*parts, change(text[at:])])


def fenced(found: re.Match[str]) -> str:
    """A fenced block for the site: equations as MathML, without the notes that only the tests read."""
    _, info, body = found.groups()
    language, _, notes = info.partition(" ")
    if language == "math":
        return f'<div class="equation">{mathml(body, "block")}</div>'
    named = re.search(r"file=(\S+)", notes)
    title = f' title="{named[1]}"' if named else ""
    return f"```{language or 'text'}{title}\n{body}```"


def figure(path: Path) -> str:
    """An SVG file as inline markup, so that its title, description and colours belong to the page."""
    svg = path.read_text(encoding="utf-8")
    return f'<div class="figure">\n{re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL).strip()}\n</div>'


# ---- links


def staged(path: Path) -> str:
    """Where a file of the repository stands in the site's pages."""
    return str(path.relative_to(DOCS)) if path.is_relative_to(DOCS) else str(path.relative_to(ROOT))


def rewritten(text: str, source: Path, needed: set[Path]) -> str:
    """The page with links for the site; files outside docs/ that it links to are added to `needed`."""

    def link(found: re.Match[str]) -> str:
        label, target = found.groups()
        place, hash_, anchor = target.partition("#")
        if not place or re.match(r"[a-z]+:", place):
            return found[0]
        path = (source.parent / place).resolve()
        if not path.exists():
            raise SystemExit(f"{source.relative_to(ROOT)}: the link {target!r} leads to no file")
        if label.startswith("!") and path.suffix == ".svg" and path.is_relative_to(DOCS):
            return figure(path)
        if path.is_dir():
            path /= "README.md"
        if not path.is_relative_to(DOCS):
            needed.add(path)
        here = Path(staged(source)).parent
        return f"{label}({Path(os.path.relpath(staged(path), here)).as_posix()}{hash_}{anchor})"

    return LINK.sub(link, text)


def inline_math(text: str) -> str:
    """$`...`$ as MathML, in a span: Markdown takes a line that begins with <math> for a block."""
    return re.sub(r"\$`([^`]+)`\$", lambda found: f"<span>{mathml(found[1], 'inline')}</span>", text)


def page(source: Path, needed: set[Path]) -> str:
    """A page of the repository as Zensical reads it."""
    text = with_references(source.read_text(encoding="utf-8"))

    def prose(part: str) -> str:
        return inline_math(rewritten(part, source, needed))

    return outside_fences(text, prose, fenced)


def prepare(pages: Path) -> None:
    """Write all pages and the files they refer to into the folder `pages`."""
    shutil.rmtree(pages, ignore_errors=True)
    needed: set[Path] = {ROOT / name for name in EXTRA_PAGES}
    sources = [path for path in sorted(DOCS.rglob("*")) if path.is_file() and HERE not in path.parents]
    done: set[Path] = set()
    while todo := [path for path in [*sources, *sorted(needed)] if path not in done]:
        for path in todo:
            target = pages / staged(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".md":
                target.write_text(page(path, needed), encoding="utf-8")
            elif path.suffix != ".svg":
                shutil.copy(path, target)
            done.add(path)
    shutil.copy(HERE / "extra.css", pages / "extra.css")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages-only", action="store_true", help="stop before Zensical")
    parser.add_argument("--work", type=Path, default=WORK, help="folder for pages and site (default: build/docs)")
    arguments = parser.parse_args()
    work: Path = arguments.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    prepare(work / "pages")
    settings = (HERE / "zensical.toml").read_text(encoding="utf-8")
    source = html.escape(os.path.relpath(ROOT / "src", work))
    (work / "zensical.toml").write_text(settings.replace("../../src", source), encoding="utf-8")
    if arguments.pages_only:
        return
    shutil.rmtree(work / "site", ignore_errors=True)
    command = [sys.executable, "-m", "zensical", "build", "--clean", "--strict"]
    done = subprocess.run(command, cwd=work)
    if done.returncode:
        raise SystemExit(f"zensical ended with exit code {done.returncode}; its messages are above")
    print(f"Open {work / 'site' / 'index.html'}")


if __name__ == "__main__":
    main()
