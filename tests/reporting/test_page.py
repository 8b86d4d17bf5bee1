"""The report on made-up folders: its numbers against sklearn, its three forms against each other, and in a browser."""

from __future__ import annotations

import csv
import html.parser
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
from rich.cells import cell_len
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from conftest import Run
from randout.core.errors import UserError
from randout.experiments import study_requests
from randout.reporting import checks, comparison, read, report, runs_table, scores, sections, svg, values
from randout.reporting import page as write
from randout.reporting.subjects import Arm, Subject, default_baseline
from randout.storage.metrics_record import RunWarning
from randout.storage.run_record import DataReport, GivenTeacher, RunRecord, UsedTeachers
from randout.storage.study_record import ArmWarning, ComparisonRecord, StudyData
from support.folders import LABELS, POST, SPLITS, begun, logits_of, make_run, make_search, make_study, truth
from support.folders import write as write_json

BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three finished runs, with texts."""
    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("plain", "kd", "randout-kd")):
        make_run(folder / name, name, seed, texts=True)
    return folder


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory, runs: Path) -> Path:
    """A report on a study, a search and three runs, in every form."""
    folder = tmp_path_factory.mktemp("everything")
    study = make_study(folder / "a" / "study", arms=("plain", "kd"))
    report([study, make_search(folder / "b" / "search"), runs], folder / "out", formats="html,md,csv,png")
    return folder / "out"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def saved(run: Path, split: str = "test") -> tuple[list[str], list[str]]:
    """Labels and predictions as a run saved them."""
    table = parquet.read_table(run / "predictions" / f"{split}.parquet")
    return table["label"].to_pylist(), table["prediction"].to_pylist()


class Tables(html.parser.HTMLParser):
    """The tables of a page: data-table -> rows of cells, as text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: dict[str, list[list[str]]] = {}
        self.inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.rows = self.found.setdefault(str(dict(attrs)["data-table"]), [])
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.rows[-1][-1] += data


def test_numbers_are_those_of_sklearn(runs: Path, tmp_path: Path) -> None:
    report([runs], tmp_path / "out", formats="csv")
    tables = tmp_path / "out" / "tables"
    metrics = {row["model"]: row for row in rows_of(tables / "metrics.csv")}
    classes = {(row["model"], row["class"]): row for row in rows_of(tables / "classes.csv")}
    cells = {(row["model"], row["true"], row["predicted"]): row for row in rows_of(tables / "confusion-figure.csv")}
    for name in ("plain", "kd", "randout-kd"):
        true, made = saved(runs / name)
        assert float(metrics[name]["accuracy %"]) == pytest.approx(100 * accuracy_score(true, made))
        assert float(metrics[name]["macro F1 %"]) == pytest.approx(100 * f1_score(true, made, average="macro"))
        counts, shares = (confusion_matrix(true, made, labels=LABELS, normalize=how) for how in (None, "true"))
        each = precision_recall_fscore_support(true, made, labels=LABELS)
        for at, label in enumerate(LABELS):
            row = [float(classes[name, label][key]) for key in ("precision %", "recall %", "F1 %")]
            assert row == pytest.approx([100 * part[at] for part in each[:3]])
            for other, predicted in enumerate(LABELS):
                found = cells[name, label, predicted]
                assert int(found["rows"]) == counts[at, other]
                assert float(found["% of the true class"]) == pytest.approx(100 * shares[at, other])


def test_calibration_is_the_definition_written_out(runs: Path, tmp_path: Path) -> None:
    report([runs / "kd"], tmp_path / "out", formats="csv")
    labels, logits = truth("test"), logits_of("test", 0.8, 1)
    confidence = (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).max(1)
    right = logits.argmax(1) == labels
    error, bins = 0.0, {}
    for at in range(15):
        inside = (confidence > at / 15) & (confidence <= (at + 1) / 15)
        if inside.any():
            bins[at] = (int(inside.sum()), 100 * confidence[inside].mean(), 100 * right[inside].mean())
            error += abs(confidence[inside].mean() - right[inside].mean()) * inside.mean()
    found = rows_of(tmp_path / "out" / "tables" / "reliability-figure.csv")
    assert [int(row["rows"]) for row in found] == [count for count, _, _ in bins.values()]
    assert [float(row["mean confidence %"]) for row in found] == pytest.approx([mean for _, mean, _ in bins.values()])
    assert [float(row["accuracy %"]) for row in found] == pytest.approx([share for _, _, share in bins.values()])
    (each,) = rows_of(tmp_path / "out" / "tables" / "calibration.csv")
    assert float(each["calibration error %"]) == pytest.approx(100 * error)


def test_rows_on_which_two_models_differ(runs: Path, tmp_path: Path) -> None:
    report([runs], tmp_path / "out", formats="csv")
    (true, one), (_, other) = saved(runs / "plain"), saved(runs / "kd")
    differ = {str(row) for row, a, b in zip(SPLITS["test"], one, other, strict=True) if a != b}
    shown = rows_of(tmp_path / "out" / "tables" / "examples-kd.csv")
    assert {row["row"] for row in shown} == differ
    assert all(row["text"] == f"{POST} {row['row']}" for row in shown)
    counts = {row["model"]: row for row in rows_of(tmp_path / "out" / "tables" / "agreement.csv")}["kd"]
    assert int(counts["disagree"]) == len(differ)
    assert int(counts["both right"]) == sum(t == a == b for t, a, b in zip(true, one, other, strict=True))
    assert int(counts["only this model right"]) == sum(t == b != a for t, a, b in zip(true, one, other, strict=True))


