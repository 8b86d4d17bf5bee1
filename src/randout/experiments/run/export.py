"""`randout export`: writes a finished run's model for deployment, after comparing every form with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from randout.core.console import Show
from randout.core.errors import Failure, UserError
from randout.core.files import check_new_folder, new_folder
from randout.data.text_fields import TextFields
from randout.models.folder_checks import BASELINE
from randout.models.sources import CLASSIFIER_NAMES
from randout.storage.abstention_record import write_abstention
from randout.storage.run_folder import RunFolder
from randout.storage.seen_rows import FILE as SEEN_ROWS

from .abstention import find_abstention
from .saved_model import baseline_folder, check_own_split, for_export, load_classifier

if TYPE_CHECKING:
    from randout.exports.checks import Check
    from randout.exports.files import Exported

    from .plan import Plan

FORMS = ("float32", "int8")
NETWORKS = ("cnn", "lstm")
PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Export:
    """What `export_run` wrote. record: the content of `export.json`. left_out: checks of forms that were not written."""

    folder: Path
    record: dict[str, Any]
    checks: tuple[Check, ...]
    left_out: tuple[Check, ...]

    @property
    def warnings(self) -> list[str]:
        """Warnings on forms that were left out, or written although they differ from the model."""
        found = [
            f"{check.form} was not written: {check.words()}. Write it all the same with --form {check.form}"
            for check in self.left_out
        ]
        return found + [f"{check.form}: {check.words()}" for check in self.checks if check.problems]

    def as_json(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "folder": str(self.folder),
            **self.record,
            "left_out": {check.form: check.record() for check in self.left_out},
            "warnings": self.warnings,
        }


def check_export(path: Path, out: Path, forms: Sequence[str]) -> RunFolder:
    """Check what needs no model; returns the run. Raises UserError as `export_run` does."""
    run = check_own_split(path, "validation")
    check_new_folder(out)
    if unknown := [form for form in forms if form not in FORMS]:
        raise UserError(f"export: --form {unknown[0]}: expected {' or '.join(FORMS)}")
    if _classifier(run) in set(CLASSIFIER_NAMES) - set(NETWORKS):
        if forms:
            raise UserError(
                f"export: --form does not apply to {path}: a bag-of-words baseline has one form, its arrays"
            )
        return run
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(f"export: not installed: {', '.join(missing)}. Install with: pip install 'randout[export]'")
    return run


def export_run(path: Path, out: Path, forms: Sequence[str], show: Show) -> Export:
    """Write the model of a finished run to the new folder `out` for runtimes without PyTorch; nothing is left on an error.

    forms: float32, int8; empty: both, without those outside their tolerance. A form that is named is written in any case,
    with a warning. Each form is compared with the saved model on the run's validation and test texts. Test labels are not
    read, so this does not count as a use of the test split. Raises UserError for an
    unfinished run, a folder that is not empty, changed data, and a model that cannot be exported; Failure if no form passes.
    """
    run = check_export(path, out, forms)
    from randout.exports import files

    from .reload import reload_plan

    plan = reload_plan(run)
    with new_folder(out) as folder:
        made = _written(run, folder, [form for form in FORMS if form in (forms or FORMS)], plan.dataset.fields, show)
        found, cut = _checks(plan, run, folder, made, show)
        kept = [check for check in found if check.form in forms or not check.problems]
        if not kept:
            raise Failure(f"export: no form is close enough to the model; {found[0].form}: {found[0].words()}")
        left_out = [check for check in found if check not in kept]
        for check in left_out:
            (folder / made.files[check.form]).unlink()
        made = replace(made, files={check.form: made.files[check.form] for check in kept})
        record = files.write_record(folder, made, kept, {"columns": _columns(run), "run": run.path.name} | cut)
        files.write_pages(folder, made, run.path.name, kept)
        if (run.path / SEEN_ROWS).exists():  # for warnings of `evaluate`
            shutil.copyfile(run.path / SEEN_ROWS, folder / SEEN_ROWS)
        if (abstention := find_abstention(str(run.path))) is not None:
            write_abstention(folder, abstention)
    return Export(out, record, tuple(kept), tuple(left_out))


def _classifier(run: RunFolder) -> str:
    """Return the name of the baseline that a run trained; empty for an encoder."""
    folder = baseline_folder(str(run.path))
    return "" if folder is None else json.loads((folder / BASELINE).read_text(encoding="utf-8"))["classifier"]


def _written(run: RunFolder, folder: Path, forms: Sequence[str], fields: TextFields, show: Show) -> Exported:
    """Write the model's forms. fields: the columns of an input."""
    from randout import baselines
    from randout.exports import files
    from randout.models.loading import find

    from .reload import truncation_of

    name = _classifier(run)
    show.say(f"writing {', '.join(forms) if name in ('', *NETWORKS) else 'arrays'}")
    if not name:
        source = find(str(run.path))
        return files.write_encoder(source, truncation_of(source), folder, forms, fields)
    fitted = baselines.load(run.model)
    made = files.write_network(fitted, folder, forms) if name in NETWORKS else files.write_bag(fitted, folder)
    return replace(made, fields=fields)


def _columns(run: RunFolder) -> dict[str, str]:
    found = run.record.identity.data.columns
    return {what: found[what] for what in ("text", "label", "separator") if found.get(what)}


def _checks(plan: Plan, run: RunFolder, folder: Path, made: Exported, show: Show) -> tuple[list[Check], dict[str, int]]:
    """Compare each form with the saved model on the validation and test texts; also returns how many of them were cut.

    Only labels of validation rows are read.
    """
    from randout.exports import checks, files, runtime

    dataset, scored = plan.dataset, plan.dataset.split["validation"]
    rows = [*scored, *dataset.split["test"]]
    texts, labels = [dataset.texts[row] for row in rows], dataset.truth(scored)
    refitted = plan.config.train.refit is True
    files.write_record(folder, made)  # for the runtime
    with show.bar("checking the model", len(rows)) as advance:
        reference = load_classifier(str(run.path)).logits(texts, lambda count: advance(count, ""))
    found, cut = [], 0
    inputs = [for_export(text, dataset.fields) for text in texts]
    for form in made.files:
        model = runtime.Classifier(folder, form)
        with show.bar(f"checking {form}", len(rows)) as advance:
            logits = model.logits(inputs, lambda count: advance(count, ""))
        cut = model.texts_cut
        found.append(
            checks.compare(
                form,
                reference,
                logits,
                labels,
                dataset.groups[scored],
                len(dataset.names),
                refitted,
                thresholds=made.thresholds,
            )
        )
    if cut:
        show.say(f"truncation: {cut / len(rows):.1%} of the held-out texts are too long and were cut, as in training")
    return found, {"rows": len(rows), "texts_cut": cut}
