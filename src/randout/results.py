"""What a study found: the predictions of its complete units read back, and the statistics of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .crossed import Difference
from .errors import UserError
from .figures import method_lines
from .metrics import score
from .record import StudyFolder
from .runs import RunFolder
from .study import Study
from .verdicts import MethodRow, compare_folds, compare_methods


@dataclass(frozen=True)
class Scored:
    """Predictions of every arm at the units that are complete, on the same rows."""

    units: list[str]
    predictions: dict[str, list[np.ndarray]]  # arm -> by unit (N,)
    logits: dict[str, list[np.ndarray]]  # arm -> by unit (N, C)
    labels: list[np.ndarray]  # by unit (N,)
    groups: list[np.ndarray]  # by unit (N,)
    train_rows: list[int]  # by unit
    num_labels: int


def read_scores(folder: StudyFolder, split: str = "test") -> Scored:
    """The predictions of a study's complete units. Raises UserError where arms were scored on other rows."""
    import pyarrow.parquet as parquet

    record = folder.record
    by_unit: dict[str, dict[str, RunFolder]] = {}
    for cell in record["cells"]:
        if cell["state"] == "finished":
            by_unit.setdefault(cell["unit"], {})[cell["arm"]] = folder.run(cell)
    done = [unit for unit in record["units"] if by_unit.get(unit, {}).keys() >= set(record["arms"])]
    found = Scored(done, {a: [] for a in record["arms"]}, {a: [] for a in record["arms"]}, [], [], [], 0)
    names: list[str] = []
    for unit in done:
        first = None
        for arm, run in by_unit[unit].items():
            table = parquet.read_table(run.path / "predictions" / f"{split}.parquet")
            names = names or run.record["identity"]["data"]["labels"]
            index = {label: at for at, label in enumerate(names)}
            if first is None:
                first = table
                found.labels.append(np.array([index[label] for label in table["label"].to_pylist()]))
                found.groups.append(table["group"].to_numpy())
                found.train_rows.append(len(run.read("split.json")["train"]))
            elif not table["row"].equals(first["row"]):
                raise UserError(f"{run.path}: its {split} rows are not those of the other arms at {unit}")
            found.predictions[arm].append(np.array([index[label] for label in table["prediction"].to_pylist()]))
            found.logits[arm].append(np.array(table["logits"].to_pylist(), dtype=np.float32))
    return Scored(**{**vars(found), "num_labels": len(names)})


def conclude(study: Study, folder: StudyFolder) -> None:
    """Put the result of the complete units into the record."""
    scores = read_scores(folder)
    record = folder.record
    what = "folds" if study.folds else "seeds"
    head = f"{len(scores.units)} of {len(record['units'])} {what}"
    if not scores.units or (study.folds and len(scores.units) < 5):
        record["result"] = {"head": head, "estimand": "none yet", "rows": [], "notes": list(record["notes"])}
    else:
        record["result"] = _result(_rows(study, scores), head, list(record["notes"]))
        if study.folds and study.tuning and study.protocol == "paper":
            record["result"]["notes"].append(
                "settings were chosen on validation rows of the ordinary split, which are test rows of some folds: "
                "these numbers are optimistic"
            )
        record["result"]["notes"].append(_tuning_note(record))
        failed = [f"{c['unit']} {c['arm']}" for c in record["cells"] if c["state"] == "failed"]
        if failed:
            record["result"]["notes"].append(f"failed, and their units left out: {', '.join(failed)}")
    folder.save()


def _tuning_note(record: Mapping[str, Any]) -> str:
    """How many trials on validation each arm had before the test split was opened."""
    if not record["tuning"]:
        return "every arm with its recipe as given: nothing was tuned in this study"
    entries = list(record["tuning"].values())
    counts = {arm: sum(e["trials"] for e in entries if e["arm"] == arm) for arm in record["arms"]}
    return "validation trials before the test split was opened: " + ", ".join(f"{a} {n}" for a, n in counts.items())


def _result(rows: list[MethodRow], head: str, notes: list[str]) -> dict[str, Any]:
    return {"head": head, "estimand": rows[0].estimand, "rows": [asdict(row) for row in rows], "notes": notes}