def test_page_markdown_and_csv_hold_the_same_numbers(everything: Path) -> None:
    page = Tables((everything / "report.html").read_text(encoding="utf-8")).found
    text = (everything / "report.md").read_text(encoding="utf-8")
    in_text = [
        [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in block.splitlines()]
        for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    ]
    in_page = [
        [[" ".join(cell.replace("\u2212", "-").split()) for cell in row] for row in rows] for rows in page.values()
    ]
    unmarked = [
        [[html.unescape(re.sub(r"\\(.)", r"\1", cell)) for cell in row] for row in [rows[0], *rows[2:]]]
        for rows in in_text
    ]
    assert len(unmarked) == len(in_page) == len(list((everything / "tables").glob("*.csv"))) > 30
    assert sorted(unmarked) == sorted(in_page)
    for name, rows in page.items():
        with (everything / "tables" / f"{name}.csv").open(encoding="utf-8", newline="") as stream:
            head, *lines = csv.reader(stream)
        assert len(lines) == len(rows) - 1, name
        titles = [title.replace("\u00a0", " ") for title in rows[0]]
        for line, cells in zip(lines, rows[1:], strict=True):
            for at, (title, cell) in enumerate(zip(titles, cells, strict=True)):
                if f"{title}, low" in head or not re.fullmatch(r"[+\u2212]?[\d,]+\.\d\d", cell):
                    continue
                exact = line[head.index(title) if titles.count(title) == 1 else at]
                shown = cell.replace(",", "").replace("\u2212", "-")
                assert f"{float(exact):.2f}" == f"{float(shown):.2f}", (name, title)


