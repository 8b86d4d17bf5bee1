"""The command `methods`: lists and explains the methods."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from randout.core.errors import UserError, nearest

from .options import AsJson, Plugins

app = typer.Typer(rich_markup_mode=None)


@app.command()
def methods(
    name: Annotated[str, typer.Argument(help="method to explain", metavar="[NAME]")] = "",
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """List all methods, or explain one. Each is a table [methods.NAME] of a recipe."""
    from randout.methods import catalog
    from randout.methods.builtin import METHODS

    known = catalog.entries()
    if name in METHODS:
        METHODS[name]  # raises the reason if it cannot be loaded
    if name and name not in known:
        raise UserError(f"methods: no method {name!r}; `randout methods` lists them.{nearest(name, known)}")
    rows = catalog.rows([name] if name else [])
    if as_json:
        print(json.dumps(rows[0] if name else rows, indent=1, default=list))
    elif name:
        print("\n".join(_explained(rows[0])))
    else:
        print(_columns("method", "kind", "cost", "hooks", "needs a teacher's"))
        print("\n".join(line for row in rows for line in _listed(row)))
        print(
            "\ncost: of a training step of the student, relative to plain fine-tuning. hooks: where it acts in training"
        )
        print("Explain one: randout methods NAME. Compare all: randout compare DATA --methods all")


def _columns(name: str, kind: str, cost: str, hooks: str, taught: str) -> str:
    return f"{name:<30} {kind:<13} {cost:<5} {hooks:<26} {taught}".rstrip()


def _listed(row: dict[str, Any]) -> list[str]:
    """Four lines: name, kind, cost, hooks and teacher; summary; source; options."""
    hooks = ", ".join(row["hooks"])
    taught = row["teacher"] or ""
    what = row["summary"] + (f" ({_settings(row)})" if row["settings"] else "")
    first = _columns(row["name"], row["kind"], row["cost"], hooks, taught)
    source = "; ".join(filter(None, (row["source"], row["package"] and f"from {row['package']}, not built in")))
    lines = [first, f"    {what}", *([f"    {source}"] if source else [])]
    return [*lines, f"    options: {', '.join(row['options']) or 'none'}"]


def _settings(row: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {_toml(value)}" for key, value in row["settings"].items())


def _toml(value: Any) -> str:
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def _explained(row: dict[str, Any]) -> list[str]:
    """Summary, equation and source from the docstring, then requirements, cost and recipe."""
    lines = [f"{row['name']}: {row['summary']}", "", *([row["equation"], ""] if row["equation"] else [])]
    facts = [("source", row["source"]), ("from", row["package"] and f"{row['package']}, not built in")]
    facts += [("cost", f"{row['cost']} per training step of the student")]
    facts += [("hooks", ", ".join(row["hooks"])), ("needs", "; ".join(row["needs"]))]
    tuned = ", ".join(f"{key} {_toml(values)}" for key, values in row["tuned"].items())
    lines += [f"{what:<8}{text}" for what, text in [*facts, ("tuned", tuned)] if text]
    lines += ["", *(f"[methods.{other}]" for other in row["with"]), f"[methods.{row['method']}]"]
    written = {key: f"{key} = {_toml(option['default'])}" for key, option in row["options"].items()}
    width = max((len(text) for text in written.values()), default=0)
    return lines + [f"{text:<{width}}  # {row['options'][key]['about']}" for key, text in written.items()]