def _rows(study: Study, scores: Scored) -> list[MethodRow]:
    if study.folds:
        return _fold_rows(study, scores)
    made = {arm: np.stack(predicted) for arm, predicted in scores.predictions.items()}
    return compare_methods(
        made,
        scores.labels[0],
        scores.groups[0],
        study.baseline,
        scores.num_labels,
        metric=study.metric,
        margin=study.margin,
    )


def _fold_rows(study: Study, scores: Scored) -> list[MethodRow]:
    values = {}
    id2label = {at: str(at) for at in range(scores.num_labels)}
    for arm, logits in scores.logits.items():
        made = [score(y, z, id2label)[study.metric] for y, z in zip(scores.labels, logits, strict=True)]
        values[arm] = np.array(made)
    test_rows = np.array([len(y) for y in scores.labels])
    return compare_folds(
        values,
        np.array(scores.train_rows),
        test_rows,
        study.baseline,
        metric=study.metric,
        margin=study.margin,
        repeats=study.repeats,
    )


def rows_of(result: Mapping[str, Any]) -> list[MethodRow]:
    """The rows of a result as they were before they became JSON."""
    found = []
    for row in result["rows"]:
        pair = row["difference"]
        found.append(MethodRow(**{**row, "difference": None if pair is None else Difference(**pair)}))
    return found


def result_lines(record: Mapping[str, Any]) -> list[str]:
    """A study's result for a terminal: how much of it is complete, the table, the notes."""
    result = record["result"]
    if result is None or not result["rows"]:
        return [f"{record['name']}: {result['head'] if result else 'nothing'} complete; no result yet"]
    notes = [f"note: {note}" for note in result["notes"]]
    return [f"{record['name']}: {result['head']}", *method_lines(rows_of(result)), *notes]


def compare_finished(paths: Sequence[Path], baseline: Path | None, study: Study) -> dict[str, Any]:
    """Finished runs as arms and seeds: runs that differ in seed alone are one arm. A record like a study's.

    Raises UserError for runs of other data or rows, and where the arms do not have the same seeds.
    """
    arms: dict[str, dict[int, RunFolder]] = {}
    named: dict[str, str] = {}
    for path in paths:
        run = RunFolder(path)
        if not run.finished:
            raise UserError(f"{path}: this run is not finished")
        identity = run.record["identity"]
        train = {key: value for key, value in identity["train"].items() if key != "seed"}
        key = json.dumps([identity["student"], identity["methods"], train, bool(identity["teacher"])], sort_keys=True)
        name = named.setdefault(key, path.name if path.name not in named.values() else str(path))
        seed = identity["train"]["seed"]
        if seed in arms.setdefault(name, {}):
            raise UserError(f"{path}: the same settings and seed as {arms[name][seed].path}; leave one out")
        arms[name][seed] = run
    first = next((name for name, runs in arms.items() if baseline and RunFolder(baseline) in runs.values()), None)
    if baseline and first is None:
        raise UserError(f"--baseline {baseline}: not among the runs")
    seeds = [set(runs) for runs in arms.values()]
    if len(arms) < 2:
        raise UserError("compare: these runs differ in nothing but their seeds; name runs of two recipes at least")
    if any(one != seeds[0] for one in seeds):
        listed = "; ".join(f"{name}: {sorted(runs)}" for name, runs in arms.items())
        raise UserError(f"compare: the arms do not have the same seeds ({listed}); paired statistics need them")
    some = next(iter(next(iter(arms.values())).values())).record
    record: dict[str, Any] = {"kind": "compare", "name": "finished runs", "metric": study.metric, "notes": []}
    record |= {"data": {"sha256": some["data"]}, "units": [f"seed {s}" for s in sorted(seeds[0])], "arms": list(arms)}
    record["baseline"] = first or next(iter(arms))
    record["cells"] = [
        {"unit": f"seed {seed}", "arm": name, "run": str(run.path.resolve()), "state": "finished", "error": None}
        for name, runs in arms.items()
        for seed, run in runs.items()
    ]
    record["margin"], record["result"] = study.margin, None
    folder = StudyFolder(Path("/"), record)
    scores = read_scores(folder)
    rows = _rows(study.model_copy(update={"baseline": record["baseline"]}), scores)
    return record | {"result": _result(rows, f"{len(scores.units)} of {len(scores.units)} seeds", [])}