def test_every_figure_has_table_picture_and_drawing(everything: Path) -> None:
    page = (everything / "report.html").read_text(encoding="utf-8")
    drawn = re.findall(r'<figure id="figure-([^"]+)">(.*?)<details>', page, re.DOTALL)
    names = [name for name, _ in drawn]
    assert len(names) == len(set(names)) == page.count("<figure") > 15
    for name, drawing in drawn:
        svgs = re.findall(r"<svg.*?</svg>", drawing, re.DOTALL)
        assert svgs
        for one in svgs:
            xml.etree.ElementTree.fromstring(one)  # well-formed
        rows = len(rows_of(everything / "tables" / f"{name}-figure.csv"))
        assert drawing.count("<title>") >= rows or "classes" in name or "spread" in name, (
            f"{name}: a title for each mark"
        )
        assert 'class="axis"' in drawing, f"{name}: an axis without a name"
        assert (everything / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_is_small_and_needs_no_network(runs: Path, tmp_path: Path) -> None:
    report([runs / "plain"], tmp_path / "out", formats="html")
    page = (tmp_path / "out" / "report.html").read_bytes()
    assert len(page) < 200_000
    assert b"http://" not in page
    assert b"https://" not in page


def test_what_users_wrote_is_inert(everything: Path) -> None:
    page = (everything / "report.html").read_text(encoding="utf-8")
    for part in re.split(r"<script>.*?</script>", page, flags=re.DOTALL):  # without our own script
        assert "<script>document" not in part
        assert "<b>bold" not in part
    assert "&lt;script&gt;document.title" in page
    text = (everything / "report.md").read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "<b>" not in text.replace("    ", "")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    assert len(scripts) == 1
    assert "script-src 'sha256-" in page
    assert "default-src 'none'" in page


def test_no_texts_leaves_no_text(everything: Path, runs: Path, tmp_path: Path) -> None:
    report([runs / "plain", runs / "kd"], tmp_path / "without", formats="html,md,csv", texts=False)
    words = ("document.title", "a post &", "a post &amp;", "quotes")
    counts = {}
    for name, folder in (("with", everything), ("without", tmp_path / "without")):
        files = [path for path in folder.rglob("*") if path.suffix in (".html", ".md", ".csv")]
        read_all = "".join(
            re.sub(r"<script>.*?</script>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL) for path in files
        )
        counts[name] = [read_all.count(word) for word in words]
    assert counts["with"][0] > 10
    assert counts["without"] == [0] * len(words)
    assert (tmp_path / "without" / "tables" / "examples-kd.csv").exists()


def test_the_same_folders_give_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        report([runs / "plain"], tmp_path / name)
    first = {path.name: path.read_bytes() for path in (tmp_path / "one").rglob("*") if path.is_file()}
    second = {path.name: path.read_bytes() for path in (tmp_path / "two").rglob("*") if path.is_file()}
    assert first == second
    pictures = {Path(name).stem: form for name, form in first.items() if name.endswith(".pdf")}
    assert len(pictures) >= 4
    assert all(form.startswith(b"%PDF") for form in pictures.values())


def test_study_averages_over_units_and_says_its_state(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    report([study], tmp_path / "out", formats="md,csv")
    pairs = [saved(tmp_path / "runs" / f"kd-{seed}") for seed in range(3)]
    row = next(row for row in rows_of(tmp_path / "out" / "tables" / "metrics.csv") if row["model"] == "kd")
    assert float(row["accuracy %"]) == pytest.approx(100 * np.mean([accuracy_score(*pair) for pair in pairs]))
    counts = sum(confusion_matrix(*pair, labels=LABELS) for pair in pairs)
    cells = [row for row in rows_of(tmp_path / "out" / "tables" / "confusion-figure.csv") if row["model"] == "kd"]
    assert [int(row["rows"]) for row in cells] == counts.reshape(-1).tolist()
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for said in (
        "2 of 3 seeds",
        "cannot reach .05 with 2 seeds",
        "out of memory &lt;b&gt;",
        "State of the study",
        "a note",
    ):
        assert said in text, said
    (subject,) = read.read([study])
    assert {"cells-failed", "incomplete", "unequal-tuning"} <= found_by(subject)


def test_search_ranks_trials_and_draws_the_noise_settings(tmp_path: Path) -> None:
    report([make_search(tmp_path / "search")], tmp_path / "out", formats="csv,md")
    tables = tmp_path / "out" / "tables"
    trials = rows_of(tables / "trials.csv")
    done = [float(row["validation accuracy %"]) for row in trials if row["state"] == "finished"]
    assert done == sorted(done, reverse=True)
    assert next(row["trial"] for row in trials) == "11"
    assert [row["state"] for row in trials][-3:] == ["pruned", "failed", "waiting"], "a pruned value is not ranked"
    noise = rows_of(tables / "noise-figure.csv")
    assert {row["distillation weight"] for row in noise} == {"λ = 0.2", "λ = 0.8"}
    assert len(noise) == 9
    assert max(float(row["accuracy %"]) for row in noise) == pytest.approx(80.8), "pruned trials are left out"
    best = [
        float(row["accuracy %"]) for row in rows_of(tables / "progress-figure.csv") if row["series"] == "best so far"
    ]
    assert best == sorted(best)
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    for said in ("1 pruned, 1 failed, 1 waiting", "1332", "edge of the grid: randout.units"):
        assert said in text.replace("\\", ""), said


def test_a_study_without_its_runs_or_a_result_is_shown(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", arms=("plain", "kd"))
    shutil.rmtree(tmp_path / "runs")
    chapters = sections.build(read.read([study]))
    text = write.markdown(chapters, False)
    assert "was not found, so its details are missing" in text
    assert "### Scores\n" in text
    assert "kd is better than plain" in text
    found = json.loads((study / "study.json").read_text())
    write_json(study / "study.json", found | {"result": None})
    text = write.markdown(sections.build(read.read([study])), False)
    assert "No unit is complete yet" in text
    assert "better than plain" not in text


def test_models_of_other_rows_are_named_and_not_compared(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, name) for name in ("plain", "kd", "randout-kd")]
    path = runs[1] / "predictions" / "test.parquet"
    parquet.write_table(parquet.read_table(path).slice(1), path)
    turned = runs[2] / "predictions" / "test.parquet"
    parquet.write_table(parquet.read_table(turned).take(list(reversed(range(60)))), turned)
    (subject,) = read.read(runs)
    text = write.markdown(sections.build([subject]), False).replace("\\", "")
    assert "kd was not scored on the same test rows" in text
    assert [row.name for row in comparison.result_of(subject).rows] == ["plain", "randout-kd"], "order is no matter"
    right = [np.mean(np.equal(*map(np.array, saved(run)))) for run in (runs[0], runs[2])]
    assert comparison.result_of(subject).rows[1].difference.estimate == pytest.approx(right[1] - right[0])


def found_by(subject: Subject) -> set[str]:
    return {part.code for part in checks.checks(subject).parts if isinstance(part, values.Check)}


def test_checks_find_what_they_are_for(tmp_path: Path) -> None:
    plain = make_run(tmp_path / "plain")
    teacher = make_run(tmp_path / "teacher", "plain", 3, fingerprint="t" * 64, splits=("validation",))
    student = make_run(tmp_path / "kd", "kd", teacher={"name": "teacher", "validation_accuracy": 0.1})
    (subject,) = read.read([plain, student])
    assert found_by(subject) == {"one-seed", "weak-teacher"}
    write_json(teacher / "split.json", {"train": ["1", "95", "96"]})
    opened = [
        {"at": "2026", "run": name, "fingerprint": key, "rows": "r", "split": "test", "by": "evaluate"}
        for name, key in (("plain", "plain0"), ("plain", "plain0"), ("other", "x"))
    ]
    (tmp_path / "test-openings.jsonl").write_text("\n".join(map(json.dumps, opened)) + "\n")
    metrics = json.loads((plain / "metrics.json").read_text())
    metrics["test"]["without_copies"] = metrics["test"] | {"rows": 50}
    metrics["test"]["intervals"]["accuracy"] = [0.1, 0.9]
    write_json(plain / "metrics.json", metrics)
    write_json(
        plain / "history.json", {"epochs": [{"epoch": 1}, {"epoch": 2}], "best_epoch": 2, "ended": "all epochs done"}
    )
    expected = {"teacher-saw-held-out", "test-opened-again", "test-opened-by-others", "leaked-copies", "majority"}
    (subject,) = read.read([plain, student])
    assert found_by(subject) == expected | {"one-seed", "weak-teacher", "still-rising"}
    shown = "".join(str(part) for part in checks.checks(subject).parts)
    assert "the teacher was trained on 2 of the 60 test rows (kd)" in shown.lower()
    write_json(plain / "history.json", {"epochs": [{"epoch": 1}], "best_epoch": 1, "ended": "all epochs done"})
    (subject,) = read.read([plain, student])
    assert "still-rising" not in found_by(subject), "of one epoch, the last is always the best"


def test_openings_are_counted_by_the_rows_of_the_same_test_split(tmp_path: Path) -> None:
    """Openings of other data sets and of other splits are no warning; runs in the report are known however it has them."""
    teacher = make_run(tmp_path / "runs" / "teacher", fingerprint="t" * 64, rows={"test": "r"})
    kd = make_run(tmp_path / "runs" / "kd-0", "kd", teacher={"name": "teacher", "validation_accuracy": 0.9})
    study = make_study(tmp_path / "study", arms=("plain", "kd"), units=2)
    entries = [("kd-0", "kd-00", "r"), ("plain-0", "plain-00", "r"), ("teacher", "t" * 64, "r"), ("away", "a", "r")]
    entries += [("one", "b", "r"), ("one", "b", "r"), *((f"other-{at}", f"o{at}", "elsewhere") for at in range(9))]
    keys = ("run", "fingerprint", "rows")
    lines = [{**dict(zip(keys, entry, strict=True)), "at": "2026", "split": "test", "by": "train"} for entry in entries]
    (tmp_path / "runs" / "test-openings.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    for paths in ([study], [study, teacher], [study, kd, teacher]):
        for subject in read.read(paths):
            (check,) = (c for c in checks.opened_often(subject) if c.code == "test-opened-by-others")
            assert check.explanation.startswith("2 other runs were scored on these test rows"), paths
            assert "(away, one)" in check.explanation  # a teacher of what is shown is known, named or not
    assert "other-3" not in write.markdown(sections.build(read.read([study])), False)


def test_the_same_check_of_several_models_is_one(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, name) for name in ("plain", "kd", "randout-kd")]
    for run in runs:
        metrics = json.loads((run / "metrics.json").read_text())
        metrics["test"]["intervals"]["accuracy"] = [0.1, 0.9]
        write_json(run / "metrics.json", metrics)
    (subject,) = read.read(runs)
    (check,) = (part for part in checks.checks(subject).parts if getattr(part, "code", "") == "majority")
    assert all(f"{run.name}: accuracy" in check.explanation for run in runs)


def test_runs_of_the_same_labelled_rows_are_one_data_set(tmp_path: Path) -> None:
    """One of them also learned from texts without labels, so that the digest of all it read is another."""
    one = make_run(tmp_path / "one", labelled_data="l" * 64)
    more = make_run(tmp_path / "more", "kd", data="e" * 64, labelled_data="l" * 64)
    assert len(read.read([one, more])[0].arms) == 2
    split = {name: name for name in SPLITS}
    for name, extra in (("old", {}), ("old-more", {"unlabeled": "u"}), ("other", {"unlabeled": "u", "test": "x"})):
        run = make_run(tmp_path / name, data=(name[:4] * 16)[:64] if extra else "d" * 64)
        record = json.loads((run / "run.json").read_text())
        record["identity"]["split"] = split | extra
        write_json(run / "run.json", record)
    assert len(read.read([tmp_path / "old", tmp_path / "old-more"])[0].arms) == 2  # of an earlier version: by the split
    with pytest.raises(UserError, match="a report covers one data set"):
        read.read([tmp_path / "old", tmp_path / "other"])


def test_leaks_stand_beside_the_score(tmp_path: Path) -> None:
    plain, kd = make_run(tmp_path / "plain"), make_run(tmp_path / "kd", "kd")
    metrics = json.loads((kd / "metrics.json").read_text())
    metrics["test"]["leaks"] = {"rows": 41, "of": 60, "roles": {"teacher-trained": 41}}
    metrics["test"]["without_leaks"] = metrics["test"] | {"rows": 19, "accuracy": 0.5}
    write_json(kd / "metrics.json", metrics)
    report([plain, kd], tmp_path / "out", formats="md,csv")
    rows = {row["model"]: row for row in rows_of(tmp_path / "out" / "tables" / "summary.csv")}
    assert (rows["kd"]["rows seen before"], rows["plain"]["rows seen before"]) == ("41 of 60", "")
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "he teacher was trained on 41 of the 60 test rows (kd)" in text
    (seen,) = rows_of(tmp_path / "out" / "tables" / "seen.csv")
    assert (seen["rows seen before"], float(seen["without them"])) == ("41", 50.0)


def test_baseline_is_the_one_that_learns_from_labels_alone(runs: Path) -> None:
    paths = [runs / "kd", runs / "plain", runs / "randout-kd"]
    assert read.read(paths)[0].baseline == "plain"
    assert read.read(paths, "kd")[0].baseline == "kd"
    assert [arm.name for arm in read.read(paths, "kd")[0].arms] == ["kd", "plain", "randout-kd"]


def test_compare_and_report_choose_the_same_baseline_and_say_so(tmp_path: Path) -> None:
    runs = [
        comparable(make_run(tmp_path / name, name, seed)) for seed, name in enumerate(("kd", "plain", "randout-kd"))
    ]
    runs = [comparable(run, epochs=at) for at, run in enumerate(runs)]
    said = "The baseline is plain, the first that learns from labels only (another: --baseline)."
    for paths in (runs, runs[::-1], runs[1:]):
        record = study_requests.finished([str(path) for path in paths], study_requests.Asked())
        (subject,) = read.read(paths)
        assert record.baseline == subject.baseline == "plain"
        assert record.result is not None
        assert said in record.result.notes
        assert said in comparison.result_of(subject).notes
    named = study_requests.finished([str(path) for path in runs], study_requests.Asked(baseline="kd"))
    assert not [note for note in named.result.notes if note.startswith("The baseline is")]
    assert not [note for note in read.read(runs, "kd")[0].notes if note.startswith("The baseline is")]


def test_without_a_model_of_labels_the_baseline_teaches_none_of_the_others() -> None:
    def record(name: str, teacher: str | None) -> RunRecord:
        made = RunRecord.model_validate(begun(fingerprint=name))
        made.identity.methods, made.identity.teacher = {"ce": {}, "kd": {}}, teacher
        return made

    one, two = [record("one", "x")], [record("two", "one")]
    assert default_baseline({"one": one, "two": two})[0] == "two"
    assert "teaches none of the others" in default_baseline({"one": one, "two": two})[1]
    assert default_baseline({"two": two, "one": [record("one", "two")]})[0] == "two"
    student = record("student", None)
    student.identity.teacher = GivenTeacher(model="digest of its files")
    student.teacher = UsedTeachers(name="big")
    both = {"teacher": [record("teacher", None)], "student": [student]}
    assert default_baseline(both)[0] == "teacher", "that it is the teacher is not known"
    assert default_baseline(both, {"teacher": ["big"], "student": ["small"]})[0] == "student"


def test_warnings_about_the_table_are_checks(tmp_path: Path) -> None:
    report = DataReport(
        sizes={"train": 3},
        duplicate_groups=2,
        duplicate_rows=4,
        conflicting_groups=1,
        notes=["columns chosen by their names", "warning: t.csv: 3 of 9 rows have no text"],
    )
    (subject,) = read.read([make_run(tmp_path / "plain", data_report=report.model_dump())])
    lead, warning, note = checks.checks(subject).parts
    assert lead == "2 findings from 1 check; 13 of 14 checks found nothing."
    assert (warning.severity, warning.explanation) == ("warning", "t.csv: 3 of 9 rows have no text.")
    assert (note.severity, note.explanation.partition(":")[0]) == ("note", "1 text occurs with different labels")


def test_models_that_changed_between_the_runs_of_a_study_are_a_check(tmp_path: Path) -> None:
    (subject,) = read.read([make_run(tmp_path / "plain")])
    record = ComparisonRecord(
        kind="compare",
        name="s",
        metric="accuracy",
        data=StudyData(sha256=""),
        units=["seed 1", "seed 2"],
        arms=["kd"],
        baseline="kd",
        cells=[],
        warnings=[ArmWarning(arm="kd", kind="models", units=["seed 2"], message="seed 2: not the same encoder")],
        margin=0.02,
        result=None,
    )
    (found,) = (
        one for one in checks.checks(replace(subject, comparison=record)).parts if getattr(one, "code", "") == "models"
    )
    assert (found.severity, found.explanation) == ("warning", "kd: seed 2: not the same encoder")


def test_findings_are_counted_and_not_the_checks_that_made_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "plain")
    (subject,) = read.read([run])
    assert checks.checks(subject).parts == ("All 14 checks passed.",)
    late = [RunWarning(kind=kind, message="m", split="test") for kind in ("unseen", "calibration")]

    def warned(count: int) -> Subject:
        (model,) = subject.models
        metrics = model.metrics.model_copy(update={"warnings": late[:count]})
        return replace(subject, arms=(Arm("plain", (replace(model, metrics=metrics),)),))

    one, two = warned(1), warned(2)
    assert checks.checks(one).parts[0] == "1 finding from 1 check; 13 of 14 checks found nothing."
    assert checks.checks(two).parts[0] == "2 findings from 1 check; 13 of 14 checks found nothing."
    assert len(checks.checks(two).parts) == 3


def test_the_choice_of_a_student_is_shown_with_both_scores(tmp_path: Path) -> None:
    choice = {"chosen": "bag-of-words", "by": "validation", "rows": 400, "metric": "accuracy", "margin": 0.03}
    choice |= {"encoder": {"name": "minilm", "score": 0.61}, "bag-of-words": {"name": "svm", "score": 0.625}}
    run = make_run(tmp_path / "chosen", choice=choice | {"difference": 0.015, "low90": -0.02, "high90": 0.05})
    other = make_run(tmp_path / "kd", "kd")
    report([run, other], tmp_path / "out", formats="md,csv,html")
    found = rows_of(tmp_path / "out" / "tables" / "choice.csv")
    assert [(row["candidate"], row["score %"], row["chosen"]) for row in found] == [
        ("minilm", "61", "no"),
        ("svm", "62.5", "yes"),
    ]
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "## Choice of the student" in text
    assert "svm minus minilm: +1.50 points" in text
    failed = {
        "chosen": "encoder",
        "why": "no text has a word",
        "encoder": {"name": "minilm"},
        "bag-of-words": {"name": "svm"},
    }
    report([make_run(tmp_path / "only", choice=failed)], tmp_path / "out", formats="md")
    assert "because svm cannot be fitted: no text has a word" in (tmp_path / "out" / "report.md").read_text(
        encoding="utf-8"
    )
    report([other], tmp_path / "out", formats="md")
    assert "Choice of the student" not in (tmp_path / "out" / "report.md").read_text(encoding="utf-8")


def test_methods_from_elsewhere_are_marked(tmp_path: Path) -> None:
    plugins = {
        "my-noise": {"package": "noises", "version": "1.2", "sha256": "a" * 64},
        "own": {"file": "own.py", "sha256": "b"},
    }
    report([make_run(tmp_path / "kd", "kd", plugins=plugins)], tmp_path / "out", formats="md,csv")
    found = [(row["method"], row["from"]) for row in rows_of(tmp_path / "out" / "tables" / "other-methods.csv")]
    assert found == [("my-noise", "package noises 1.2"), ("own", "file own.py")]
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "Not built into randout: my-noise (package noises 1.2), own (file own.py)." in text


@pytest.mark.parametrize("size", [2, 8, 30])
def test_labels_of_a_matrix_are_distinct_and_clear_of_its_axes(size: int) -> None:
    names = [f"{8 * 'WWWW'} long name of a class {at} {9 * chr(0x4E2D)}" for at in range(size)]
    cells = tuple(("a", true, made, 1 / size, 1) for true in names for made in names)
    columns = tuple(values.Column(title) for title in ("model", "true", "predicted"))
    columns += (values.Column("share", "percent"), values.Column("rows", "count"))
    roles = {"panel": "model", "row": "true", "column": "predicted", "value": "share", "count": "rows"}
    figure = values.Figure("m", "m", "matrix", values.Table("m", "m", columns, cells), roles)
    root = xml.etree.ElementTree.fromstring(svg.svg(figure))
    texts = list(root.iter("text"))
    axes = {one.text: one for one in texts if one.get("class") == "axis"}
    assert axes.keys() == {"true", "predicted"}
    first = min(float(one.get("y", 0)) for one in root.iter("rect"))
    assert all(float(one.get("y", 0)) < first - 6 for one in axes.values()), "above every cell and name"
    named = [one for one in texts if one.text and one.get("class") != "axis" and not re.fullmatch(r"[\d.]+", one.text)]
    assert min(float(one.get("y", 0)) for one in named) > first
    assert len({one.text for one in named}) == size
    rows = [one for one in named if one.get("transform") is None]
    assert len(rows) == size
    for one in rows:
        assert one.text
        assert float(one.get("x", 0)) > 12 * cell_len(one.text) / 2, "the name begins inside of the drawing"


def test_runs_are_compared_by_the_metric_they_were_selected_by(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, name) for name in ("plain", "kd")]
    for run in runs:
        record = json.loads((run / "run.json").read_text())
        record["identity"]["train"] |= {"metric": "macro_f1"}
        write_json(run / "run.json", record)
    (subject,) = read.read(runs)
    rows = comparison.result_of(subject).rows
    assert [row.value for row in rows] == pytest.approx([f1_score(*saved(run), average="macro") for run in runs])


@pytest.mark.parametrize("refit", [(False, True), (True, True), (False, False)])
def test_a_comparison_says_that_only_one_model_was_refitted(refit: tuple[bool, bool], tmp_path: Path) -> None:
    sizes = {"sizes": {"train": 280, "validation": 60, "test": 60}}
    runs = [comparable(make_run(tmp_path / name, name, data_report=sizes)) for name in ("plain", "kd")]
    for run, again in zip(runs, refit, strict=True):
        with_history(run, [1, 2], refit=again)
    report(runs, tmp_path / "out", formats="md")
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    said = "because of the refit (plain: 280 training rows; kd: 340 training and validation rows)."
    assert (said in text) is (refit == (False, True))
    assert text.count("different numbers of labelled rows") == (refit == (False, True))
    compared = study_requests.finished([str(path) for path in runs], study_requests.Asked()).result
    assert compared is not None
    assert any("different numbers of labelled rows" in note for note in compared.notes) is (refit == (False, True))


@pytest.mark.parametrize("losses", [(1.0, 1.0), (1.0, 9.0)])
def test_a_log_loss_above_that_of_equal_probabilities_is_told(losses: tuple[float, ...], tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, name) for name in ("plain", "kd")]
    for run, loss in zip(runs, losses, strict=True):
        metrics = json.loads((run / "metrics.json").read_text())
        metrics["test"]["log_loss"] = loss
        write_json(run / "metrics.json", metrics)
    (subject,) = read.read(runs)
    note = scores.overview(subject).note
    assert "plain: log loss" not in note
    assert ("kd: log loss is worse than that of equal probabilities" in note) is (losses[1] > 2)


