"""The model card: the README.md of a model folder, written after training and updated when test rows are scored."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from randout.baselines import Classifier
from randout.baselines.settings import chosen
from randout.core.console import Show
from randout.core.files import replace_text
from randout.core.wording import plural
from randout.data.composed_text import SEPARATOR
from randout.data.text_fields import NONE, TextFields
from randout.models import loading
from randout.models.label_thresholds import KEY
from randout.reporting.cross_fit import cross_fit_words
from randout.reporting.soft_labels import soft_label_words, temperature_words
from randout.reporting.teachers import verdict_lines
from randout.reporting.text import choice_lines
from randout.reporting.values import metric_name
from randout.storage import run_folder
from randout.storage.metrics_record import Metrics, Scores, TeacherGap
from randout.storage.run_folder import RunFolder
from randout.storage.run_record import StudentChoice
from randout.storage.seen_rows import in_words

from .plan import Plan, TeacherOutputs

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

OPENINGS_LINE = re.compile(r"^Test split: .*$", re.MULTILINE)
TASK = "text-classification"  # its name on the Hugging Face Hub


def model_card(
    plan: Plan, metrics: Metrics, teacher: TeacherOutputs | None, choice: StudentChoice | None = None
) -> str:
    """Return the README.md of the model folder; it is the same for the same training.

    choice: the record of the choice of the student, if there was one.
    """
    about = ["", *choice_lines(choice)] if choice else []
    scores = [_openings_line(int(metrics.test is not None)), ""] if "test" in plan.dataset.split else []
    scores += _scores_table(metrics)
    classifier, source = chosen(plan.config), plan.student.source
    if classifier is not None:
        return "\n".join([*_baseline_card(plan, classifier, metrics), *about, "", *scores, ""])
    assert source is not None
    labels = ", ".join(plan.dataset.id2label.values())
    length = plan.config.student.max_length
    student = plan.config.student
    mean = student.pooling == "mean" and not loading.has_stock_mean(source, student.head)
    library = "sentence-transformers" if mean else "transformers"
    lines = _head_and_title(f"{plan.student.label} fine-tuned on {plan.dataset.name}", plan, metrics, library)
    lines += [f"Labels: {labels}. Texts of up to {length} tokens, truncated by `{plan.config.student.truncation}`."]
    lines += input_lines(plan.dataset.fields)
    if plan.config.student.truncation != "head":
        other = "`sentence-transformers`" if mean else "A `transformers` pipeline"
        lines += [f"{other} truncates by head only, so longer texts score differently there."]
    methods = ", ".join(
        f"`{m.name}` {json.dumps(m.model_dump(exclude_defaults=True, mode='json'))}" for m in plan.methods
    )
    lines += [f"Methods: {methods}." + (f" Teacher: {teacher.name}." if teacher else "")]
    for one in (teacher, *teacher.others) if teacher else ():
        if one.imported is not None:
            record = one.imported.record
            lines += [f"Soft labels: {soft_label_words(record)}; {temperature_words(record)}."]
    if teacher and teacher.cross_fit:
        lines += [f"Cross-fitted soft labels: {cross_fit_words(teacher.cross_fit)}."]
    if views := plan.dataset.views:
        lines += [f"{views.line[0].upper()}{views.line[1:]}."]
    if plan.config.train.refit is True:
        about.append(
            "Trained on the training and validation rows; the validation scores are of the same training without them. "
            "To use the run as a teacher or in `randout shrink`, train it with `--set refit=false`."
        )
    if limits := metrics.validation.thresholds:
        found = ", ".join(f"{name} {limit:.2f}" for name, limit in limits.items())
        before = ", by the same training without them" if plan.config.train.refit is True else ""
        about.append(
            "A text may have several labels or none. A label is predicted if its probability (the sigmoid of its logit) is "
            f"above its threshold, which was chosen for F1 on the validation rows{before}: {found} (`{KEY}` in config.json)."
        )
    names = list(plan.dataset.id2label.values())
    lines += [*about, "", *scores, "", *usage_lines(mean, names, bool(limits), plan.dataset.fields), ""]
    return "\n".join(lines)


def input_lines(fields: TextFields) -> list[str]:
    """Return what the model card says about the columns of an input; nothing for single texts."""
    found = []
    if fields.pair:
        found.append(
            f"Input: pairs of texts, from the columns {fields.text!r} and {fields.pair!r} of the training data, in this order, "
            "joined as the tokenizer joins them. Of a pair that is too long, the longer text is truncated first."
        )
    if fields.prefix:
        form = "".join(f"{name}: ... | " for name in fields.prefix)
        found.append(
            f"Before the {'first ' if fields.pair else ''}text, the input has {plural(len(fields.prefix), 'field')} of its row "
            f"in the form `{form}`; a field without a value is left out."
        )
    return found


def usage_lines(mean: bool, labels: Sequence[str], sets: bool = False, fields: TextFields = NONE) -> list[str]:
    """Return the section of the model card with code that loads the folder, to be run in it.

    mean: whether the head reads the mean of the tokens' states, which the class in `transformers` does not support. sets:
    whether the model predicts label sets; code without randout then has to compare probabilities with the thresholds.
    fields: the columns of an input; with them, the code is randout's, and for other programs only that of `transformers` for
    pairs with one label.
    """
    if fields:
        lines = _own_usage(fields)
        if mean or sets or fields.prefix or not fields.pair:
            return lines
        lines += ["", "```python", "from transformers import pipeline", ""]
        lines += ['classify = pipeline("text-classification", ".", truncation=True)  # ".": this folder']
        return [*lines, 'print(classify({"text": "A text.", "text_pair": "Its second text."}))', "```"]
    if sets and mean:
        return _own_usage()
    if sets:
        lines = ["from transformers import pipeline", ""]
        lines += ['classify = pipeline("text-classification", ".", truncation=True, top_k=None)  # ".": this folder']
        lines += [f"limits = classify.model.config.{KEY}"]
        lines += ['for found in classify(["A text to classify."]):']
        lines += ['    print([one["label"] for one in found if one["score"] > limits[one["label"]]])']
        return ["```python", *lines, "```", "", "The same with randout:", "", *_own_usage()]
    if not mean:
        lines = ["from transformers import pipeline", ""]
        lines += ['classify = pipeline("text-classification", ".", truncation=True)  # ".": this folder']
        return ["```python", *lines, 'print(classify(["A text to classify."]))', "```"]
    about = "The head reads the mean of the tokens' states, which the stock class of `transformers` does not; the folder has the "
    about += "layout of sentence-transformers. Each of these gives the label of a text:"
    lines = ["from sentence_transformers import SentenceTransformer", ""]
    lines += [f"labels = {json.dumps(list(labels), ensure_ascii=False)}  # in the order of the outputs"]
    lines += ['model = SentenceTransformer(".")  # ".": this folder']
    lines += [
        'probabilities = model.encode(["A text to classify."], convert_to_tensor=True).softmax(-1)  # (texts, labels)'
    ]
    lines += ["print([labels[best] for best in probabilities.argmax(-1)])"]
    return [about, "", *_own_usage(), "", "```python", *lines, "```"]


def _own_usage(fields: TextFields = NONE) -> list[str]:
    """Return code that loads the folder with randout."""
    lines = ["import randout", "", 'model = randout.load(".")  # ".": this folder']
    row = {fields.text: "A text.", **dict.fromkeys(fields.columns, "...")} if fields else None
    given = '"A text to classify."' if row is None else json.dumps(row, ensure_ascii=False)
    return ["```python", *lines, f"print(model.predict([{given}]))", "```"]


def _head_and_title(title: str, plan: Plan, metrics: Metrics, library: str | None) -> list[str]:
    """Return the start of a model card: its head in YAML with the scores, which the Hugging Face Hub shows, and its title.

    library: the one that loads the model; None: only randout.
    """
    from huggingface_hub import ModelCardData

    name, source = plan.dataset.name, plan.config.data.source
    head = ModelCardData(
        library_name=library,
        pipeline_tag=TASK,
        tags=["randout"],
        model_name=title,
        eval_results=_eval_results(metrics, re.split("[:@]", source)[1] if source.startswith("hub:") else name, name),
    )
    return ["---", str(head), "---", "", f"# {title}", ""]


def _eval_results(metrics: Metrics, dataset_type: str, dataset_name: str) -> list[EvalResult]:
    """Return the scores of all scored splits. dataset_type: the dataset on the Hugging Face Hub, or its name elsewhere."""
    from huggingface_hub import EvalResult

    kinds = (("accuracy", "accuracy", "Accuracy", None), ("macro_f1", "f1", "Macro F1", {"average": "macro"}))
    return [
        EvalResult(
            task_type=TASK,
            dataset_type=dataset_type,
            dataset_name=dataset_name,
            dataset_split=split,
            metric_type=kind,
            metric_value=round(scores.value(key), 4),
            metric_name=title,
            metric_args=settings,
        )
        for split, scores in metrics.splits.items()
        for key, kind, title, settings in kinds
    ]


def _baseline_card(plan: Plan, classifier: Classifier, metrics: Metrics) -> list[str]:
    settings = json.dumps(classifier.model_dump(mode="json"))
    title = f"{classifier.name} ({classifier.summary}) trained on {plan.dataset.name}"
    lines = _head_and_title(title, plan, metrics, None)
    lines += [f"Labels: {', '.join(plan.dataset.id2label.values())}. Settings: `{settings}`.", "", classifier.scores]
    lines += [
        "",
        "This is not a `transformers` model: load it with `randout predict`, `randout evaluate`, or this code.",
    ]
    lines += input_lines(plan.dataset.fields)
    if plan.dataset.fields.pair:
        lines += [f"It reads both texts of a pair as one, joined by `{SEPARATOR.strip()}`."]
    return [*lines, "", *_own_usage(plan.dataset.fields)]


def _scores_table(metrics: Metrics) -> list[str]:
    lines = ["| split | rows | accuracy | 95 % interval | macro F1 |", "|---|---|---|---|---|"]
    for name, found in metrics.splits.items():
        ends = found.interval("accuracy")
        between = "{:.4f} to {:.4f}".format(*ends) if ends else "not available"
        lines.append(f"| {name} | {found.rows} | {found.accuracy:.4f} | {between} | {found.macro_f1:.4f} |")
        if base := found.baseline:
            lines.append(f"| {name}, {base.name} | {found.rows} | {base.accuracy:.4f} | | {base.macro_f1:.4f} |")
    for name, found in metrics.splits.items():
        if leak := found.leaks:
            lines += ["", f"Leak: {in_words(leak.roles, leak.of, f'{name} rows')}."]
    if (split := metrics.compared_split) and (gap := metrics.splits[split].teacher):
        lines += ["", *_teacher_lines(gap, split, metrics.splits[split])]
    if metrics.warnings:
        lines += ["", "Warnings:", "", *(f"- {one.message}" for one in metrics.warnings)]
    return lines


def _teacher_lines(gap: TeacherGap, split: str, scores: Scores) -> list[str]:
    """Return the comparison with the teacher in one metric, the run's own, without what differs between machines."""
    metric, own = next(iter(gap.by_metric.items()))
    found = f"Student and teacher on the same {plural(gap.rows, f'{split} row')}{' (before the refit)' * scores.before_refit}: "
    found += f"{metric_name(metric)} {own.student:.4f} and {own.teacher:.4f}"
    if taught := scores.taught_rows:
        return [f"{found}; no verdict, as the teacher was trained on {taught:,} of these rows."]
    return [f"{found}; {verdict_lines(gap, split)[0]}."]


