"""Reproduces the paper's tables, figures and sections: runs what is missing, then shows published and measured values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from randout.core.config import build
from randout.data.dataset import load
from randout.experiments.run import planning
from randout.experiments.run.student import Options
from randout.experiments.search.search import make_search, run_search
from randout.experiments.search.space import SPACES
from randout.experiments.study.comparison import run_study
from randout.experiments.study.results import StudyPredictions, read_scores
from randout.experiments.study.spec import arm_config
from randout.methods.builtin import KD_ALONE, METHODS, PAPERS_OWN
from randout.models.sources import find
from randout.paper.published import paper
from randout.reporting import report
from randout.reporting.workflow_figure import workflow_picture
from randout.stats.verdicts import FOLDS_NEEDED, fold_interval
from randout.storage.study_folder import StudyFolder
from randout.storage.study_record import ComparisonRecord

from .budgets import BOTH, HMCNET, Request, reasons, search_of, study_of
from .side_by_side import TEXT_COLUMNS, Measured, ResultTable, comparison_row, measured_of, reason_marks, score_header


def reproduce(request: Request, items: Sequence[str], folder: Path, options: Options) -> list[ResultTable]:
    """Reproduce the items in order and return their tables; an interrupted reproduction resumes.

    Raises UserError, Failure, Stopped.
    """
    made: dict[str, Callable[[], list[ResultTable]]] = {
        "table 1": lambda: [_sizes(request)],
        "figure 1": lambda: [_workflow(request, folder)],
        "figure 3": lambda: [_noise(request, "Figure 3", folder, options)],
        "figure 4": lambda: [_noise(request, "Figure 4", folder, options)],
        "section 5": lambda: [_cross_validation(request, folder, options)],
    }
    blocks: list[ResultTable] = []
    for item in items:
        options.show.say(f"\n{item}")
        found = made[item]() if item in made else _study(request, item, folder, options)
        for block in found:
            options.show.say("\n".join(block.lines()))
        blocks += found
    return blocks


def _study(request: Request, item: str, folder: Path, options: Options) -> list[ResultTable]:
    """Reproduce a table of scores: each published and measured value, their difference, and a verdict."""
    study = study_of(request, item)
    where = folder / study.name
    done = run_study(study, where, replace(options, show=options.show.within()))
    scores = read_scores(done)
    place = "Table 4" if item == "table 4" else item.capitalize()
    units = f"{len(scores.units)} of {len(done.record.units)} seeds"
    if item == "figure 2":
        return [_confusion(scores, units, str(where), labels_of(done))]
    rows, notes, numbers = [], [f"measured: {units}, interval over seeds and texts"], []
    known_reasons: dict[str, str] = {}
    names = {"teacher": "pubmedbert" if request.dataset == "coda19" else "roberta-large"}
    for arm in done.record.arms:
        known = paper().find(place, request.dataset, names.get(arm, arm))
        why = reason_marks(reasons(request, arm), known_reasons)
        for number in known:
            measured = measured_of(scores, arm, number, labels_of(done))
            rows.append(comparison_row(number, measured, why, paper().names.get(number.model, arm)))
            numbers.append(number)
    notes += [f"({mark}) {reason}" for reason, mark in known_reasons.items()]
    notes += paper().footnotes(numbers)
    title = f"{place} ({request.dataset}): {paper().captions[place]}"
    return [ResultTable(title, score_header(), rows, notes, str(where), TEXT_COLUMNS)]


def labels_of(done: StudyFolder[ComparisonRecord]) -> list[str]:
    return done.run(done.record.cells_in("finished")[0]).labels


def _confusion(scores: StudyPredictions, units: str, where: str, labels: Sequence[str]) -> ResultTable:
    """Reproduce Figure 2: the confusion matrix of Randout-KD summed over seeds, as shares of each row."""
    counts = np.zeros((scores.num_labels, scores.num_labels))
    for truth, made in zip(scores.labels, scores.predictions["randout-kd"], strict=True):
        np.add.at(counts, (truth, made), 1)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    rows = [[name, *(f"{100 * value:.1f}" for value in row)] for name, row in zip(labels, shares, strict=True)]
    notes = [f"percent of each true class, {units}; the paper shows a picture without numbers to compare"]
    return ResultTable("Figure 2: confusion matrix of Randout-KD", ["true \\ predicted", *labels], rows, notes, where)


def _sizes(request: Request) -> ResultTable:
    """Reproduce Table 1: layers and parameters of the student and teacher of this request."""
    rows, numbers = [], []
    loaded = {name: _size(name) for name in (request.student, request.teacher)}
    for number in paper().find("Table 1", metric="layers"):
        size = paper().number("Table 1", "", number.model, "million_parameters")
        size_here = loaded.pop(number.model, None)
        cells = ["", ""] if size_here is None else [str(size_here[0]), f"{size_here[1]:.1f}M"]
        rows.append([paper().names[number.model], number.printed, f"{size.printed}M", *cells])
        numbers += [number, size]
    for name, (layers, millions) in loaded.items():
        rows.append([name.rstrip("/").rpartition("/")[2], "", "", str(layers), f"{millions:.1f}M"])
    header = ["encoder", "layers (published)", "parameters (published)", "layers", "parameters"]
    notes = ["measured: the student and teacher of this request, with a classification head; others were not loaded"]
    return ResultTable(f"Table 1: {paper().captions['Table 1']}", header, rows, [*notes, *paper().footnotes(numbers)])


def _size(name: str) -> tuple[int, float]:
    """Return the number of blocks and millions of parameters of an encoder with a classification head."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(find(name).folder, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForSequenceClassification.from_config(config)
    layers = getattr(config, "num_hidden_layers", None) or getattr(config, "n_layers", 0)
    return int(layers or 0), sum(p.numel() for p in model.parameters()) / 1e6