def with_history(run: Path, validated: list[int], **train: Any) -> Path:
    """Give a run validations at these epochs, and training settings."""
    rows = [
        {"epoch": at, "loss_ce": 1 / at, "validation_accuracy": 0.5 + 0.01 * at, "seconds": 1.0} for at in validated
    ]
    write_json(run / "history.json", {"epochs": rows, "best_epoch": validated[-1], "ended": "all epochs done"})
    record = json.loads((run / "run.json").read_text())
    record["identity"]["train"] |= train
    write_json(run / "run.json", record)
    return run


def curve_points(folder: Path, model: str) -> dict[int, float]:
    """Epoch and value of each point of a model's validation curve, from the report's CSV file."""
    rows = rows_of(folder / "tables" / "learning-figure.csv")
    found = [row for row in rows if row["model"] == model and row["curve"].startswith("validation")]
    return {int(row["epoch"]): float(row["value"]) for row in found}


def test_learning_curves_are_drawn_at_the_epochs_of_their_validations(tmp_path: Path) -> None:
    often = with_history(make_run(tmp_path / "often", "plain"), [1, 2, 3])
    seldom = with_history(make_run(tmp_path / "seldom", "kd"), [2, 4, 6, 7], validate_every=2)
    report([often, seldom], tmp_path / "out", formats="html,csv")
    assert curve_points(tmp_path / "out", "often") == pytest.approx({1: 51, 2: 52, 3: 53})
    assert curve_points(tmp_path / "out", "seldom") == pytest.approx({2: 52, 4: 54, 6: 56, 7: 57})


