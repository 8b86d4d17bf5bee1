"""`randout export`: writes a finished run's model for deployment, after comparing every form with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from randout import baselines
from randout.core.console import Show
from randout.core.errors import Failure, UserError
from randout.core.files import check_folder
from randout.export import checks, files, graph, runtime
from randout.models.loading import find, whole_folder
from randout.storage.run_folder import RunFolder

from .plan import Plan
from .reload import reload_plan, truncation_of
from .saved_model import baseline_folder, check_own_split, load_classifier


@dataclass(frozen=True)
class Export:
    """What `export` wrote. record: the content of `export.json`. left_out: checks of forms that were not written."""

    folder: Path
    record: dict[str, Any]
    checks: tuple[checks.Check, ...]
    left_out: tuple[checks.Check, ...]


def export(path: Path, out: Path, forms: Sequence[str], show: Show) -> Export:
    """Write the model of a finished run to the new folder `out` for runtimes without PyTorch; nothing is left on an error.

    forms: float32, int8; empty: both, without those outside their tolerance. A form that is named is written in any case,
    with a warning. Each form is compared with the saved model on the run's validation rows. Raises UserError for an
    unfinished run, a folder that has files, changed data, and a model that cannot be exported; Failure if no form passes.
    """
    run = check_own_split(path, "validation")
    check_new_folder(out)
    fitted = baseline_folder(str(run.path))
    bag = fitted is not None and baselines.load(fitted).settings.name in baselines.BAGS
    if bag and forms:
        raise UserError(f"export: --form does not apply to {path}: a bag-of-words baseline has one form, its arrays")
    if unknown := [form for form in forms if form not in files.FORMS]:
        raise UserError(f"export: --form {unknown[0]}: expected {' or '.join(files.FORMS)}")
    if not bag:
        graph.check_installed()
    plan = reload_plan(run)
    with whole_folder(out) as folder:
        show.say(f"writing {', '.join(forms or (files.ARRAYS if bag else files.FORMS))}")
        made = _written(run, fitted, bag, folder, forms or files.FORMS)
        about = {"columns": _columns(run), "trained_as": run.path.name}
        files.write_record(folder, made, about)
        found, cut = _checks(plan, run, folder, made, show)
        kept = [check for check in found if check.form in forms or not check.problems]
        if not kept:
            raise Failure(f"export: no form is close enough to the model: {_problems(found[0])}")
        for check in found:
            if check not in kept:
                (folder / made.files[check.form]).unlink()
        made = replace(made, files={check.form: made.files[check.form] for check in kept})
        record = files.write_record(folder, made, about | {"texts_cut": cut}, kept)
        files.write_pages(folder, made, run.path.name, kept)
    return Export(out, record, tuple(kept), tuple(check for check in found if check not in kept))


def check_new_folder(out: Path) -> None:
    """Raise UserError unless `out` is a folder that can be made, or an empty one."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise UserError(f"export: {out} already exists and is not overwritten. Choose another name, or delete it first")
    check_folder(out)


def warnings_of(made: Export) -> list[str]:
    """Return warnings on forms that were left out, or written although they differ."""
    found = [
        f"{check.form} was not written: {_problems(check)}. Write it all the same with --form {check.form}"
        for check in made.left_out
    ]
    return found + [f"{check.form}: {_problems(check)}" for check in made.checks if check.problems]


def _problems(check: checks.Check) -> str:
    return "; ".join(check.problems)


def _written(run: RunFolder, fitted: Path | None, bag: bool, folder: Path, forms: Sequence[str]) -> files.Exported:
    if fitted is None:
        source = find(str(run.path))
        return files.write_encoder(source, truncation_of(source), folder, forms)
    found = baselines.load(fitted)
    return files.write_bag(found, folder) if bag else files.write_network(found, folder, forms)


def _columns(run: RunFolder) -> dict[str, str]:
    found = run.record["identity"]["data"].get("columns", {})
    return {what: found[what] for what in ("text", "label") if found.get(what)}


def _checks(
    plan: Plan, run: RunFolder, folder: Path, made: files.Exported, show: Show
) -> tuple[list[checks.Check], int]:
    """Compare each form with the saved model on the validation rows; also returns how many of their texts were cut."""
    dataset, rows = plan.dataset, plan.dataset.split["validation"]
    texts, labels = [dataset.texts[row] for row in rows], dataset.labels[rows]
    with show.bar("checking the model", len(rows)) as advance:
        reference = load_classifier(str(run.path)).logits(texts, lambda count: advance(count, ""))
    found, cut = [], 0
    for form in made.files:
        model = runtime.Classifier(folder, form)
        with show.bar(f"checking {form}", len(rows)) as advance:
            logits = model.logits(texts, lambda count: advance(count, ""))
        cut = model.texts_cut
        found.append(checks.compare(form, reference, logits, labels, dataset.groups[rows], len(dataset.names)))
    return found, cut
