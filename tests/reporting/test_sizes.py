"""The section on a ladder of sizes: the verdict in words, the table, and the figure in both drawings."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from randout.reporting import report
from randout.reporting.pictures import draw_picture, label_places, log_ticks, scatter_range, to_bytes
from randout.reporting.shrink import figure, lines, result, table, verdict
from randout.reporting.svg import svg
from randout.reporting.values import format_cell
from randout.storage.study_record import ArmWarning, Cost, LadderForm, LadderRung, MarginTest, ShrinkRecord, StudyData


def margin_test(low: float, verdict: str = "undecided", **changes: Any) -> MarginTest:
    made = {
        "accuracy": 0.88, "reference": 0.9, "margin": 0.01, "estimate": low + 0.02, "low": low, "high": low + 0.04,
        "standard_error": 0.012, "disagreement": 0.06, "rows": 500, "groups": 500, "equal_groups": 500.0,
        "verdict": verdict, "needed": 4321, "needed_if_equal": 3709,
    }  # fmt: skip
    return MarginTest.model_validate(made | changes)


@pytest.fixture
def record() -> ShrinkRecord:
    rungs = [LadderRung(name="teacher", kind="teacher", student="big", layers=12, depth=12)]
    rungs += [LadderRung(name=f"{n} layers", kind="encoder", student="small", layers=n, depth=6) for n in (3, 6)]
    rungs.append(LadderRung(name="bag of words", kind="words", student="svm"))

    def form(rung: str, kind: Any, latency: float, test: MarginTest | None, **changes: Any) -> LadderForm:
        cost = Cost(latency=latency, latency95=2 * latency, throughput=1 / latency, memory=10**7, texts=50, rounds=3)
        name = rung if kind == "arrays" else f"{rung}, {kind}"
        size = round(1e9 * latency)
        made: dict[str, Any] = {"name": name, "rung": rung, "form": kind, "folder": "x", "size": size, "cost": cost}
        return LadderForm.model_validate(made | {"validation": test} | changes)

    forms = [
        form("teacher", "torch", 0.1, None),
        form("teacher", "int8", 0.04, margin_test(-0.03)),
        form("3 layers", "int8", 0.004, margin_test(-0.008, "confirmed", accuracy=0.91)),
        form("3 layers", "torch", 0.02, margin_test(-0.02), trimmed=True),
        form("6 layers", "torch", 0.03, margin_test(-0.02)),
        form("bag of words", "arrays", 0.0002, margin_test(-0.2, "refuted", accuracy=0.7)),
    ]
    return ShrinkRecord(
        kind="shrink", name="sizes", data=StudyData(sha256=""), teacher="big", margin=0.01, by="latency", rows=500,
        rungs=rungs, forms=forms, chosen="3 layers, int8", notes=["a note"],
    )  # fmt: skip


def test_the_result_names_the_choice_and_what_it_saves(record: ShrinkRecord) -> None:
    text = " ".join(result(record))
    assert "3 layers, int8 was chosen as the cheapest of 6 forms that is not worse than the teacher by 1 point" in text
    assert "4.0 ms per text instead of 100.0 (about 25 times as fast), and 4.0 MB" in text
    assert "was not scored" in text
    record.tested, record.test = record.chosen, margin_test(-0.03)
    assert "the match is undecided" in " ".join(result(record))


def test_the_teachers_own_form_is_named_where_it_is_closer_than_the_nearest_student(record: ShrinkRecord) -> None:
    record.chosen, record.nearest = None, "6 layers, torch"
    assert "Of the teacher's own forms" not in " ".join(result(record))  # its lower bound is lower
    own = record.form("teacher, int8")
    assert own is not None
    own.validation = margin_test(-0.006, estimate=-0.002, reason="rows worth 125 independent ones")
    text = " ".join(result(record))
    assert "6 layers, torch comes closest" in text
    assert (
        "Of the teacher's own forms, teacher, int8 is closest: accuracy 88.00 % against 90.00 %, difference -0.20"
        in text
    )
    assert "(rows worth 125 independent ones)" in text


def test_small_quantities_keep_their_digits(record: ShrinkRecord) -> None:
    record.chosen = "bag of words"
    chosen = record.form(record.chosen)
    assert chosen is not None
    assert chosen.cost is not None
    chosen.cost.latency, chosen.size = 0.0298e-3, 20_400
    text = " ".join(result(record))
    assert "0.03 ms per text instead of 100.0 (about 3,400 times as fast), and 0.02 MB on disk instead of 100.0" in text
    assert any("0.03" in line.split() and "0.02" in line.split() for line in lines(record))
    chosen.cost.latency = 0.4
    assert "400.0 ms per text instead of 100.0 (0.25 times as fast)" in " ".join(result(record))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0.0"),
        (0.0298, "0.03"),
        (0.0996, "0.1"),
        (0.25, "0.25"),
        (1.04, "1.0"),
        (1234.56, "1,234.6"),
        (3e-5, "0.00003"),
    ],
)
def test_measured_quantities_have_two_significant_digits(value: float, shown: str) -> None:
    assert format_cell(value, "rounded") == shown


def test_a_weak_teacher_and_a_choice_that_learned_nothing_limit_the_result(record: ShrinkRecord) -> None:
    assert "see the warnings" not in " ".join(result(record))
    record.warnings = [
        ArmWarning(arm="6 layers", kind="one-class", units=["seed 1"], message="The model predicts 'a'.")
    ]
    assert "see the warnings" not in " ".join(result(record))  # of a form that is not chosen
    record.warnings += [
        ArmWarning(arm="3 layers", kind="one-class", units=["seed 1"], message="The model predicts 'a'.")
    ]
    record.warnings += [ArmWarning(arm="teacher", kind="weak-teacher", units=[], message="The teacher big is weak.")]
    for tested in (None, record.chosen):
        record.tested, record.test = tested, margin_test(-0.005, "confirmed") if tested else None
        assert result(record)[-2:] == [
            "This says little, because the teacher is weak: see the warnings.",
            "3 layers, int8 learned little or nothing: see the warnings.",
        ]


def test_without_a_choice_the_nearest_is_named_with_the_rows_it_takes(record: ShrinkRecord) -> None:
    record.chosen, record.nearest = None, "6 layers, torch"
    text = " ".join(result(record))
    assert (
        "No form is shown to be not worse than the teacher by 1 point on 500 validation rows. 6 layers, torch" in text
    )
    assert "About 4,321 validation rows would decide it" in text


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (margin_test(-0.005, "confirmed"), "the match is confirmed: 3 layers is not worse than the teacher by 1 point"),
        (
            margin_test(-0.08, "refuted"),
            "the match is refuted: 3 layers is worse than the teacher by more than 1 point",
        ),
        (margin_test(-0.02), "they would confirm it if the difference stays as it is; about 3,709 if both"),
        (margin_test(-0.035), "they would refute it if the difference stays"),
        (margin_test(-0.03, needed=None), "no number of test rows would decide it; about 3,709"),
        (margin_test(-0.03, reason="20 groups, at least 300 are needed"), "(20 groups, at least 300 are needed)"),
    ],
)
def test_the_verdict_in_words(found: MarginTest, words: str) -> None:
    text = " ".join(verdict(found, "3 layers"))
    assert words in text
    assert ("would decide it" in text) == (found.verdict == "undecided")


def test_the_table_is_ordered_by_cost(record: ShrinkRecord) -> None:
    rows = table(record).rows
    assert [row[0] for row in rows] == [form.name for form in sorted(record.forms, key=lambda one: one.size)]
    assert [row[1] for row in rows if row[0] in ("teacher, torch", "3 layers, int8")] == [
        "not worse, chosen",
        "the teacher",
    ]
    printed = lines(record)
    assert len(printed[0].split()) > 10
    assert printed[-1] == "note: a note"
    record.by = "throughput"
    assert table(record).rows[0][0] == "bag of words"


def test_both_drawings_show_the_points_the_margin_and_the_choice(record: ShrinkRecord) -> None:
    shown = figure(record)
    assert shown is not None
    names = shown.table.column("form")
    assert len(names) == len(record.forms)
    low, high, bottom, top = scatter_range(shown)
    assert low < 0.2 < 100 < high
    assert bottom < 70 < 90 < top
    drawing = ET.fromstring(f"<div>{svg(shown)}</div>")
    kinds = [element.get("class") for element in drawing.iter()]
    assert kinds.count("ring") == kinds.count("band") == kinds.count("zero") == 1
    (band,) = (element for element in drawing.iter("rect") if element.get("class") == "band")
    (level,) = (element for element in drawing.iter("line") if element.get("class") == "zero")
    assert float(band.get("y", "")) == pytest.approx(float(level.get("y1", "")))
    heights = [float(circle.get("cy", "")) for circle in drawing.iter("circle")]
    step = (max(heights) - min(heights)) / (91 - 70)  # pixels of a point of accuracy
    assert float(band.get("height", "")) == pytest.approx(step, rel=0.02)
    labels = [element.text or "" for element in drawing.iter("text")]
    assert {"3", "6", "int8", "torch"} <= set(labels)
    assert to_bytes(draw_picture(shown), "png")[:4] == b"\x89PNG"
    record.by = "size"
    by_size = figure(record)
    assert by_size is not None
    assert by_size.axis("x") == "MB on disk"
    assert len(by_size.table.rows) == len(record.forms)
    record.forms = record.forms[:1]
    assert figure(record) is None


def test_a_study_without_a_student_to_show_has_a_report(record: ShrinkRecord, tmp_path: Path) -> None:
    """The teacher's own int8 form is chosen, or nothing is trained yet."""
    record.chosen = "teacher, int8"
    messages = {"6 layers": "The model predicts 'a'.", "3 layers": "The model predicts 'a'."}
    record.warnings = [ArmWarning(arm=arm, kind="one-class", units=[], message=text) for arm, text in messages.items()]
    record.warnings.append(ArmWarning(arm="teacher", kind="weak-teacher", units=[], message="The teacher big is weak."))
    begun = ShrinkRecord(format=1, kind="shrink", name="begun", data=StudyData(sha256=""), rungs=record.rungs, cells=[])
    for name, study in (("whole", record), ("begun", begun)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "study.json").write_text(json.dumps({"format": 1} | study.as_json()), encoding="utf-8")
        report([tmp_path / name], tmp_path / f"{name}-report", formats="md,csv")
    text = (tmp_path / "whole-report" / "report.md").read_text(encoding="utf-8")
    assert "6 layers, 3 layers: The model predicts 'a'." in text
    assert "2 findings from 2 checks" in text
    assert "teacher, int8 was chosen as the cheapest of 6 forms" in text
    assert "No result yet" in (tmp_path / "begun-report" / "report.md").read_text(encoding="utf-8")


