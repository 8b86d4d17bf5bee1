"""Public functions: the commands as functions that return what the commands print."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from randout import reporting
from randout.core import config
from randout.core.console import Show
from randout.core.errors import UserError
from randout.core.files import check_folder_name
from randout.core.launch import launched
from randout.core.terminal import is_text
from randout.core.wording import plural, type_words, verb
from randout.data import dataframes
from randout.data.columns import SHOWN, as_arguments, is_missing
from randout.data.sources import check_name
from randout.data.text_fields import NONE, TextFields
from randout.experiments import study_requests
from randout.experiments.run.batch_prediction import decided
from randout.experiments.run.options import Options, check_processes
from randout.experiments.run.run_request import Request
from randout.experiments.run.saved_model import LoadedClassifier, fields_of, is_path, load_on_device
from randout.methods.builtin import METHODS
from randout.stats.diagnostics import messages
from randout.stats.label_set_scores import sigmoid
from randout.storage.run_names import checked_name
from randout.trackers.report_to import trackers_of

if TYPE_CHECKING:
    from randout.experiments.annotation import Annotation
    from randout.experiments.run.abstention import Abstainer
    from randout.experiments.run.export import Export
    from randout.experiments.run.pipeline import Result
    from randout.experiments.run.plan import Plan
    from randout.experiments.run.push import Pushed
    from randout.stats.abstention import Threshold
    from randout.storage.label_issues import LabelIssues, SetIssues
    from randout.training.processes import Processes

PathLike = str | Path
Table = PathLike | Mapping[str, Sequence[Any]] | Any


def train(
    data: Table = "",
    *,
    student: str | Path | None = None,
    teacher: str | Path = "auto",
    preset: str | None = None,
    recipe: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    name: str | None = None,
    out: str | Path | None = None,
    runs: str | Path = "runs",
    time_limit: float | None = None,
    report_to: str | Sequence[str] | None = None,
    quiet: bool = True,
) -> Result:
    """Fine-tune a student on a labelled table, with a teacher's soft labels and noise, as `randout train` does.

    data: a file, a named dataset, or a table in memory: a pandas or polars DataFrame, an Arrow table, a
    `datasets.Dataset`, a list of rows, or columns ({"text": [...], "label": [...]}); empty: the data of the recipe. A
    table in memory is saved in `runs/data`, unless the call fails. student: None: an encoder found locally; "auto":
    that encoder or a bag-of-words baseline, chosen on validation. teacher: a run, a classifier, an encoder, or a file of
    soft labels; "none": no distillation. settings: by the keys of `--set`
    (`{"learning_rate": 2e-5, "methods.kd.weight": 0.4, "data.group_column": "author"}`). name: of the run, in tables and
    reports. time_limit: in seconds. report_to: experiment trackers, as "tensorboard,mlflow". Repeating the call returns the
    finished run or resumes it. Raises UserError, Failure, and Stopped at the time limit.
    """
    from randout.experiments.run import pipeline, planning  # imports PyTorch, which `load` of an export does without

    _check_arguments(student, teacher, preset, recipe, settings, out, runs, time_limit)
    if not isinstance(name, str | None):
        raise UserError(f"train: name: found {name!r:.80}, {type_words(name)}; expected a string")
    if out is not None:
        check_folder_name(Path(out))
    called = "" if name is None else checked_name(name)
    options = replace(_options(out, runs, time_limit, quiet, report_to=report_to), name=called)

    def make_plan() -> Plan:
        with _source(data, Path(runs)) as source:
            request = _request(_tables(source, student, teacher), preset, recipe, settings)
            return planning.make(request.config(), required=request.required, alternatives=True)

    def carry_out(processes: Processes | None = None) -> Result:
        plan = make_plan()
        plan.dataset.report.warn(options.show)
        result = pipeline.execute(plan, replace(options, processes=processes))
        options.show.conclude(messages(result.scores.warnings))
        return result

    if (launch := launched()) is None:
        return carry_out()
    from randout.experiments.run.launched import train_together

    return train_together(launch, carry_out, make_plan)


@dataclass(frozen=True)
class Predictor:
    """A trained classifier in memory, as `load` returns it."""

    name: str
    saved: LoadedClassifier

    @property
    def id2label(self) -> dict[int, str]:
        """The label of each column of `predict_proba`."""
        return dict(self.saved.id2label)

    @property
    def thresholds(self) -> dict[str, float] | None:
        """The probability above which each label is predicted, of a model of label sets; None for one label per text."""
        limits = self.saved.thresholds
        return None if limits is None else dict(zip(self.saved.id2label.values(), limits, strict=True))

    def predict(self, texts: Iterable[str], *, abstain: str | float = "") -> list[Any]:
        """Return the label of each text; None, with a Python warning, for an empty or white-space text.

        texts: strings; for a model of pairs, (first, second); for one that reads fields, rows by column: {"text": ...,
        "position": ...}.
        abstain: a text of which the model is not sure enough gets None too: "accuracy=0.95", "coverage=0.9" (a threshold
        chosen on validation rows, see `threshold`), or a confidence. A model of label sets (multi-label) gives a list of
        labels for each text, which may be empty; its accuracy and confidence are those of whole sets. Raises UserError as
        `predict_proba` and `threshold` do.
        """
        abstainer = self._abstainer(abstain) if abstain else None
        return _labels(self.saved, self._logits(texts, None, "model.predict"), abstainer)

    def threshold(self, target: str | float) -> Threshold:
        """Return the threshold that `predict(texts, abstain=target)` uses, with its coverage and accuracy on validation rows.

        Raises UserError if the target cannot be reached, or if the model has no validation rows to choose it by.
        """
        return self._abstainer(target).threshold

    def confidence(self, texts: Iterable[str]) -> np.ndarray:
        """Return (n,) the calibrated probability of each text's label, which `abstain` compares; NaN for an empty text.

        Of a model of label sets, the probability of the whole set, with labels taken as independent.
        """
        logits = self._logits(texts, None, "model.confidence")
        return self._abstainer(1.0).confidences(logits, self.saved.thresholds)

    def _abstainer(self, target: str | float) -> Abstainer:
        from randout.experiments.run.abstention import abstainer

        return abstainer(self.name, target, Show(quiet=True), "abstain")

    def predict_proba(self, texts: Iterable[str], *, show: Show | None = None) -> np.ndarray:
        """Return probabilities (n, C) of n texts, columns by `id2label`, in float32; texts are truncated as in training.

        An empty or white-space text gets NaN, with a Python warning. Raises UserError for anything but a list of strings,
        also for a single string. texts: as for `predict`.
        """
        return _probabilities(self.saved, self._logits(texts, show, "model.predict_proba"))

    def _logits(self, texts: Iterable[str], show: Show | None, call: str) -> np.ndarray:
        found = _checked_texts(texts, call, self.saved.fields)
        kept = [at for at, text in enumerate(found) if not is_missing(text)]
        if len(kept) < len(found):
            _warn_of_empty(found, kept)
        logits = np.full((len(found), len(self.saved.id2label)), np.nan, np.float32)
        if kept:
            with (show or Show(quiet=True)).bar("predicting", len(kept)) as advance:
                logits[kept] = self.saved.logits([found[at] for at in kept], lambda count: advance(count, ""))
        return logits


def _probabilities(saved: LoadedClassifier, logits: np.ndarray) -> np.ndarray:
    """Return the probabilities (n, C) of each row of logits; of label sets, those of each label by itself."""
    if saved.thresholds is not None:
        return sigmoid(logits).astype(np.float32)
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    found: np.ndarray = shifted / shifted.sum(1, keepdims=True)
    return found


def _labels(saved: LoadedClassifier, logits: np.ndarray, abstain: Abstainer | None = None) -> list[Any]:
    """Return the label, or label set, of each row of logits (n, C); None for rows of NaN, and for those that `abstain`
    leaves out.
    """
    found: list[Any] = [None] * len(logits)
    kept = np.flatnonzero(~np.isnan(logits[:, 0]))
    labels, _, _ = decided(logits[kept], list(saved.id2label.values()), saved.thresholds)
    accepted = np.ones(len(kept), bool)
    if abstain is not None:
        accepted = abstain.accepts(abstain.confidences(logits[kept], saved.thresholds))
    for at, label, sure in zip(kept.tolist(), labels, accepted.tolist(), strict=True):
        found[at] = label if sure else None
    return found


def _warn_of_empty(texts: Sequence[str], kept: Sequence[int]) -> None:
    empty = sorted({*range(len(texts))} - {*kept})
    shown = ", ".join(f"texts[{at}]" for at in empty[:SHOWN]) + (", ..." if len(empty) > SHOWN else "")
    are, get = verb(len(empty), "is", "are"), verb(len(empty), "gets", "get")
    found = f"{len(empty):,} of {plural(len(texts), 'text')} {are} empty and {get} no label: {shown}"
    warnings.warn(found, UserWarning, stacklevel=4)  # points at the line that called predict


def load(model: PathLike, *, device: str = "auto", form: str = "") -> Predictor:
    """Load the classifier of a run, a model folder or an export once, for any number of predictions. An export needs
    onnxruntime and tokenizers, and PyTorch is not loaded.

    device: auto, cpu, cuda or mps. form: of an export: float32, int8 or arrays; empty: its default. Raises UserError if the
    classifier, the form or the device is not available.
    """
    if not isinstance(model, str | Path):
        raise UserError(f"predict: model: found {model!r:.80}, {type_words(model)}; expected a run or a folder")
    return Predictor(str(model), load_on_device(str(model), device, "predict", form))


def predict(
    model: PathLike | Predictor,
    texts: Iterable[str],
    *,
    abstain: str | float = "",
    device: str = "auto",
    show: Show | None = None,
) -> tuple[list[Any], np.ndarray]:
    """Predict labels (n), or label sets as lists, and probabilities (n, C; columns by id2label) of `texts`.

    model: a run, a model folder, or a `Predictor`. texts, abstain: as for `Predictor.predict`. An empty text gets None and
    NaN. Computed in float32, without padding if the encoder supports it; texts are truncated as in training. Raises
    UserError, also for a single string, which would be read as a list of characters.
    """
    texts = _checked_list(texts, "randout.predict")
    if isinstance(model, str | Path):  # before the model is loaded, or downloaded
        if is_path(str(model)):
            texts = _checked_texts(texts, "randout.predict", fields_of(str(model)))
        elif not any(isinstance(text, tuple | Mapping) for text in texts):
            texts = _checked_texts(texts, "randout.predict", NONE)
    loaded = model if isinstance(model, Predictor) else load(model, device=device)
    abstainer = loaded._abstainer(abstain) if abstain else None
    logits = loaded._logits(texts, show, "randout.predict")
    return _labels(loaded.saved, logits, abstainer), _probabilities(loaded.saved, logits)


def export(run: PathLike, out: PathLike, *, forms: Sequence[str] = (), quiet: bool = True) -> Export:
    """Write a finished run's model to the new folder `out` for deployment without PyTorch, as `randout export` does.

    forms: float32, int8; empty: both, without those that differ too much from the model. Returns the checks. Raises
    UserError and Failure.
    """
    from randout.experiments.run.export import export_run

    return export_run(Path(run), Path(out), _checked_names("forms", forms) or (), Show(quiet))


def push(
    run: PathLike,
    repository: str,
    *,
    private: bool = False,
    revision: str = "",
    create_pr: bool = False,
    export: Sequence[str] = (),
    license: str = "",
    quiet: bool = True,
) -> Pushed:
    """Upload a finished run's model to the Hugging Face Hub as `repository` (USER/NAME), as `randout push` does, download it
    again, and compare files and predictions.

    private: for a new repository. revision: a branch, created if missing; empty: main. create_pr: propose the change in a
    pull request. export: forms to add, float32 and int8, or arrays for a bag of words. license: for the model card. The
    token is that of `hf auth login` or HF_TOKEN. Raises UserError and Failure.
    """
    from randout.experiments.run.push import Push, push_run

    forms = tuple(_checked_names("export", export, "push") or ())
    return push_run(Push(Path(run), repository, private, revision, create_pr, forms, license), Show(quiet))


def annotate(
    table: PathLike,
    model: PathLike,
    out: PathLike,
    *,
    labels: Sequence[str] | None = None,
    answer: str = "letter",
    instruction: str | None = None,
    prompt: PathLike | None = None,
    text_column: str | None = None,
    text_pair: str | None = None,
    prefix_columns: Sequence[str] = (),
    label_column: str | None = None,
    id_column: str | None = None,
    limit: int = 0,
    batch_size: int = 8,
    max_length: int = 2048,
    device: str = "auto",
    quiet: bool = True,
) -> Annotation:
    """Label the texts of a table with a local language model, as `randout annotate` does; `out` is then a teacher for `train`.

    model: folder or hub name of a causal language model. labels: None: those of the table's training rows. answer: "letter" of
    an option or "name" of a label. text_pair: column of the second texts of pairs. prefix_columns: of fields before a text.
    prompt: file of a whole prompt, for answers by name. limit: rows; 0: all. max_length: tokens of a text. Repeating an
    interrupted call resumes it. Raises UserError and Failure.
    """
    from randout.experiments import annotation

    request = annotation.Request(
        table=str(table),
        model=str(model),
        out=Path(out),
        labels=() if labels is None else tuple(_checked_names("labels", labels, "annotate") or ("",)),
        answer=answer,
        instruction=annotation.INSTRUCTION if instruction is None else instruction,
        prompt=None if prompt is None else Path(prompt),
        text_column=text_column,
        text_pair=text_pair or "",
        prefix_columns=tuple(_checked_names("prefix_columns", prefix_columns, "annotate") or ()),
        label_column=label_column,
        id_column=id_column,
        limit=limit,
        batch_size=batch_size,
        max_length=max_length,
        device=device,
    )
    return annotation.annotate(request, Show(quiet))


def label_issues(
    data: Table,
    *,
    student: PathLike | None = None,
    teacher: PathLike = "none",
    folds: int = 5,
    recipe: PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    out: PathLike | None = None,
    formats: str = "html,md,csv",
    runs: PathLike = "runs",
    quiet: bool = True,
) -> LabelIssues | SetIssues:
    """Find rows whose labels are doubtful, as `randout label-issues` does; return them with estimates of how many are wrong.

    data: as for `train`; multi-label data give a `SetIssues`, with the labels that each row likely lacks or has wrongly. student:
    an encoder or a baseline that is trained for each fold in runs of its own; None: a bag of words. out: a new folder for the
    table to correct and the report; None: nothing is written. `train` takes the corrected table as
    `settings={"data.corrections": FILE}`. Raises UserError and Stopped.
    """
    from randout.experiments.label_issues import check_output, find_label_issues, write_label_issues

    _check_arguments(student, teacher, None, recipe, settings, out, runs, None, "label_issues")
    if out is not None:
        check_output(Path(out), formats)
    with _source(data, Path(runs)) as source:
        config = _request(_tables(source, student, teacher), None, recipe, settings).config()
        found = find_label_issues(config, folds, _options(None, runs, None, quiet))
    if out is not None:
        write_label_issues(found, Path(out), formats)
    return found


def label_shards(
    model: PathLike,
    inputs: PathLike | Sequence[PathLike],
    out: PathLike,
    *,
    kind: Literal["soft-labels", "predictions"] = "soft-labels",
    text_column: str | None = None,
    text_pair: str | None = None,
    id_column: str | None = None,
    probabilities: bool = False,
    abstain: str = "",
    deduplicate: bool = False,
    held_out: PathLike = "",
    device: str = "auto",
    form: str = "",
    work: PathLike | None = None,
    jobs: int = 1,
    job_threads: int | None = None,
    cluster: str | None = None,
    job_gpus: float | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Label the texts of Parquet shards, as `randout soft-labels MODEL INPUT -o OUT` does; return the manifest of `out`.

    model: a run, a model folder or an export. inputs: folders, globs, files or URLs. out: a folder or URL; `train` takes it as
    a teacher. kind: "predictions" for what `randout predict` writes, with `probabilities` of all classes and `abstain` as for
    `Predictor.predict`. deduplicate: label
    the first copy of a text only. held_out: a run or a table whose rows are left out. work: local folder of unfinished shards.
    jobs: processes with `job_threads` CPU threads each. cluster: a Ray cluster instead (HOST:PORT, "auto", "local"), with
    `job_gpus` GPUs for each process. Repeating an interrupted call resumes it. Raises UserError, Failure, and Stopped.
    """
    from randout.experiments.shards import label_shards as shards

    if kind not in ("soft-labels", "predictions"):
        raise UserError(f"label_shards: kind: found {kind!r:.80}; expected 'soft-labels' or 'predictions'")
    options = _options(None, "runs", None, quiet, jobs, job_threads, cluster, job_gpus)
    request = shards.ShardRequest(
        kind=kind,
        model=str(model),
        inputs=[str(one) for one in ([inputs] if isinstance(inputs, str | Path) else inputs)],
        out=str(out),
        device=device,
        form=form,
        text_column=text_column,
        text_pair=text_pair,
        id_column=id_column,
        probabilities=probabilities,
        abstain=abstain,
        deduplicate=deduplicate,
        held_out=str(held_out),
        work=None if work is None else Path(work),
    )
    return shards.label_shards(request, options).as_json()


