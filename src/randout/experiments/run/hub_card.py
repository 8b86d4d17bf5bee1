"""The model card on the hub: the README.md of a run's model, with licence, data report and the forms of its export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from randout.core.errors import UserError
from randout.core.wording import plural, verb
from randout.storage.run_folder import RunFolder
from randout.storage.run_record import DataReport

from .model_card import parsed_card

if TYPE_CHECKING:
    from .export import Export

SPLITS = ("train", "validation", "test", "unlabeled")


def hub_card(
    run: RunFolder, repository: str, about: Mapping[str, str], licence: str, base: tuple[str, str], made: Export | None
) -> str:
    """Return the card of a run's model under its name on the hub.

    about: replacements of the card's own code, as `"."` by the name. licence: empty: none is stated. base: name and commit
    of the encoder that was fine-tuned, if it is on the hub. made: the export that is uploaded too. Raises UserError if the
    card's head is not valid YAML.
    """
    path = run.model / "README.md"
    if not path.exists():
        raise UserError(f"{path}: no such file; it is the model card. Train the run again, or write one")
    try:
        card = parsed_card(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: its head is not valid ({' '.join(str(error).split())[:200]}). Correct it") from None
    head: Any = card.data
    if licence:
        head.license = licence
    if base[0]:
        head.base_model = base[0]
    if "randout" not in (head.tags or []):
        head.tags = [*(head.tags or []), "randout"]
    text = card.text
    for old, new in about.items():
        text = text.replace(old, new)
    sections = [*_origin_lines(repository, licence, base), *_data_lines(run), *_export_lines(repository, made)]
    return f"---\n{head}\n---\n{text.rstrip()}\n\n" + "\n".join(sections) + "\n"


def stated_licence(run: RunFolder) -> str:
    """Return the licence that the head of a run's own model card states; empty for none."""
    try:
        head: Any = parsed_card((run.model / "README.md").read_text(encoding="utf-8")).data
    except (OSError, ValueError):
        return ""
    return str(head.license or "")


def usage_replacements(repository: str) -> dict[str, str]:
    """Return replacements that make the code of a model folder's card load the model by its name on the hub."""
    return {'"."': f'"{repository}"', f'  # "{repository}": this folder': ""}


def _origin_lines(repository: str, licence: str, base: tuple[str, str]) -> list[str]:
    lines = ["## Licence", ""]
    lines += [f"{licence}." if licence else "None is stated."]
    if base[0]:
        lines += [
            f"Fine-tuned from [{base[0]}](https://huggingface.co/{base[0]}) at commit `{base[1]}`, whose terms apply too."
        ]
    lines += ["", "## By name", "", "```sh", f'randout predict {repository} "A text to classify."', "```", ""]
    return [
        *lines,
        f"`{repository}@COMMIT` names one commit. Training rows and predictions are not part of the repository.",
        "",
    ]


def _data_lines(run: RunFolder) -> list[str]:
    """Return the data report: rows of each class and split, copies, and rows with a copy in the training split."""
    record = run.record
    lines = [
        "## Data",
        "",
        f"{record.shown_as.data or 'The data'}: SHA-256 `{record.labelled_data or record.data}`.",
        "",
    ]
    if (report := record.data_report) is None:
        return lines
    lines += _class_table(report)
    if report.duplicate_groups:
        lines.append(
            f"- {plural(report.duplicate_groups, 'group')} of the same text ({report.duplicate_rows or 0:,} rows), "
            f"{report.conflicting_groups or 0:,} of them with different labels"
        )
    lines += _shared_lines(report.leaked, "a copy in the training split")
    lines += _shared_lines(report.same_tokens, "the same tokens as a training row, but another text")
    lines += _shared_lines(report.shared_groups, "a group that also has training rows")
    return lines if not lines[-1] else [*lines, ""]


def _class_table(report: DataReport) -> list[str]:
    splits = [name for name in SPLITS if report.sizes.get(name)]
    rows = [["class", *splits], ["---", *("---:" for _ in splits)]]
    for label in report.class_counts.get("train", {}):
        counts = [report.class_counts.get(split, {}).get(label) for split in splits]
        rows.append([label.replace("|", "\\|"), *("" if count is None else f"{count:,}" for count in counts)])
    rows.append(["all", *(f"{report.sizes[split]:,}" for split in splits)])
    return [*(f"| {' | '.join(row)} |" for row in rows), ""]


def _shared_lines(counts: Mapping[str, int], what: str) -> list[str]:
    """Return lines about held-out rows by split that share something with training rows."""
    return [
        f"- {plural(count, f'{split} row')} {verb(count, 'has', 'have')} {what}"
        for split, count in counts.items()
        if count
    ]


def _export_lines(repository: str, made: Export | None) -> list[str]:
    """Return the forms of the export, compared with the model, and how they are used without PyTorch."""
    if made is None:
        return []
    from randout.exports.checks import table

    head, *cells = table(made.checks)
    rows: list[Sequence[str]] = [head, ["---"] * len(head), *cells]
    files = ", ".join(f"`{file}` ({form})" for form, file in made.record["files"].items())
    lines = ["## Forms for deployment", "", f"{files}, each compared with the model on held-out texts:", ""]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    lines += ["", "Without PyTorch:", "", "```sh", f"hf download {repository} --local-dir classifier"]
    return [*lines, 'python classifier/predict.py "A text to classify."', "```", ""]