def _workflow(request: Request, folder: Path) -> ResultTable:
    """Reproduce Figure 1: the workflow of this configuration, one line per step, and as a picture."""
    config = arm_config(study_of(request, "table 3"), "randout-kd", METHODS)
    plan = planning.make(config, load(config.data))
    kd, noise = (METHODS[name].model_validate(config.methods[name]) for name in (KD_ALONE, PAPERS_OWN))
    layers, millions = _size(request.student)
    length, classes = plan.config.student.max_length, len(plan.dataset.id2label)
    tokens, units = noise.tokens, noise.units  # type: ignore[attr-defined]
    weight, temperature = kd.weight, kd.temperature  # type: ignore[attr-defined]
    after = ", ".join(map(str, noise.layers))  # type: ignore[attr-defined]
    parts = {
        "text": f"at most {length} tokens\n[CLS] ... [SEP]",
        "teacher": f"{_label(request.teacher)}\nfine-tuned, then frozen",
        "soft labels": f"softmax(z / {temperature:g})\nlogits stored once",
        "student": f"{_label(request.student)}\n{layers} blocks, {millions:.1f}M",
        "noise": f"U(0, 1) - 0.5 on\n{tokens} tokens x {units} units, block {after}",
        "head": f"softmax over\n{classes} classes from [CLS]",
        "loss": f"CE(gold)\n+ {weight:g} KL(teacher || student)",
    }
    picture = workflow_picture(parts, folder / "figure-1.png")
    steps = [
        ["teacher", f"{_label(request.teacher)}: fine-tuned on the training rows, frozen, its logits stored once"],
        ["text", f"at most {length} tokens: [CLS] ... [SEP]"],
        ["student", f"{_label(request.student)}: {layers} blocks, {millions:.1f}M parameters"],
        ["noise", f"U(0, 1) - 0.5 added to {tokens} random tokens x {units} hidden units"],
        ["", f"after block {after}, new in each training forward pass, off in evaluation"],
        ["head", f"softmax over {classes} classes from [CLS] (eq. 1)"],
        ["loss", f"CE(gold) + {weight} KL(teacher || student) at temperature {temperature} (eq. 6)"],
    ]
    title, header = "Figure 1: the workflow, read from the configuration", ["part", "what happens"]
    return ResultTable(title, header, steps, [f"drawn: {picture}"], left=(0, 1))


