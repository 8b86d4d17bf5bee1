"""Reports a study to its trackers: itself, the runs that they lack when it ends, and its result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from randout.core.terminal import Terminated
from randout.experiments.run.options import Options, Stopped
from randout.storage.run_folder import RunFolder
from randout.storage.study_folder import StudyFolder
from randout.storage.study_record import CellsRecord, ComparisonRecord, SearchRecord, Trial
from randout.trackers.finished_runs import report_all
from randout.trackers.studies import track_study


@contextmanager
def tracked_study(folder: StudyFolder[Any], options: Options, settings: Mapping[str, Any]) -> Iterator[Options]:
    """Yield the options of a study's runs, which trackers show as its own. A worker of another process reports its runs only.

    settings: the request.
    """
    if options.worker is not None or not options.report_to.names:
        yield options
        return
    study = track_study(folder.path, folder.record.name, options.report_to, settings, options.show)
    try:
        yield replace(options, report_to=study.report_to)
    except (Stopped, Terminated, KeyboardInterrupt):
        study.end("stopped")
        raise
    except BaseException:
        study.end("failed")
        raise
    report_all(_labelled_runs(folder, options), study.report_to, options.show.within())
    study.end("finished", _numbers(folder))


def trial_label(folder: StudyFolder[SearchRecord], trial: Trial, options: Options) -> str:
    """Return what a trial is called in trackers; in a search within a study, after the name of the search."""
    study = options.report_to.study
    within = study is not None and study.absolute() != folder.path.absolute()
    return f"{folder.path.name}, trial {trial.number}" if within else f"trial {trial.number}"


def _labelled_runs(folder: StudyFolder[Any], options: Options) -> list[tuple[str, RunFolder]]:
    """Return the finished runs of a study with their labels."""
    record = folder.record
    if isinstance(record, CellsRecord):
        return [(f"{cell.unit}, {cell.arm}", folder.run(cell)) for cell in record.cells_in("finished")]
    done = [trial for trial in record.trials if trial.state == "finished" and trial.same_as is None]
    return [(trial_label(folder, trial, options), folder.run(trial)) for trial in done]


def _numbers(folder: StudyFolder[Any]) -> dict[str, float]:
    """Return the result of a study as numbers by name."""
    record, found = folder.record, dict[str, float | None]()
    if isinstance(record, ComparisonRecord) and record.result:
        for row in record.result.rows:
            name = f"{row.name} {row.metric}"
            found |= {name: row.value, f"{name} low": row.low, f"{name} high": row.high}
            if gap := row.difference:
                name += " difference"
                found |= {name: gap.estimate, f"{name} low": gap.low, f"{name} high": gap.high}
    if isinstance(record, SearchRecord) and (best := record.stored_best):
        found |= {"best trial": float(best.number), f"best {record.metric}": best.value}
    return {name: value for name, value in found.items() if value is not None}
