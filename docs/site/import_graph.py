"""Draw the import graph of a source tree as SVG: packages (or modules) in rows, each above everything that it imports.

    python docs/site/import_graph.py src/randout docs/explanation/imports.svg
    python docs/site/import_graph.py src/randout docs/explanation/imports.svg --modules

Imports inside functions count. A circle is drawn in one row. Arrows that a path over other boxes implies are left out.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterable
from pathlib import Path

BOX, GAP, ROW, MARGIN = 26, 14, 84, 24


def imports(root: Path) -> dict[str, set[str]]:
    """Module names (dotted, without the root's) and the modules of the same tree that each imports."""
    modules = {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(root.rglob("*.py"))
        if path.parent != root or path.stem != "__init__"
    }
    found: dict[str, set[str]] = {}
    for name, path in modules.items():
        here = name.split(".") if path.stem == "__init__" else name.split(".")[:-1]
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom):
                continue
            parts = (node.module or "").split(".")
            if node.level:
                base = here[: len(here) - node.level + 1]
            elif parts[0] == root.name:
                base, parts = [], parts[1:]
            else:
                continue
            module = ".".join([*base, *filter(None, parts)])
            for alias in node.names:
                whole = f"{module}.{alias.name}".lstrip(".")
                found[name] |= {
                    one for one in (whole if whole in modules else module,) if one in modules and one != name
                }
    return found


def by_package(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same graph with each module replaced by the top-level package that it is in."""
    found: dict[str, set[str]] = {}
    for name, others in graph.items():
        own = name.split(".")[0]
        found.setdefault(own, set()).update({other.split(".")[0] for other in others} - {own})
    return found


def floors(graph: dict[str, set[str]]) -> dict[str, int]:
    """Node -> its row: one above the highest that it imports; nodes of a circle share a row."""
    component = {name: at for at, names in enumerate(components(graph)) for name in names}
    members: dict[int, list[str]] = {}
    for name, at in component.items():
        members.setdefault(at, []).append(name)
    level: dict[int, int] = {}

    def rise(at: int) -> int:
        if at not in level:
            below = {component[other] for name in members[at] for other in graph[name]} - {at}
            level[at] = 1 + max((rise(one) for one in below), default=-1)
        return level[at]

    return {name: rise(at) for name, at in component.items()}


def components(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components (Tarjan)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in index:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], index[other])
        if low[name] == index[name]:
            at = stack.index(name)
            found.append(stack[at:])
            del stack[at:]

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The graph without the edges that a longer path implies; edges within a circle stay."""
    level = floors(graph)
    reach: dict[str, set[str]] = {}
    found: dict[str, set[str]] = {}
    for name in sorted(graph, key=level.__getitem__):
        below = {other for other in graph[name] if level[other] < level[name]}
        reach[name] = below.union(*(reach[other] for other in below))
        implied = set().union(*(reach[other] for other in below))
        found[name] = (below - implied) | (graph[name] - below)
    return found


def draw(graph: dict[str, set[str]], title: str) -> str:
    """The graph as SVG text; every box has a title with what it imports."""
    row_of = floors(graph)
    rows = [[name for name in sorted(graph) if row_of[name] == at] for at in range(max(row_of.values()) + 1)]
    width_of = {name: 16 + 7.2 * len(name) for name in graph}
    total = max(sum(width_of[name] + GAP for name in row) for row in rows) + 2 * MARGIN
    height = ROW * len(rows) + 2 * MARGIN + 20
    centre: dict[str, tuple[float, float]] = {}
    for at, row in enumerate(rows):
        x = (total - sum(width_of[name] + GAP for name in row) + GAP) / 2
        for name in row:
            centre[name] = x + width_of[name] / 2, height - MARGIN - BOX / 2 - ROW * at
            x += width_of[name] + GAP
    lines = list(arrows(graph, centre)) + list(boxes(graph, centre, width_of))
    style = (
        "text{font:12px ui-monospace,monospace;text-anchor:middle;fill:#1b1f24}"
        ".box{fill:#eef3fb;stroke:#3b6fb6}.arrow{fill:none;stroke:#7a8798;stroke-width:1;opacity:.55}"
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.box{fill:#1b2735;stroke:#6ea8fe}.arrow{stroke:#9aa7b8}}"
    )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {total:.0f} {height:.0f}" role="img"><title>{title}</title>'
    return "\n".join([head, f"<style>{style}</style>", *lines, "</svg>", ""])


def arrows(graph: dict[str, set[str]], centre: dict[str, tuple[float, float]]) -> Iterable[str]:
    for name, others in reduced(graph).items():
        for other in sorted(others):
            (x, y), (u, v) = centre[name], centre[other]
            start, end = (y + BOX / 2, v - BOX / 2) if v > y else (y - BOX / 2, v - BOX / 2)
            middle = (start + end) / 2 if v > y else start - 30
            yield f'<path class="arrow" d="M{x:.0f} {start:.0f}C{x:.0f} {middle:.0f} {u:.0f} {middle:.0f} {u:.0f} {end:.0f}"/>'


def boxes(
    graph: dict[str, set[str]], centre: dict[str, tuple[float, float]], widths: dict[str, float]
) -> Iterable[str]:
    for name, (x, y) in centre.items():
        imported = ", ".join(sorted(graph[name])) or "nothing"
        yield (
            f'<g><title>{name} imports {imported}</title><rect class="box" x="{x - widths[name] / 2:.0f}" y="{y - BOX / 2:.0f}" '
            f'width="{widths[name]:.0f}" height="{BOX}" rx="4"/><text x="{x:.0f}" y="{y + 4:.0f}">{name}</text></g>'
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--modules", action="store_true", help="modules in place of packages")
    arguments = parser.parse_args()
    graph = imports(arguments.root)
    graph = graph if arguments.modules else by_package(graph)
    levels = max(floors(graph).values()) + 1
    largest = max(map(len, components(graph)))
    kind = "modules" if arguments.modules else "packages"
    circle = f", largest circle {largest} {kind}" if largest > 1 else ", no circle"
    title = f"{len(graph)} {kind} on {levels} levels{circle}"
    arguments.out.write_text(draw(graph, title), encoding="utf-8")
    print(title)


if __name__ == "__main__":
    main()