def test_a_model_fitted_in_one_step_has_no_learning_curve(tmp_path: Path) -> None:
    words, encoder = with_history(make_run(tmp_path / "words", "plain"), [1]), make_run(tmp_path / "encoder", "kd")
    write_json(words / "history.json", json.loads((words / "history.json").read_text()) | {"ended": "fitted"})
    report([words], tmp_path / "alone", formats="md")
    text = (tmp_path / "alone" / "report.md").read_text(encoding="utf-8")
    assert "Learning" not in text
    assert "Bag-of-words baselines (words) give scores that rank the classes, not probabilities." in text
    report([words, with_history(encoder, [1, 2])], tmp_path / "out", formats="html,csv")
    assert curve_points(tmp_path / "out", "words") == {}
    assert curve_points(tmp_path / "out", "encoder") == pytest.approx({1: 51, 2: 52})


def test_learning_curves_average_units_at_the_same_epoch(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study")
    for seed, validated in enumerate(([2, 4], [2, 4, 5], [4, 5])):
        run = with_history(tmp_path / "runs" / f"kd-{seed}", validated)
        history = json.loads((run / "history.json").read_text())
        for row in history["epochs"]:
            row["validation_accuracy"] = 0.1 * (seed + 1)
        write_json(run / "history.json", history)
    report([study], tmp_path / "out", formats="csv")
    assert curve_points(tmp_path / "out", "kd") == pytest.approx({2: 15, 4: 20, 5: 25})


@pytest.mark.parametrize(
    ("trains", "said"),
    [
        (({}, {"keep": "best"}), "If it falls, the weights of the best epoch are kept."),
        (({"keep": "last"},) * 2, "If it falls, the last weights are kept, not those of the best epoch."),
        (({}, {"keep": "last"}), "the weights of the best epoch are kept (the last weights for other)."),
        (({"refit": True},) * 2, "The curves show the training before the refit on training and validation rows."),
        (({}, {"refit": True}), "The curves of other show the training before the refit"),
    ],
)
def test_the_caption_of_learning_curves_says_which_weights_are_kept(trains: Any, said: str, tmp_path: Path) -> None:
    names = ("base", "other")
    runs = [with_history(make_run(tmp_path / name, kind), [1, 2], **train)
            for name, kind, train in zip(names, ("plain", "kd"), trains, strict=True)]  # fmt: skip
    report(runs, tmp_path / "out", formats="md")
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert said in text
    assert ("refit" in text) == any("refit" in train for train in trains)


def test_the_cost_includes_the_refit(tmp_path: Path) -> None:
    runs = [with_history(make_run(tmp_path / name, kind), [1, 2]) for name, kind in (("one", "plain"), ("two", "kd"))]
    history = json.loads((runs[1] / "history.json").read_text())
    write_json(runs[1] / "history.json", history | {"refit_seconds": 7.5})
    (subject,) = read.read(runs)
    section = runs_table.cost(subject)
    assert section is not None
    time, others = (part for part in section.parts if isinstance(part, values.Table))
    place = [column.title for column in time.columns].index("refit, seconds")
    assert [row[place] for row in time.rows] == [None, 7.5]
    assert ("total training time, seconds", 2 * 2.0 + 7.5) in others.rows


def test_the_caption_of_learning_curves_reads_a_loss_downward(tmp_path: Path) -> None:
    search = make_search(tmp_path / "search")
    write_json(search / "study.json", json.loads((search / "study.json").read_text()) | {"metric": "log_loss"})
    (subject,) = read.read([search])
    section = scores.learning(subject)
    assert section is not None
    assert section.parts[0].note.startswith(
        "If a validation curve still falls at its end, more epochs may help. If it rises"
    )


def comparable(run: Path, **train: Any) -> Path:
    """Add to the identity of a run what `randout compare` needs."""
    record = json.loads((run / "run.json").read_text())
    record["identity"] |= {"split": {"test": "e" * 64}, "student": {"weights": "w"}, "train": {"seed": 1} | train}
    write_json(run / "run.json", record)
    return run


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "balanced_accuracy"])
def test_compare_and_report_give_the_same_statistics(metric: str, tmp_path: Path) -> None:
    """Two runs, then three as one family, in every order of the others."""
    plain, kd, both = (comparable(make_run(tmp_path / name, name, seed), metric=metric, epochs=seed + 1)
                       for seed, name in enumerate(("plain", "kd", "randout-kd")))  # fmt: skip
    for runs in ([plain, kd], [kd, plain], [plain, kd, both], [both, plain, kd]):
        record = study_requests.finished([str(run) for run in runs], study_requests.Asked(baseline=str(plain)))
        (subject,) = read.read(runs)
        compared = {row.value: row for row in record.result.rows}
        reported = {row.value: row for row in comparison.result_of(subject).rows}
        assert record.metric == subject.metric == metric
        assert len(reported) == len(runs)
        assert compared.keys() == reported.keys()
        for value, row in reported.items():
            for key in ("low", "high", "difference", "adjusted_p", "words", "detectable", "secondary"):
                assert getattr(row, key) == getattr(compared[value], key), key