def evaluate(
    model: PathLike,
    file: PathLike | None = None,
    *,
    split: str = "validation",
    text_column: str | None = None,
    label_column: str | None = None,
    text_pair: str | None = None,
    form: str = "",
    abstain: str = "",
    allow_leaks: bool = False,
    quiet: bool = True,
) -> dict[str, Any]:
    """Evaluate a classifier on a labelled file, or a run on one of its own splits, as `randout evaluate --json` does.

    split: validation or test, if no file is given; opening the test split is recorded. form: of an export, float32 or int8,
    with a file. text_pair: column of the second texts; None: as in training. abstain: as for `Predictor.predict`;
    `abstention` then has coverage and accuracy. Raises UserError.
    """
    from randout.experiments.run import scoring

    if file is not None:
        try:
            request = scoring.FileRequest(
                str(model), str(file), text_column, label_column, form=form, abstain=abstain, text_pair=text_pair
            )
            return scoring.score_file(request, Show(quiet))[0].as_json()
        except UserError as error:
            raise UserError(as_arguments(str(error))) from None
    return scoring.score_run(Path(model), split, Show(quiet), allow_leaks, abstain=abstain)[0].as_json()


def search(
    data: Table = "",
    *,
    space: str | Mapping[str, Any] | None = None,
    student: PathLike | None = None,
    teacher: PathLike = "auto",
    preset: str | None = None,
    recipe: PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    trials: int | None = None,
    sampler: str | None = None,
    halving: int | None = None,
    budget: float | None = None,
    keep: str | None = None,
    search_seed: int | None = None,
    out: PathLike | None = None,
    runs: PathLike = "runs",
    time_limit: float | None = None,
    jobs: int = 1,
    job_threads: int | None = None,
    cluster: str | None = None,
    job_gpus: float | None = None,
    report_to: str | Sequence[str] | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Search settings on validation, as `randout search` does; return the study's record with its trials and the best one.

    space: values by setting, as {"kd.weight": [0.4, 0.8]}, or the name of a space ("paper", "figures"). jobs: runs at once, in
    processes of their own with `job_threads` CPU threads each. cluster: runs on a Ray cluster instead (HOST:PORT, "auto",
    "local"), with `job_gpus` GPUs each. Other arguments as in `train` and the command. Repeating the call resumes the search.
    Raises UserError, Failure, and Stopped at the limit.
    """
    _check_arguments(student, teacher, preset, recipe, settings, out, runs, time_limit, "search")
    table = study_requests.search_table(
        space, trials=trials, sampler=sampler, halving=halving, budget=budget, keep=keep, seed=search_seed
    )
    with _source(data, Path(runs)) as source:
        request = _request(_tables(source, student, teacher), preset, recipe, settings)
        request.config(but=("search",))
    options = _options(None, runs, time_limit, quiet, jobs, job_threads, cluster, job_gpus, report_to)
    return study_requests.search(request, table, Path(out) if out else None, options).record.as_json()


def compare(
    what: Table,
    *,
    arms: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    baseline: PathLike | None = None,
    metric: str | None = None,
    margin: float | None = None,
    student: PathLike | None = None,
    teacher: PathLike | None = None,
    preset: str | None = None,
    recipe: PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    drop_one: bool = False,
    space: str | Mapping[str, Any] | None = None,
    trials: int | None = None,
    halving: int | None = None,
    allow_leaks: bool = False,
    out: PathLike | None = None,
    runs: PathLike = "runs",
    time_limit: float | None = None,
    jobs: int = 1,
    job_threads: int | None = None,
    cluster: str | None = None,
    job_gpus: float | None = None,
    report_to: str | Sequence[str] | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Compare recipes over seeds, or finished runs, as `randout compare` does; return the study's record.

    what: labelled data as for `train`, a study (TOML), or a list of finished runs. arms: presets and recipe files.
    methods: arms from `randout methods`, or ["all"]. seeds: how many, or which. Raises UserError, Failure, and Stopped
    at the limit.
    """
    _check_arguments(student, teacher or "", preset, recipe, settings, out, runs, time_limit, "compare")
    asked = study_requests.Asked(
        **_shared(student, teacher, recipe, settings, baseline),
        preset=preset,
        arms=_checked_names("arms", arms),
        methods=_checked_names("methods", methods),
        drop_one=drop_one,
        seeds=range(1, seeds + 1) if isinstance(seeds, int) else seeds,
        space=space,
        trials=trials,
        halving=halving,
        metric=metric,
        margin=margin,
        allow_leaks=allow_leaks,
    )
    words: Any = [what] if _is_path(what) else what if _is_list_of_paths(what) else []
    named = [str(word) for word in words]
    if named and study_requests.are_runs(named):
        return study_requests.finished(named, asked, out=out).as_json()
    with _source(named[0] if named else what, Path(runs)) as source:
        study = study_requests.comparison(source, asked, Path(out) if out else None)
    options = _options(None, runs, time_limit, quiet, jobs, job_threads, cluster, job_gpus, report_to)
    return study_requests.execute(study, Path(out) if out else None, options).record.as_json()


def cross_validate(
    data: Table,
    *,
    folds: int | None = None,
    repeats: int | None = None,
    protocol: str | None = None,
    arms: Sequence[str] | None = None,
    baseline: str | None = None,
    metric: str | None = None,
    margin: float | None = None,
    student: PathLike | None = None,
    teacher: PathLike | None = None,
    preset: str | None = None,
    recipe: PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    space: str | Mapping[str, Any] | None = None,
    trials: int | None = None,
    halving: int | None = None,
    allow_leaks: bool = False,
    out: PathLike | None = None,
    runs: PathLike = "runs",
    time_limit: float | None = None,
    jobs: int = 1,
    job_threads: int | None = None,
    cluster: str | None = None,
    job_gpus: float | None = None,
    report_to: str | Sequence[str] | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Cross-validate recipes with grouped folds and one teacher per fold, as `randout cv` does; return the study's record.

    data: as for `train`, or a study (TOML). folds: 5 or more (default: 10). Raises UserError, Failure, and Stopped at
    the limit.
    """
    _check_arguments(student, teacher or "", preset, recipe, settings, out, runs, time_limit, "cross_validate")
    asked = study_requests.Asked(
        **_shared(student, teacher, recipe, settings, baseline),
        preset=preset,
        arms=_checked_names("arms", arms),
        folds=folds,
        repeats=repeats,
        protocol=protocol,
        space=space,
        trials=trials,
        halving=halving,
        metric=metric,
        margin=margin,
        allow_leaks=allow_leaks,
    )
    with _source(data, Path(runs)) as source:
        study = study_requests.cross_validation(source, asked, Path(out) if out else None)
    options = _options(None, runs, time_limit, quiet, jobs, job_threads, cluster, job_gpus, report_to)
    return study_requests.execute(study, Path(out) if out else None, options).record.as_json()


def shrink(
    data: Table = "",
    *,
    teacher: PathLike = "auto",
    students: Sequence[PathLike] = (),
    layers: Sequence[int] = (),
    trim_embedding: bool = False,
    forms: Sequence[str] = (),
    seeds: int = 1,
    margin: float = 0.01,
    cost: str = "latency",
    threads: int = 1,
    rounds: int = 3,
    open_test: str = "chosen",
    measure_again: bool = False,
    preset: str | None = None,
    recipe: PathLike | None = None,
    settings: Mapping[str, Any] | None = None,
    out: PathLike | None = None,
    runs: PathLike = "runs",
    time_limit: float | None = None,
    jobs: int = 1,
    job_threads: int | None = None,
    cluster: str | None = None,
    job_gpus: float | None = None,
    report_to: str | Sequence[str] | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Find the smallest model that is not worse than a teacher, as `randout shrink` does; return the study's record.

    students: encoders; empty: one found locally. layers: numbers of layers to keep; empty: all, half, a quarter, ... and
    one. forms: torch, float32, int8; empty: all. margin: accuracy that may be lost, as a fraction. cost: latency, size or
    throughput. open_test: chosen, nearest or none. Other arguments as in `train` and the command. Repeating the call
    resumes. Raises UserError, Failure, and Stopped at the limit.
    """
    names = _checked_names("students", students) or []
    _check_arguments(None, teacher, preset, recipe, settings, out, runs, time_limit, "shrink")
    given = {
        "students": tuple(names) or None,
        "layers": tuple(layers) or None,
        "trim": trim_embedding,
        "forms": tuple(_checked_names("forms", forms) or ()) or None,
        "seeds": seeds,
        "margin": margin,
        "cost": cost,
        "threads": threads,
        "rounds": rounds,
        "open": open_test,
    }
    with _source(data, Path(runs)) as source:
        request = _request(_tables(source, names[0] if names else None, teacher), preset, recipe, settings)
        request.config()
    options = _options(None, runs, time_limit, quiet, jobs, job_threads, cluster, job_gpus, report_to)
    where = Path(out) if out else None
    return study_requests.shrink(request, given, where, options, measure_again).record.as_json()


def report(
    folders: PathLike | Sequence[PathLike],
    out: PathLike = "report",
    *,
    texts: bool = True,
    formats: str = "html,md,csv,png,pdf",
    baseline: str = "",
) -> list[Path]:
    """Write a report of runs and studies, as `randout report` does; return the written files, the main page first.

    texts: whether the report may show texts that the runs stored. baseline: the run that the others are compared with. Raises
    UserError.
    """
    named = [folders] if isinstance(folders, str | Path) else list(folders)
    return reporting.report([Path(one) for one in named], Path(out), texts=texts, formats=formats, baseline=baseline)


@contextmanager
def _source(data: Table, runs: Path) -> Iterator[str]:
    """Yield the name of `data` in a recipe. A table in memory is saved in `runs/data`, and deleted again after an error,
    because no run refers to it yet.
    """
    if isinstance(data, str | Path):
        check_name(data)
        yield str(data)
        return
    path, new = dataframes.saved(data, runs / "data")
    try:
        yield str(path)
    except BaseException:
        if new:  # no run refers to it
            path.unlink(missing_ok=True)
        raise


def _tables(source: str, student: PathLike | None, teacher: PathLike) -> dict[str, Any]:
    """Return recipe tables for the given arguments; teacher "auto" is the default, which a recipe may change."""
    named = {"data": {"source": source}, "student": {"model": str(student or "")}}
    named |= {"teacher": {"model": "" if teacher == "auto" else str(teacher)}}
    return {name: table for name, table in named.items() if next(iter(table.values()))}


def _request(
    tables: dict[str, Any], preset: str | None, recipe: PathLike | None, settings: Mapping[str, Any] | None
) -> Request:
    return Request(tables, preset, Path(recipe) if recipe else None, _assignments(settings))


def _assignments(settings: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    return [config.assignment_of(key, value, METHODS) for key, value in (settings or {}).items()]


def _shared(
    student: PathLike | None,
    teacher: PathLike | None,
    recipe: PathLike | None,
    settings: Mapping[str, Any] | None,
    baseline: PathLike | None,
) -> dict[str, Any]:
    """Convert the shared arguments of `study_requests.Asked` from their types in the public functions."""
    given: dict[str, PathLike | None] = {"student": student, "teacher": teacher, "baseline": baseline}
    found: dict[str, Any] = {name: None if value is None else str(value) for name, value in given.items()}
    return found | {"recipe": Path(recipe) if recipe else None, "settings": _assignments(settings) or None}


def _options(
    out: PathLike | None,
    runs: PathLike,
    time_limit: float | None,
    quiet: bool,
    jobs: int = 1,
    threads: int | None = None,
    cluster: str | None = None,
    gpus: float | None = None,
    report_to: str | Sequence[str] | None = None,
) -> Options:
    check_processes(jobs, threads, cluster, gpus)
    deadline = time.monotonic() + time_limit if time_limit else None
    where = Path(out) if out else None
    more: dict[str, Any] = {"jobs": jobs, "threads": threads, "cluster": cluster or "", "gpus": gpus}
    more |= {"report_to": trackers_of(report_to, "report_to")}
    return Options(runs=Path(runs), out=where, deadline=deadline, show=Show(quiet), **more)


def _checked_names(name: str, value: Any, function: str = "compare") -> list[str] | None:
    if isinstance(value, str):
        raise UserError(f"{function}: {name}: found {value!r:.80}; expected a list of names: [{value!r:.80}]")
    return None if value is None else [str(one) for one in value]


def _is_path(value: Any) -> bool:
    return isinstance(value, str | Path)


def _is_list_of_paths(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_path, value))


def _check_arguments(
    student: Any,
    teacher: Any,
    preset: Any,
    recipe: Any,
    settings: Any,
    out: Any,
    runs: Any,
    time_limit: Any,
    function: str = "train",
) -> None:
    """Raise UserError if an argument of `function` has the wrong type."""
    path = (str, Path)
    model = "a model's name or folder"
    for name, value, types, expected in (
        ("student", student, (*path, type(None)), model),
        ("teacher", teacher, path, f"{model}, or 'none'"),
        ("preset", preset, (str, type(None)), f"one of {', '.join(config.presets())}"),
        ("recipe", recipe, (*path, type(None)), "a TOML file"),
        (
            "settings",
            settings,
            (Mapping, type(None)),
            'settings by name, as in {"learning_rate": 2e-5, "kd.weight": 0.4}',
        ),
        ("out", out, (*path, type(None)), "a folder"),
        ("runs", runs, path, "a folder"),
        ("time_limit", time_limit, (int, float, type(None)), "seconds"),
    ):
        if not isinstance(value, types) or isinstance(value, bool):
            raise UserError(f"{function}: {name}: found {value!r:.80}, {type_words(value)}; expected {expected}")
    if odd := [key for key in settings or {} if not isinstance(key, str)]:
        raise UserError(f'{function}: settings: found the key {odd[0]!r}, expected a name, as in "learning_rate"')


def _checked_list(texts: Any, call: str) -> list[Any]:
    """Return the texts as a list. Raises UserError for a single text and for anything but a list.

    call: the called function, for messages: "randout.predict", or "model.predict" for a method of a `Predictor`.
    """
    function, before = call.rpartition(".")[2], "model, " if call == "randout.predict" else ""
    if isinstance(texts, str | bytes):
        raise UserError(
            f"{function}: texts: found one text, {texts!r:.60}; expected a list of texts: {call}({before}[text])"
        )
    if isinstance(texts, Mapping) or not isinstance(texts, Iterable):
        raise UserError(f"{function}: texts: found {type_words(texts)}, expected a list of texts, such as one column")
    return list(texts)


def _checked_texts(texts: Any, call: str, fields: TextFields) -> list[str]:
    """Return what the model reads, one for each text. Raises UserError as `_checked_list` does, and for other texts.

    fields: the columns of an input besides its text.
    """
    function = call.rpartition(".")[2]
    found = fields.read_items(_checked_list(texts, call), function)
    for at, text in enumerate(found):
        if not isinstance(text, str):
            raise UserError(f"{function}: texts[{at}] is {text!r:.60}, {type_words(text)}; expected a string")
        if not is_text(text):
            raise UserError(
                f"{function}: texts[{at}] contains unpaired surrogates, which are not valid characters: {text!a:.60}"
            )
    return found