def _noise(request: Request, figure: str, folder: Path, options: Options) -> ResultTable:
    """Reproduce Figures 3 and 4 and section 5.1: the best tokens and units at each lambda, on validation."""
    table = search_of(request)
    config = arm_config(study_of(request, "figure 2"), "randout-kd", METHODS)
    search, _ = make_search(config, table)
    where = folder / figure.lower().replace(" ", "-")
    done = run_search(search, where, replace(options, show=options.show.within()))
    drawn = report([where], folder / f"{where.name}-report", formats="html,png")[0]
    rows = []
    trials = [(t, t.value) for t in done.record.trials if t.state == "finished" and t.value is not None]
    published = [best for best in paper().best if best.dataset == request.dataset]
    for best in published:
        own = [(t, value) for t, value in trials if t.settings.get(paper().settings["lambda"]) == best.lam]
        cells = ["", "", ""]
        if own:
            top, value = max(own, key=lambda pair: (pair[1], -pair[0].number))
            cells = [str(top.settings[f"randout.{key}"]) for key in ("tokens", "units")]
            cells.append(f"{100 * value:.2f}")
        rows.append([f"{best.lam}{' (best)' if best.overall else ''}", str(best.tokens), str(best.units), *cells])
    notes = [
        f"{len(trials)} full trials of {done.record.grid} cells ({len(done.record.trials)} tried); drawn: {drawn}",
    ]
    why = reasons(request, "randout-kd")
    if why:
        notes.append(f"not comparable: {'; '.join(why)}")
    notes += [paper().notes[key] for best in published for key in best.notes]
    grid = 1
    for values in SPACES["paper"].values():
        grid *= len(values)
    notes.append(f"the paper's whole grid has {grid:,} configurations")
    header = ["lambda", "tokens (published)", "units (published)", "tokens", "units", "validation accuracy %"]
    return ResultTable(f"{figure} and section 5.1: the best noise at each lambda", header, rows, notes, str(where))


def _cross_validation(request: Request, folder: Path, options: Options) -> ResultTable:
    """Reproduce section 5: cross-validation of Randout-KD and, next to the published HMCNET, of its approximation."""
    studies = {BOTH: study_of(request, "section 5"), HMCNET: study_of(request, "section 5 hmcnet")}
    where = folder / studies[BOTH].name
    scores, planned = {}, 0
    for arm, study in studies.items():
        done = run_study(study, folder / study.name, replace(options, show=options.show.within()))
        scores[arm], planned = read_scores(done), len(done.record.units)
    rows, numbers = [], paper().find("Section 5, ten folds", "rhmd")
    known: dict[str, str] = {}
    fewer = [f"{planned} folds"] if planned != 10 else []
    names = {**paper().names, "naseem2022b": "HMCNET (approximation)"}
    for number in numbers:
        arm = HMCNET if number.model == "naseem2022b" else number.model
        measured = _over_folds(scores[arm], arm, number.metric) if arm in scores else None
        why = reason_marks([*reasons(request, arm), *fewer], known) if arm in scores else ""
        rows.append(comparison_row(number, measured, why, names[number.model]))
    notes = [
        f"measured: {len(scores[BOTH].units)} of {planned} folds, Randout-KD with a teacher of its own in each; macro "
        "averages, mean over folds, Nadeau and Bengio's interval",
        "HMCNET (approximation): published are the values of Naseem et al. 2022b (BERT large, with user behaviour) as the "
        "paper quotes them; measured is the preset `hmcnet` with the terms of RHMD on the student of this request",
        "hyperparameters are the best of the paper's single split, as in its protocol, so these scores are optimistic",
    ]
    notes += [f"({mark}) {reason}" for reason, mark in known.items()] + paper().footnotes(numbers)
    return ResultTable(
        "Section 5: ten-fold cross-validation on RHMD", score_header(), rows, notes, str(where), TEXT_COLUMNS
    )


def _over_folds(scores: StudyPredictions, arm: str, metric: str) -> Measured | None:
    """Return the mean of a metric over folds with its interval; None if fewer than five folds are finished."""
    if len(scores.units) < FOLDS_NEEDED:
        return None
    values = np.array([row.value(metric) for row in scores.each(arm)])
    tests = np.array([len(labels) for labels in scores.labels])
    sizes = np.unique(np.concatenate(scores.groups), return_counts=True)[1]
    return Measured(*fold_interval(values, np.array(scores.train_rows), tests, group_sizes=sizes))


def page(request: Request, blocks: Sequence[ResultTable]) -> str:
    """Return all blocks as one Markdown page."""
    lines = [f"# The paper on {request.dataset}: published and measured", ""]
    lines += [f"Budget {request.budget}: {request.spend.about}. Student {_label(request.student)}, teacher "]
    lines[-1] += f"{_label(request.teacher)}. Differences are measured minus published, in points."
    lines.append("")
    for block in blocks:
        lines += block.markdown()
    return "\n".join(lines).rstrip() + "\n"


def _label(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def check(request: Request) -> None:
    """Raise UserError if the request's recipe is invalid, before anything runs."""
    build([{key: value for key, value in request.base.items() if key != "preset"}], METHODS)