def test_a_run_without_history_or_test_split_is_shown(tmp_path: Path) -> None:
    """A classifier without epochs, as scikit-learn's."""
    run = make_run(tmp_path / "svm", splits=("validation",))
    (run / "history.json").unlink()
    shutil.rmtree(run / "predictions")
    report([run], tmp_path / "out", formats="md")
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "Scores on the validation split" in text
    assert "Learning" not in text


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda run: (run / "run.json").unlink(), "incomplete run"),
        (lambda run: write_json(run / "run.json", {"format": 0}), "format 0; this version reads format 1"),
        (lambda run: write_json(run / "run.json", json.loads((run / "run.json").read_text()) | {"finished": None}), "--resume"),
        (lambda run: (run / "metrics.json").unlink(), "no metrics.json"),
        (lambda run: (run / "metrics.json").write_text("{"), "cannot be read"),
        (lambda run: (run / "run.toml").write_text("= ="), "cannot be read"),
        (lambda run: (run / "predictions" / "test.parquet").write_bytes(b"PAR1 no"), "predictions of this run"),
        (lambda run: write_json(run / "study.json", {"format": 9}), "the study folder has format 9"),
        (lambda run: write_json(run / "study.json", {"format": 1, "kind": "poll"}), "kind 'poll'"),
        (shutil.rmtree, "no such folder"),
        (lambda run: [shutil.rmtree(run), run.mkdir()], "not a run (run.json)"),
    ],
)  # fmt: skip
def test_bad_folders_are_said(spoil: Any, said: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    spoil(run)
    with pytest.raises(UserError, match=re.escape(said)):
        report([run], tmp_path / "out", formats="md")
    assert not (tmp_path / "out").exists()


def test_mixed_data_sets_name_both(tmp_path: Path) -> None:
    one, other = make_run(tmp_path / "one"), make_run(tmp_path / "other", data="e" * 64)
    (other / "run.toml").write_text('[data]\nsource = "rhmd:/a/b.csv"\n')
    with pytest.raises(UserError, match=r"'posts.csv'.*'rhmd'.*Create a report for each"):
        report([one, other], tmp_path / "out")


def test_nothing_but_a_report_is_overwritten(tmp_path: Path) -> None:
    run, out = make_run(tmp_path / "run"), tmp_path / "out"
    report([run], out, formats="md,csv")
    report([run], out, formats="md")
    assert sorted(path.name for path in out.rglob("*")) == ["report.json", "report.md"], (
        "what is no longer made is gone"
    )
    (out / "mine.txt").write_text("kept")
    with pytest.raises(UserError, match=r"mine.txt.*not written by a report"):
        report([run], out, formats="md")
    (out / "mine.txt").unlink()
    (out / "report.md").write_text("edited")
    with pytest.raises(UserError, match=r"report.md was changed after"):
        report([run], out, formats="md")
    assert (out / "report.md").read_text() == "edited"
    with pytest.raises(UserError, match="not written by a report"):
        report([run], run, formats="md")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="this is a file"):
        report([run], tmp_path / "file", formats="md")
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")], "nothing half-written is left"