def test_labels_of_points_avoid_each_other_and_the_line() -> None:
    points = [(100.0, 100.0), (103.0, 100.0), (300.0, 58.0), (400.0, 200.0), (500.0, 200.0)]
    first, second, under, free, ringed = label_places(points, ["1", "2", "int8", "3", "6"], [False] * 4 + [True], 48.0)
    assert first == free == (0.0, -8.0, "middle")
    assert second != first
    assert under[1] > 0  # above it is the line
    assert ringed == (0.0, -13.0, "middle")


def test_a_ring_at_100_percent_is_inside_the_picture(record: ShrinkRecord) -> None:
    chosen = record.form(record.chosen)
    assert chosen is not None
    assert chosen.validation is not None
    chosen.validation.accuracy = 1.0
    shown = figure(record)
    assert shown is not None
    assert scatter_range(shown)[3] > 102
    drawing = ET.fromstring(f"<div>{svg(shown)}</div>")
    (ring,) = (element for element in drawing.iter("circle") if element.get("class") == "ring")
    assert float(ring.get("cy", "")) - float(ring.get("r", "")) > 0
    assert not {"102", "105", "110"} & {element.text for element in drawing.iter("text")}


def test_ticks_of_a_logarithmic_axis_are_round() -> None:
    assert log_ticks(0.15, 60) == pytest.approx([0.2, 0.5, 1, 2, 5, 10, 20, 50])
    assert log_ticks(2.5, 5.5) == pytest.approx([3, 4, 5])
