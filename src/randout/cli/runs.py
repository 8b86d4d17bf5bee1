"""The commands `runs`, `runs show` and `runs rm`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from randout.core.console import Show
from randout.core.errors import UserError

from .options import AsJson, RunsFolder
from .output import print_table


class _RunsGroup(TyperGroup):
    """The commands of `runs`; an unknown one gets a hint, because listing runs needs no command."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command. Fails with what `randout runs` and `randout runs show` do."""
        if self.get_command(ctx, args[0]) is None:
            ctx.fail(f"No such command {args[0]!r}. {RUNS_HELP}")
        return super().resolve_command(ctx, args)


RUNS_HELP = "`randout runs` lists the runs, `randout runs show RUN` shows one, `randout runs rm RUN` deletes one."
app = typer.Typer(cls=_RunsGroup, help=RUNS_HELP, invoke_without_command=True, rich_markup_mode=None)

SHORTENED = (0, 2, 6)  # columns of `randout runs` that may be shortened: name, methods, folder
OwnRuns = Annotated[Path | None, typer.Option("--runs", help="folder of runs")]
ListedRun = Annotated[Path, typer.Argument(help="a run folder, or a name listed by `randout runs`")]


@app.callback()
def list_runs(context: typer.Context, runs: RunsFolder = Path("runs"), as_json: AsJson = False) -> None:
    """List the runs of a folder."""
    if context.invoked_subcommand is None:
        from randout.storage.run_folder import summarize_runs

        rows = summarize_runs(runs)
        if as_json:
            print(json.dumps(rows, indent=1))
            return
        shown = [
            (
                r["name"],
                _minute(r["started"]),
                r["methods"],
                r["state"],
                _percent(r["validation"]),
                _percent(r["test"]),
                r["run"],
            )
            for r in rows
        ]
        print_table(("name", "started", "methods", "state", "validation", "test", "folder"), shown, SHORTENED)


@app.command("show")
def show_run(context: typer.Context, run: ListedRun, runs: OwnRuns = None, as_json: AsJson = False) -> None:
    """Show the settings and scores of a run."""
    from randout.reporting.cross_fit import cross_fit_lines
    from randout.reporting.soft_labels import soft_label_lines
    from randout.reporting.teachers import run_lines
    from randout.reporting.text import choice_lines, leak_lines, score_lines
    from randout.stats.diagnostics import messages
    from randout.storage.run_folder import find_run, unscored_test_lines

    folder = find_run(run, runs or _runs_of(context))
    record = folder.record
    metrics = folder.metrics if record.finished else None
    if as_json:
        print(json.dumps({"record": record.as_json(), "metrics": metrics.as_json() if metrics else {}}, indent=1))
        return
    print((folder.path / "run.toml").read_text(encoding="utf-8").strip())
    print(f"\nstarted {record.started}, {f'finished {record.finished}' if record.finished else 'not finished'}")
    if record.choice:
        print("\n" + "\n".join(choice_lines(record.choice)))
    if metrics is None:
        return
    for name, scores in metrics.splits.items():
        labels = dict(enumerate(record.identity.data.labels))
        print(f"\n{name}\n" + "\n".join([*score_lines(scores, labels), *leak_lines(scores)]))
    about_teachers = [*run_lines(record, metrics), *soft_label_lines(record), *cross_fit_lines(record)]
    for line in [*about_teachers, *unscored_test_lines(folder)]:
        print(line)
    Show().conclude(messages(metrics.warnings))


@app.command("rm")
def remove_run(
    context: typer.Context,
    run: ListedRun,
    runs: OwnRuns = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask for confirmation")] = False,
) -> None:
    """Delete a run folder."""
    from randout.storage.run_folder import delete_run, find_run

    folder = find_run(run, runs or _runs_of(context))
    if folder.exists and not yes:
        if not sys.stdin.isatty():
            raise UserError(f"runs rm {run}: add --yes to delete without confirmation")
        typer.confirm(f"Delete {folder.path} and everything in it?", abort=True)
    delete_run(folder)
    print(f"deleted {folder.path}")


def _runs_of(context: typer.Context) -> Path:
    """Folder of runs given to `randout runs --runs FOLDER`."""
    return Path(context.parent.params["runs"]) if context.parent else Path("runs")


def _minute(time: str) -> str:
    """Shorten 2026-01-02T03:04:05+00:00 to 2026-01-02 03:04."""
    return time[:16].replace("T", " ")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"