def update_card(plan: Plan, run: RunFolder, before: Metrics, metrics: Metrics, show: Show) -> None:
    """Replace the scores and warnings in the model card; the rest of it may be the user's and is not changed."""
    card = run.model / "README.md"
    old, new = ("\n".join(_scores_table(found)) for found in (before, metrics))
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    if old in text:
        replace_text(card, _with_head_scores(text.replace(old, new, 1), before, metrics))
    else:
        show.say(f"note: the scores in {card} were edited or removed, so they are not updated")
    update_openings(run)


def _with_head_scores(text: str, before: Metrics, metrics: Metrics) -> str:
    """Return a model card with the scores in its head replaced, unless they were edited or removed."""
    try:
        card = parsed_card(text)
    except ValueError:  # the user's head
        return text
    head: Any = card.data
    found = head.eval_results
    if not found or found != _eval_results(before, found[0].dataset_type, found[0].dataset_name):
        return text
    head.eval_results = _eval_results(metrics, found[0].dataset_type, found[0].dataset_name)
    return str(card)


def parsed_card(text: str) -> ModelCard:
    """Parse a model card. Raises ValueError if its head is not valid."""
    import yaml
    from huggingface_hub import ModelCard

    try:
        return ModelCard(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def update_openings(run: RunFolder) -> None:
    """Update the line of the model card that says how often the test split was opened, if the card has it."""
    card = run.model / "README.md"
    text = card.read_text(encoding="utf-8") if card.exists() else ""
    if (new := OPENINGS_LINE.sub(_openings_line(len(run_folder.test_openings_of(run))), text, count=1)) != text:
        replace_text(card, new)


def _openings_line(times: int) -> str:
    """Return the line of the model card about the test split."""
    if not times:
        return "Test split: closed. None of its rows was scored with this model."
    return f"Test split: scored with this model {'once' if times == 1 else f'{times:,} times'}."