def test_a_failed_write_leaves_the_old_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, out = make_run(tmp_path / "run"), tmp_path / "out"
    report([run], out, formats="md")
    before = (out / "report.md").read_bytes()
    rename = Path.rename

    def broken(self: Path, target: Path) -> Path:
        if Path(target) == out and not self.name.endswith(".old"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", broken)
    with pytest.raises(Exception, match="No space left"):
        report([run], out, formats="md")
    assert (out / "report.md").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


def test_the_command(runs: Path, tmp_path: Path, command: Run) -> None:
    code, out, _ = command(
        "report", runs, "-o", tmp_path / "out", "--formats", "md,csv", "--no-texts", "--baseline", "kd"
    )
    assert (code, out.strip()) == (0, str(tmp_path / "out" / "report.md"))
    shown = {row["model"]: row["folder"] for row in rows_of(tmp_path / "out" / "tables" / "folders.csv")}
    assert shown == {name: name for name in ("plain", "kd", "randout-kd")}
    assert command("report", runs, "-o", tmp_path / "no", "--formats", "docx")[0] == 2
    code, _, error = command("report", runs, "-o", tmp_path / "no", "--baseline", "plian")
    assert code == 2
    assert "Did you mean 'plain'" in error


def open_in_browser(page: Path, folder: Path, *more: str) -> tuple[str, list[str]]:
    """The page's DOM after its scripts ran, and what it said on the console; skips where no browser is installed."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        pytest.skip("no browser to open the report in: install chromium (apt-get install chromium) or Google Chrome")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--dump-dom"]
    options += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000", f"--user-data-dir={folder}"]
    done = subprocess.run(
        [browser, *options, *more, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_the_browser_shows_labels_as_they_are_and_fetches_nothing(everything: Path, tmp_path: Path) -> None:
    dom, console = open_in_browser(everything / "report.html", tmp_path)
    assert console == []
    assert "<title>taken" not in dom
    assert "&lt;b&gt;bold&lt;/b&gt;" in "".join(re.findall(r"<text[^>]*>.*?</text>", dom))
    assert re.findall(r'(?:src|href|xlink:href|url\()\s*=?\s*["\']?(https?:[^"\')\s]+)', dom) == []


@pytest.mark.parametrize("width", [1300, 390])
def test_nothing_scrolls_sideways_or_is_cut(everything: Path, tmp_path: Path, width: int) -> None:
    """No element ends right of the page, and no table is wider than its place. Texts in <pre> scroll by themselves."""
    measure = """
      <iframe id=page style="border:0; width:WIDTHpx; height:5000px" src="SOURCE"></iframe><pre id=found></pre><script>
      page.onload = () => {
        const all = Array.from(page.contentDocument.querySelectorAll("main *"));
        const wide = all.filter(one => !one.closest("pre") && one.getBoundingClientRect().right > WIDTH + 0.5);
        const scrolling = all.filter(one => one.matches(".scroll") && one.scrollWidth > one.clientWidth + 1);
        const named = [...wide, ...scrolling].map(one => one.tagName + " " + one.textContent.trim().slice(0, 40));
        found.textContent = "measured " + all.length + ": " + JSON.stringify(named);
      }</script>"""
    measure = measure.replace("WIDTH", str(width)).replace("SOURCE", (everything / "report.html").as_uri())
    (tmp_path / "measure.html").write_text(measure, encoding="utf-8")
    dom, _ = open_in_browser(tmp_path / "measure.html", tmp_path / "profile", "--allow-file-access-from-files")
    found = re.search(r"measured (\d+): (.*?)</pre>", dom)
    assert found is not None
    assert int(found[1]) > 1000
    assert found[2] == "[]"


def test_the_browser_check_can_fail(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text("<!doctype html><script>console.error('broken'); null.x</script>")
    _, console = open_in_browser(page, tmp_path / "profile")
    assert len(console) == 2


def test_many_models_classes_and_odd_values_are_drawn() -> None:
    """Twenty classes, a class without rows, a model without an interval, one point on a curve."""
    from randout.reporting.pictures import draw_picture
    from randout.reporting.pictures import to_bytes as bytes_of

    columns = tuple(values.Column(*one) for one in (("m",), ("t",), ("p",), ("v", "percent"), ("n", "count")))
    names = [f"class {at} of a long-winded scheme $x_{at}$" for at in range(20)]
    cells = tuple(("m", a, b, None if a == names[0] else 0.05, 1) for a in names for b in names)
    matrix = values.Figure("x", "x", "matrix", values.Table("x", "x", columns, cells),
                           {"panel": "m", "row": "t", "column": "p", "value": "v", "count": "n"})  # fmt: skip
    points = values.Table(
        "y",
        "y",
        (values.Column("s"), values.Column("x", "count"), values.Column("y", "percent")),
        (("a", 1, 0.5), ("b", 1, None)),
    )
    curve = values.Figure("y", "y", "lines", points, {"series": "s", "x": "x", "y": "y"})
    for figure in (matrix, curve):
        drawing = svg.svg(figure)
        xml.etree.ElementTree.fromstring(f"<div>{drawing}</div>")
        assert "nan" not in drawing
        assert bytes_of(draw_picture(figure), "png").startswith(b"\x89PNG")


def test_sections_have_names_of_their_own(everything: Path, runs: Path) -> None:
    chapters = sections.build(read.read([runs]))
    names = [section.name for chapter in chapters for section in chapter.sections]
    assert len(names) == len(set(names))
    page = (everything / "report.html").read_text(encoding="utf-8")
    links = re.findall(r'<a href="#([^"]+)">', page)
    assert len(links) == len(set(links)) == page.count("<section id=")
    assert all(f'<section id="{link}">' in page for link in links)


def test_a_teacher_that_was_there_already_is_counted_as_one(tmp_path):
    """Its identity is a table, where a teacher trained on the way is known by its run's fingerprint."""
    runs = [make_run(tmp_path / "runs" / name) for name in ("a", "b")]
    for path in runs:
        record = json.loads((path / "run.json").read_text())
        record["identity"]["teacher"] = {"model": "0" * 64, "labels": [], "max_length": "auto", "truncation": "head"}
        (path / "run.json").write_text(json.dumps(record))
    page = next(path for path in report(runs, tmp_path / "out", formats="md") if path.name == "report.md")
    assert "| teachers | 1 |" in page.read_text(encoding="utf-8")


def test_student_and_teacher_stand_side_by_side(tmp_path: Path) -> None:
    ends = {"verdict": "worse", "difference": -0.1, "low": -0.15, "high": -0.05}
    gap = {"rows": 30, "margin": 0.02, "student_accuracy": 0.7, "teacher_accuracy": 0.8, **ends}
    gap["primary"] = {"metric": "macro_f1", "student": 0.5, "teacher": 0.45, **ends, "verdict": "matches"}
    sizes = {"student": {"parameters": 1234, "texts_per_second": 50.5}, "teacher": {"parameters": 5678}}
    kd = make_run(tmp_path / "kd", "kd", teacher={"name": "big"}, sizes=sizes)
    metrics = json.loads((kd / "metrics.json").read_text())
    metrics["validation"]["teacher"] = gap
    write_json(kd / "metrics.json", metrics)
    report([make_run(tmp_path / "plain"), kd], tmp_path / "out", formats="md,csv,html")
    primary, accuracy = rows_of(tmp_path / "out" / "tables" / "student-teacher.csv")
    assert (primary["model"], primary["teacher"], primary["metric"]) == ("kd", "big", "macro F1")
    assert (primary["student %"], primary["teacher %"]) == ("50", "45")
    assert primary["verdict"] == "matches the teacher (worse by less than 2 points)"
    assert (accuracy["metric"], accuracy["verdict"], accuracy["rows"]) == (
        "accuracy",
        "worse than the teacher",
        "30",
    )
    assert float(accuracy["its 95 % interval, low"]) == pytest.approx(-15)
    (size,) = rows_of(tmp_path / "out" / "tables" / "student-teacher-size.csv")
    assert (size["student parameters"], size["teacher parameters"]) == ("1234", "5678")
    assert "teacher texts per second" not in size
    assert "Student and teacher" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    report([make_run(tmp_path / "alone")], tmp_path / "none", formats="md")
    assert "Student and teacher" not in (tmp_path / "none" / "report.md").read_text(encoding="utf-8")


def test_a_score_without_an_interval_says_why(tmp_path: Path) -> None:
    run = make_run(tmp_path / "one", identity={"data": {"sha256": "d" * 64, "labels": LABELS}, "teacher": None,
                                               "split": {}, "student": {"weights": "w"}, "methods": {"ce": {}},
                                               "train": {"seed": 1, "metric": "balanced_accuracy"}})  # fmt: skip
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["test"]["intervals"]["balanced_accuracy"]
    metrics["test"]["no_interval"] = {"balanced_accuracy": "all rows are predicted 'c'"}
    write_json(run / "metrics.json", metrics)
    report([run], tmp_path / "out", formats="md")
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "no interval for its balanced accuracy: all rows are predicted 'c'." in text
